"""The audit: bags with each fault planted, and clean ones that are not flagged."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from helpers import PERIOD, START, Raw, goal_message, restamped, small_contract

from rl_ros.cli import main
from rl_ros.contract import Contract, Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.audit import Audit, EpisodeAudit, Level, audit, audit_episode, audit_set, value_ages
from rl_ros.episodes.bags import Bag, RawMessage
from rl_ros.episodes.ingest import EVENTS, read_episode
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.pages import OPEN_ROWS, text_table
from rl_ros.episodes.record import EpisodeFile, EpisodeRecorder
from rl_ros.training.live import run_episodes

TICKS = 20


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def clean(contract: Contract, seed: int = 0, ticks: int = TICKS) -> Episode:
    """An arm that moves, with the noise of real sensors."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0.0, 0.01, (ticks, 3)), axis=0)
    last = np.arange(ticks) == ticks - 2
    gripper = (np.arange(ticks) < ticks // 2).astype(np.float32)
    return Episode(
        stamps=START + np.arange(ticks) * PERIOD,
        observation={
            "image": rng.integers(0, 256, (ticks, *contract.observation["image"].shape), np.uint8),
            "tool_position": (np.array([0.5, 0.0, 0.2]) + walk).astype(np.float32),
            "finger_position": rng.normal(0.03, 0.005, (ticks, 2)).astype(np.float32),
        },
        auxiliary={"object_position": (rng.normal(0.4, 0.05, 3) + 0.1 * walk).astype(np.float32)},
        desired_goal=np.full((ticks, 1), 0.1, np.float32),
        action=np.concatenate([rng.uniform(-0.12, 0.12, (ticks, 3)), gripper[:, None]], axis=1).astype(np.float32),
        reward=last.astype(np.float32),
        terminated=last,
        truncated=np.zeros(ticks, bool),
        has_transition=np.arange(ticks) < ticks - 1,
        outcome="success",
        seed=seed,
        source="memory",
    )


Fault = Callable[[Episode], Episode]


def observing(name: str, change: Callable[[np.ndarray], None]) -> Fault:
    def plant(episode: Episode) -> Episode:
        values = episode.observation[name].copy()
        change(values)
        return dataclasses.replace(episode, observation={**episode.observation, name: values})

    return plant


def acting(change: Callable[[np.ndarray], None]) -> Fault:
    def plant(episode: Episode) -> Episode:
        action = episode.action.copy()
        change(action)
        return dataclasses.replace(episode, action=action)

    return plant


def freeze(first: int, last: int) -> Callable[[np.ndarray], None]:
    def change(images: np.ndarray) -> None:
        images[first:last] = images[first]

    return change


def put(where: object, value: object) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[where] = value

    return change


def jump(action: np.ndarray) -> None:
    action[::2, 0], action[1::2, 0] = 0.2, -0.2


def sent(contract: Contract, episode: Episode, lost: Mapping[str, range], stamped: Mapping[str, int]) -> Iterator[Raw]:
    """What came on all topics, by tick; the goal has the stamp of the first."""
    yield goal_message(contract, int(episode.stamps[0]) + 1)
    fingers = contract.observation["finger_position"].names
    judgement = ["reward", "success", "terminated", "truncated"]
    for tick, tick_stamp in enumerate(episode.stamps.tolist()):

        def at(topic: str, tick_stamp: int = tick_stamp) -> int:
            return tick_stamp + stamped.get(topic, 0)

        observed = {name: values[tick] for name, values in (episode.observation | episode.auxiliary).items()}
        told = [np.roll(episode.reward, 1)[tick], 0.0, np.roll(episode.terminated, 1)[tick], 0.0]
        made = {
            "/camera/image_raw": messages.image_cdr(at("/camera/image_raw"), "", observed["image"]),
            "/tool/pose": messages.pose_cdr(at("/tool/pose"), "", observed["tool_position"]),
            "/object/pose": messages.pose_cdr(at("/object/pose"), "", observed["object_position"]),
            "/joint_states": messages.joint_state_cdr(at("/joint_states"), fingers, observed["finger_position"]),
            "/reward": messages.joint_state_cdr(tick_stamp, judgement, told),
            **messages.action_cdrs(contract, tick_stamp, episode.action[tick]),
        }
        yield from ((topic, at(topic), cdr) for topic, cdr in made.items() if tick not in lost.get(topic, ()))


NOTHING: Mapping[str, Any] = MappingProxyType({})


def record(
    directory: Path,
    contract: Contract,
    episode: Episode,
    lost: Mapping[str, range] = NOTHING,
    stamped: Mapping[str, int] = NOTHING,
    delayed: Mapping[str, int] = NOTHING,
    number: int = 0,
) -> Path:
    """The bag that such an episode comes from.

    Args:
        lost: ticks without a message, by topic.
        stamped: ns added to the stamps of a topic.
        delayed: ns from stamp to log time of a topic.
    """
    recorder = EpisodeRecorder(directory, contract, patience=0.0)
    recorder.begin(number, START - PERIOD, {"seed": "0"})
    for topic, stamp, cdr in sent(contract, episode, lost, stamped):
        recorder.receive(topic, stamp, stamp + delayed.get(topic, 0), cdr)
    recorder.end(number, int(episode.stamps[-1]), episode.outcome)
    return recorder.close()[0].path


def audit_bag(path: Path, contract: Contract) -> EpisodeAudit:
    [episode] = audit([path], contract).episodes
    return episode


def checks(found: EpisodeAudit | Audit) -> set[tuple[Level, str]]:
    return {(finding.level, finding.check) for finding in found.findings}


def test_a_clean_bag_is_not_flagged(tmp_path: Path, contract: Contract) -> None:
    found = audit_bag(record(tmp_path, contract, clean(contract)), contract)
    assert found.findings == ()
    assert (found.level, found.transitions, found.total_reward, found.outcome) == (Level.OK, TICKS - 1, 1.0, "success")
    assert found.seconds == pytest.approx(1.9)


ARRAY_FAULTS: dict[str, tuple[Fault, Level, str, str]] = {
    "idle": (acting(put(np.s_[3:, :3], 0.001)), Level.WARN, "idle", "idle in 79% of its ticks"),
    "jumps": (acting(jump), Level.WARN, "jumps", "100% of its actions jump"),
    "saturated": (acting(put(np.s_[:, 1], 0.3)), Level.WARN, "saturation", "linear_velocity.y is at its limit in 100%"),
    "constant": (
        observing("finger_position", put(np.s_[:, 1], 0.04)),
        Level.WARN,
        "constant",
        "never changes: finger_position.panda_finger_joint2",
    ),
    "frozen camera": (
        observing("image", freeze(5, 12)),
        Level.BAD,
        "freeze",
        "image shows the same image for 6 ticks in a row while the arm moves",
    ),
    "aborted": (lambda e: dataclasses.replace(e, outcome="operator"), Level.WARN, "outcome", "ended as operator"),
    "fault": (lambda e: dataclasses.replace(e, outcome="fault"), Level.WARN, "outcome", "ended as fault"),
}


@pytest.mark.parametrize("name", ARRAY_FAULTS)
def test_a_fault_in_the_data_is_found_and_nothing_else(name: str, tmp_path: Path, contract: Contract) -> None:
    plant, level, check, text = ARRAY_FAULTS[name]
    found = audit_bag(record(tmp_path, contract, plant(clean(contract))), contract)
    assert checks(found) == {(level, check)}
    assert text in found.reasons
    assert found.level is level


def test_a_short_episode_is_bad(tmp_path: Path, contract: Contract) -> None:
    found = audit_bag(record(tmp_path, contract, clean(contract, ticks=5)), contract)
    assert checks(found) == {(Level.BAD, "short")}
    assert "4 transitions" in found.reasons


@pytest.mark.parametrize(
    ("lost", "level", "text"),
    [
        ({"/policy/action": range(4, 5)}, Level.WARN, "no action (1 times)"),
        ({"/reward": range(4, 12)}, Level.BAD, "no judgement (8 times)"),
        ({"/tool/pose": range(4, 12)}, Level.BAD, "tool_position: 0.300 s old, at most 0.200 s allowed (1 times)"),
        ({"/camera/image_raw": range(4, 5)}, Level.WARN, "ticks 0.20 s apart (1 times)"),
    ],
)
def test_lost_messages_are_counted_with_the_reason(
    lost: dict[str, range], level: Level, text: str, tmp_path: Path, contract: Contract
) -> None:
    found = audit_bag(record(tmp_path, contract, clean(contract), lost=lost), contract)
    assert (level, "cut") in checks(found)
    assert text in found.reasons
    assert found.transitions < TICKS - 1


@pytest.mark.parametrize(("period", "lost"), [(143, 0), (143, 3), (100, 3), (109, 0)])
def test_what_is_cut_out_is_counted_at_the_pace_that_the_bag_has(contract: Contract, period: int, lost: int) -> None:
    episode = clean(contract)
    stamps = START + np.arange(TICKS) * period * 1_000_000
    stamps[10:] += lost * period * 1_000_000
    has = episode.has_transition & ~((np.arange(TICKS) == 9) & bool(lost))
    found = audit_episode(dataclasses.replace(episode, stamps=stamps, has_transition=has), contract)
    assert found.cut == pytest.approx((lost + 1) / (TICKS - 1 + lost) if lost else 0.0)
    assert bool(lost) == ((Level.WARN, "cut") in checks(found))


def test_a_bag_slower_than_the_contract_is_flagged_for_that_and_not_as_cut_out(contract: Contract) -> None:
    slow = [
        RawMessage(topic, contract.recorded_topics()[topic].type, later(stamp), restamped(cdr, later(stamp)))
        for topic, stamp, cdr in sent(contract, clean(contract), NOTHING, NOTHING)
    ]
    found = audit_episode(read_episode(Bag(Path("slow"), slow), contract), contract)
    assert (Level.WARN, "problems") in checks(found)
    assert "ticks are 0.143 s apart (median), and 0.100 s by the contract" in found.reasons
    assert found.cut == 0.0


def later(stamp: int) -> int:
    """At 7 Hz what was at 10 Hz."""
    return START + round((stamp - START) * 10 / 7)


def test_stamps_that_are_off_are_skew(tmp_path: Path, contract: Contract) -> None:
    path = record(tmp_path / "a", contract, clean(contract), stamped={"/tool/pose": -80_000_000})
    found = audit_bag(path, contract)
    assert (Level.WARN, "skew") in checks(found)
    assert "/tool/pose is 80 ms old at a tick (median)" in found.reasons
    path = record(tmp_path / "b", contract, clean(contract), delayed={"/joint_states": 300_000_000})
    found = audit_bag(path, contract)
    assert checks(found) == {(Level.WARN, "skew")}
    assert "stamps of /joint_states are 300 ms behind those of" in found.reasons


def test_stamps_that_go_back_are_told(tmp_path: Path, contract: Contract) -> None:
    episode = clean(contract)
    order = np.arange(TICKS)
    order[[6, 7]] = order[[7, 6]]
    shuffled = dataclasses.replace(
        episode,
        stamps=episode.stamps[order],
        observation={name: values[order] for name, values in episode.observation.items()},
    )
    found = audit_bag(record(tmp_path, contract, shuffled), contract)
    assert found.level is not Level.OK
    assert "/tool/pose went back in time" in found.reasons


def test_what_the_recorder_missed_and_what_broke_is_told(tmp_path: Path, contract: Contract) -> None:
    late = record(tmp_path / "a", contract, clean(contract), lost={"/policy/gripper": range(18, 20)})
    found = audit_bag(late, contract)
    assert (Level.WARN, "incomplete") in checks(found)
    assert "incomplete topics: /policy/gripper" in found.reasons
    broken = record(tmp_path / "b", contract, clean(contract))
    file = next(broken.glob("*.mcap"))
    with file.open("rb+") as stream:
        stream.truncate(file.stat().st_size - 30)
    assert (Level.WARN, "damage") in checks(audit_bag(broken, contract))


def test_a_bag_that_cannot_be_used_is_bad_and_the_others_are_audited(tmp_path: Path, contract: Contract) -> None:
    good = record(tmp_path, contract, clean(contract))
    empty = tmp_path / "episode_000001.mcap"
    empty.touch()
    seen: list[bool] = []
    found = audit([good, empty], contract, progress=lambda: seen.append(True))
    assert [episode.level for episode in found.episodes] == [Level.OK, Level.BAD]
    assert found.episodes[1].reasons == "the file is empty; delete the bag"
    assert found.level is Level.BAD
    assert len(seen) == 2
    other = dataclasses.replace(contract, control_rate=20.0)
    assert "recorded under another contract" in audit_bag(good, other).reasons


def test_each_episode_of_a_bag_has_its_own_verdict(tmp_path: Path, contract: Contract) -> None:
    topics = contract.recorded_topics() | {EVENTS: Recorded("diagnostic_msgs/msg/DiagnosticArray")}
    file = EpisodeFile(tmp_path, "both", topics, {})
    frozen = observing("image", freeze(5, 12))(clean(contract, 1))
    later = dataclasses.replace(frozen, stamps=frozen.stamps + 100 * PERIOD)
    for number, episode in enumerate((clean(contract), later)):
        values = {"episode": str(number), "seed": "0", "outcome": "success"}
        first, last = int(episode.stamps[0]), int(episode.stamps[-1])
        file.write(EVENTS, first, messages.status_cdr(first, "start", "", values))
        for topic, stamp, cdr in sent(contract, episode, NOTHING, NOTHING):
            file.write(topic, stamp, cdr)
        file.write(EVENTS, last, messages.status_cdr(last, "end", "", values))
    found = audit([file.close({})], contract)
    assert [(episode.name, str(episode.level), episode.outcome) for episode in found.episodes] == [
        ("both [0]", "ok", "success"),
        ("both [1]", "bad", "success"),
    ]


def test_a_bag_of_several_episodes_is_cut_where_the_command_says(
    tmp_path: Path, contract: Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = observing("image", freeze(5, 12))(clean(contract, 1))
    later = dataclasses.replace(frozen, stamps=frozen.stamps + TICKS * PERIOD)
    file = EpisodeFile(tmp_path, "both", contract.recorded_topics(), {"contract": contract.to_yaml()})
    for episode in (clean(contract), later):
        for topic, stamp, cdr in sent(contract, episode, NOTHING, NOTHING):
            file.write(topic, stamp, cdr)
    file.close({})
    page = tmp_path / "page.html"
    assert main(["audit", str(tmp_path / "both"), "--split-at", str(TICKS * PERIOD * 1e-9), "--html", str(page)]) == 3
    assert "both [1]" in capsys.readouterr().out
    assert "both [1] (unfinished): ended as unfinished; image shows the same image for 6 ticks" in page.read_text()
    assert main(["audit", str(tmp_path / "both"), "--split-at", "soon"]) == 2
    assert "--split-at soon: expected seconds" in capsys.readouterr().err


def test_a_set_whose_action_is_discrete_alone_has_figures(contract: Contract) -> None:
    discrete = dataclasses.replace(contract, action={"gripper": contract.action["gripper"]})
    episode = clean(contract)
    gripping = dataclasses.replace(episode, action=episode.action[:, 3:])
    found = audit_set([audit_episode(gripping, discrete)], discrete)
    assert found.summary()["at an action limit"] == "0 to 0 %, median 0 %"


def test_a_picture_may_stand_still_where_the_arm_does(contract: Contract) -> None:
    def still(values: np.ndarray) -> None:
        values[5:9] = values[5]

    episode = observing("image", freeze(5, 9))(clean(contract))
    assert (Level.BAD, "freeze") in checks(audit_episode(episode, contract))
    for name in ("tool_position", "finger_position"):
        episode = observing(name, still)(episode)
    assert not audit_episode(episode, contract).findings


def test_two_equal_pictures_are_no_freeze(contract: Contract) -> None:
    assert not audit_episode(observing("image", freeze(5, 7))(clean(contract)), contract).findings


def test_a_discrete_channel_may_jump_and_stay_at_a_limit(contract: Contract) -> None:
    def toggle(action: np.ndarray) -> None:
        action[::2, 3], action[1::2, 3] = 0.0, 1.0

    assert not audit_episode(acting(toggle)(clean(contract)), contract).findings


def sets(contract: Contract, plant: Fault = lambda episode: episode) -> Audit:
    return audit_set([audit_episode(plant(clean(contract, seed)), contract) for seed in range(4)], contract)


def test_a_clean_set_is_not_flagged_and_its_success_has_an_interval(contract: Contract) -> None:
    found = sets(contract)
    assert found.level is Level.OK
    success = found.success()
    assert success is not None
    assert success[:2] == (4, 4)
    assert success[2:] == pytest.approx((0.5101, 1.0), abs=1e-3)
    assert found.summary()["success"] == "1.00 of 4 (95 % interval 0.51 to 1.00)"
    assert found.summary()["episodes"] == "4: 4 ok, 0 warn, 0 bad"


def test_what_is_dead_in_every_episode_is_said_once(contract: Contract) -> None:
    found = sets(contract, observing("finger_position", put(np.s_[:, 0], 0.04)))
    assert [finding.text for finding in found.findings] == [
        "finger_position.panda_finger_joint1 is 0.04 in every tick of every episode"
    ]
    assert not any(episode.findings for episode in found.episodes)
    found = sets(contract, acting(put(np.s_[:, 3], 1.0)))
    assert [finding.check for finding in found.findings] == ["dead"]
    assert "action gripper is 1 in every tick" in found.findings[0].text


def test_a_sensor_that_sticks_at_another_value_each_time_is_said_once(contract: Contract) -> None:
    def stick(values: np.ndarray) -> None:
        values[:, 0] = values[0, 0]

    found = sets(contract, observing("finger_position", stick))
    assert [finding.check for finding in found.findings] == ["constant"]
    assert not any(episode.findings for episode in found.episodes)


def test_a_set_without_success_or_without_variety_is_flagged(contract: Contract) -> None:
    found = sets(contract, lambda episode: dataclasses.replace(episode, outcome="timeout"))
    assert "none of 4 episodes succeeded" in [finding.text for finding in found.findings]

    def same_start(episode: Episode) -> Episode:
        for name in ("tool_position", "finger_position"):
            episode = observing(name, put(0, 0.1))(episode)
        cube = episode.auxiliary["object_position"].copy()
        cube[0] = 0.4
        return dataclasses.replace(episode, auxiliary={"object_position": cube})

    found = sets(contract, same_start)
    assert [finding.text for finding in found.findings] == ["every episode starts in the same place"]


def test_the_age_of_values_is_counted_from_the_newest_at_or_before_the_tick() -> None:
    ages = value_ages(np.array([10, 30, 20]) * PERIOD, np.array([5, 10, 25, 40]) * PERIOD)
    np.testing.assert_allclose(ages, [0.0, 0.5, 1.0])


def test_the_command_says_it_by_its_status_and_writes_a_page(
    tmp_path: Path, contract: Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = tmp_path / "bags"
    for seed in range(3):
        record(bags, contract, clean(contract, seed), number=seed)
    assert main(["audit", str(bags)]) == 0
    record(bags, contract, acting(jump)(clean(contract, 3)), number=3)
    assert main(["audit", str(bags)]) == 1
    frozen = observing("image", freeze(5, 12))(clean(contract, 4))
    record(bags, contract, frozen, number=4)
    page = tmp_path / "pages" / "audit.html"
    assert main(["audit", str(bags), "--html", str(page)]) == 3
    said = capsys.readouterr().out
    assert "3 ok, 1 warn, 1 bad" in said
    text = page.read_text()
    assert "episode_000004 (success): image shows the same image for 6 ticks" in text
    assert "episode_000003" in text
    assert text.count('class="strip"') == 3  # both flagged episodes, and a clean one beside them
    assert text.count("data:image/png;base64,") == 5
    assert "http" not in text
    assert main(["audit", str(tmp_path / "none")]) == 2


def test_a_set_with_nothing_readable_still_has_a_page(tmp_path: Path, contract: Contract) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    (bags / "episode_000000.mcap").touch()
    page = tmp_path / "audit.html"
    assert main(["audit", str(bags)]) == 2  # no contract to audit by
    assert main(["audit", str(bags), "--contract", "lift", "--html", str(page)]) == 3
    assert "the file is empty" in page.read_text()


def test_episodes_of_the_expert_are_not_flagged(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    run_episodes("lift", {"bags": str(bags), "expert_noise": "0.0"}, 5, tmp_path / "log")
    assert main(["audit", str(bags)]) == 0


def test_a_long_table_unfolds_and_hides_nothing() -> None:
    rows = [[f"episode_{number}"] for number in range(OPEN_ROWS + 5)]
    page = text_table(["episode"], rows)
    open_part, folded = page.split("<details>")
    assert "<summary>and 5 more</summary>" in folded
    assert [open_part.count("episode_"), folded.count("episode_")] == [OPEN_ROWS, 5]
    assert "<details>" not in text_table(["episode"], rows[:OPEN_ROWS])
