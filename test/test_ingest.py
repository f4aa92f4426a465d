"""Bags to training arrays: which transitions come out, and what is cut out."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import PERIOD, START, Raw, episode_messages, goal_message, restamped, small_contract, tick_messages

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.bags import Bag, RawMessage, read_bag
from rl_ros.episodes.ingest import Cuts, episodes_of, read_episode, read_episodes
from rl_ros.episodes.memory import Episode, ReplayMemory
from rl_ros.episodes.record import EpisodeRecorder
from rl_ros.errors import UserError

TICKS = 6


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def record(directory: Path, contract: Contract, raw: list[Raw], outcome: str = "success", number: int = 0) -> Path:
    recorder = EpisodeRecorder(directory, contract, patience=0.0)
    recorder.begin(number, START - 1, {"seed": "17"})
    for topic, stamp, cdr in raw:
        recorder.receive(topic, stamp, stamp, cdr)
    recorder.end(number, START + 1000 * PERIOD, outcome)
    return recorder.close()[0].path


def ingest(directory: Path, contract: Contract, raw: list[Raw], outcome: str = "success") -> Episode:
    return read_episode(read_bag(record(directory, contract, raw, outcome)), contract)


def without(raw: list[Raw], topic: str, tick: int) -> list[Raw]:
    kept = [each for each in raw if each[:2] != (topic, START + tick * PERIOD)]
    assert len(kept) == len(raw) - 1
    return kept


def test_a_whole_episode_becomes_one_transition_for_each_pair_of_ticks(tmp_path: Path, contract: Contract) -> None:
    episode = ingest(tmp_path, contract, episode_messages(contract, TICKS))
    ticks = np.arange(TICKS)
    np.testing.assert_array_equal(episode.stamps, START + ticks * PERIOD)
    np.testing.assert_array_equal(episode.observation["image"][:, 0, 0, 0], ticks)
    np.testing.assert_array_equal(episode.observation["tool_position"][:, 2], (0.01 * ticks).astype(np.float32))
    np.testing.assert_array_equal(episode.auxiliary["object_position"][0], np.array([0.4, 0.1, 0.02], np.float32))
    np.testing.assert_array_equal(episode.desired_goal, np.full((TICKS, 1), 0.1, np.float32))
    # Row k is the action at tick k, and what tick k + 1 was judged to be worth.
    np.testing.assert_array_equal(episode.action[:-1, 0], (0.01 * ticks[:-1]).astype(np.float32))
    np.testing.assert_array_equal(episode.action[:-1, 3], 1.0)
    np.testing.assert_array_equal(episode.reward[:-1], (0.5 * ticks[1:]).astype(np.float32))
    assert episode.has_transition.tolist() == [True] * (TICKS - 1) + [False]
    assert episode.terminated.tolist() == [False] * (TICKS - 2) + [True, False]
    assert not episode.truncated.any()
    assert (episode.outcome, episode.seed, episode.success, episode.problems) == ("success", 17, True, ())
    assert episode.source == str(tmp_path / "episode_000000")
    assert {name: array.dtype.name for name, array in episode.observation.items()} == {
        "image": "uint8",
        "tool_position": "float32",
        "finger_position": "float32",
    }


def test_an_episode_that_ran_out_of_time_is_truncated_not_terminated(tmp_path: Path, contract: Contract) -> None:
    raw = without(episode_messages(contract, TICKS), contract.reward.topic, TICKS - 1)
    stamp = START + (TICKS - 1) * PERIOD
    names = ["reward", "success", "terminated", "truncated"]
    raw.append((contract.reward.topic, stamp, messages.joint_state_cdr(stamp, names, [0.0, 0.0, 0.0, 1.0])))
    episode = ingest(tmp_path, contract, raw, "timeout")
    assert not episode.terminated.any()
    assert np.flatnonzero(episode.truncated).tolist() == [TICKS - 2]
    assert not episode.success


def test_an_episode_stopped_from_outside_is_truncated_at_its_last_transition(
    tmp_path: Path, contract: Contract
) -> None:
    raw = [raw for tick in range(3) for raw in tick_messages(contract, tick, 9)]
    episode = ingest(tmp_path, contract, [*episode_messages(contract, 0), *raw], "operator")
    assert not episode.terminated.any()
    assert np.flatnonzero(episode.truncated).tolist() == [1]
    assert episode.outcome == "operator"


@pytest.mark.parametrize("topic", ["/policy/action", "/policy/gripper"])
def test_a_tick_without_its_action_begins_no_transition(tmp_path: Path, contract: Contract, topic: str) -> None:
    episode = ingest(tmp_path, contract, without(episode_messages(contract, TICKS), topic, 2))
    assert np.flatnonzero(~episode.has_transition).tolist() == [2, TICKS - 1]
    assert episode.problems == ("no action (1 times)",)


def test_an_action_that_is_not_finite_begins_no_transition(tmp_path: Path, contract: Contract) -> None:
    raw = without(episode_messages(contract, TICKS), "/policy/action", 2)
    stamp = START + 2 * PERIOD
    raw.append(("/policy/action", stamp, messages.twist_cdr(stamp, "", [np.nan, 0.0, 0.0])))
    raw.sort(key=lambda each: each[1])
    episode = ingest(tmp_path, contract, raw)
    assert not episode.has_transition[2]
    assert np.isfinite(episode.action).all()


def test_a_tick_without_judgement_ends_no_transition(tmp_path: Path, contract: Contract) -> None:
    episode = ingest(tmp_path, contract, without(episode_messages(contract, TICKS), contract.reward.topic, 3))
    assert np.flatnonzero(~episode.has_transition).tolist() == [2, TICKS - 1]
    assert episode.problems == ("no judgement (1 times)",)


def test_a_lost_picture_cuts_the_transition_across_the_gap(tmp_path: Path, contract: Contract) -> None:
    episode = ingest(tmp_path, contract, without(episode_messages(contract, TICKS), "/camera/image_raw", 3))
    assert episode.observation["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 4, 5]
    assert np.flatnonzero(~episode.has_transition).tolist() == [2, 4]
    assert episode.problems == ("ticks 0.20 s apart (1 times)",)
    batch = ReplayMemory([episode]).take(np.flatnonzero(episode.has_transition))
    steps = batch.next_observation["image"][:, 0, 0, 0].astype(int) - batch.observation["image"][:, 0, 0, 0]
    assert steps.tolist() == [1, 1, 1]


def test_an_observation_that_is_too_old_cuts_its_tick_and_says_why(tmp_path: Path, contract: Contract) -> None:
    raw = episode_messages(contract, TICKS)
    for tick in (1, 2, 3):
        raw = without(raw, "/tool/pose", tick)
    episode = ingest(tmp_path, contract, raw)
    # 0.1 and 0.2 s old are allowed.
    assert ((episode.stamps - START) // PERIOD).tolist() == [0, 1, 2, 4, 5]
    assert "tool_position: 0.300 s old, at most 0.200 s allowed (1 times)" in episode.problems


def test_what_was_recorded_after_the_end_of_the_episode_is_no_part_of_it(tmp_path: Path, contract: Contract) -> None:
    # In real time the camera goes on while the end of the episode is on its way to the recorder.
    raw = [*episode_messages(contract, TICKS), *(r for n in (6, 7) for r in tick_messages(contract, n, 99))]
    recorder = EpisodeRecorder(tmp_path, contract, patience=0.0)
    recorder.begin(0, START - 1, {"seed": "0"})
    for topic, stamp, cdr in raw:
        recorder.receive(topic, stamp, stamp, cdr)
    recorder.end(0, START + (TICKS - 1) * PERIOD, "success")
    episode = read_episode(read_bag(recorder.close()[0].path), contract)
    assert episode.stamps[-1] == START + (TICKS - 1) * PERIOD
    assert episode.has_transition.sum() == TICKS - 1


def changed_key(contract: Contract, name: str, **changes: object) -> Contract:
    key = dataclasses.replace(contract.observation[name], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(contract, observation={**contract.observation, name: key})


def test_a_bag_of_another_contract_is_refused_with_the_name_of_the_field(tmp_path: Path, contract: Contract) -> None:
    path = record(tmp_path, contract, episode_messages(contract, 2))
    other = changed_key(contract, "tool_position", max_age=0.5)
    with pytest.raises(UserError) as caught:
        read_episode(read_bag(path), other)
    assert "recorded under another contract: observation.tool_position.max_age" in str(caught.value)
    assert str(path) in str(caught.value)


def with_discrete(contract: Contract, **channels: bool) -> Contract:
    action = dict(contract.action)
    for name, discrete in channels.items():
        action[name] = dataclasses.replace(action[name], discrete=discrete)
    return dataclasses.replace(contract, action=action)


def test_a_channel_that_was_only_ever_at_its_limits_may_be_made_discrete(tmp_path: Path, contract: Contract) -> None:
    continuous = with_discrete(contract, gripper=False)
    bag = read_bag(record(tmp_path, continuous, episode_messages(contract, TICKS)))
    as_recorded, as_discrete = read_episode(bag, continuous), read_episode(bag, with_discrete(contract, gripper=True))
    np.testing.assert_array_equal(as_recorded.action, as_discrete.action)
    with pytest.raises(UserError, match=r"action\.linear_velocity was 0.* neither of its limits.*`discrete: false`"):
        read_episode(bag, with_discrete(contract, linear_velocity=True))


@pytest.mark.parametrize(
    ("opened", "seen"), [(0.04, r"was 0\.04 at .*\(0 to 0\.04 in all\)"), (80.0, r"was 80 at .*\(0 to 80 in all\)")]
)
def test_a_discrete_channel_of_somebody_else_is_in_its_own_units_refused(
    contract: Contract, opened: float, seen: str
) -> None:
    raw = [each for each in episode_messages(contract, TICKS) if each[0] != "/policy/gripper"]
    for tick in range(TICKS):
        stamp = START + tick * PERIOD
        raw.append(("/policy/gripper", stamp, messages.joint_state_cdr(stamp, ["gripper"], [opened * (tick % 2)])))
    raw.sort(key=lambda each: each[1])
    with pytest.raises(UserError, match=rf"^foreign: action\.gripper {seen}, which is neither of its limits 0 and 1, "):
        read_episode(in_memory(contract, raw), contract)
    gripper = dataclasses.replace(contract.action["gripper"], high=(opened,))
    theirs = dataclasses.replace(contract, action={**contract.action, "gripper": gripper})
    episode = read_episode(in_memory(theirs, raw), theirs)
    np.testing.assert_allclose(episode.action[:-1, 3], opened * (np.arange(TICKS - 1) % 2), rtol=1e-6)


def test_a_discrete_channel_may_be_read_as_a_continuous_one(tmp_path: Path, contract: Contract) -> None:
    bag = read_bag(record(tmp_path, contract, episode_messages(contract, TICKS)))
    episode = read_episode(bag, with_discrete(contract, gripper=False))
    np.testing.assert_array_equal(episode.action, read_episode(bag, contract).action)


def test_a_bag_without_a_contract_is_read_with_the_one_given(contract: Contract) -> None:
    types = {topic: recorded.type for topic, recorded in contract.recorded_topics().items()}
    raw = [RawMessage(topic, types[topic], stamp, cdr) for topic, stamp, cdr in episode_messages(contract, TICKS)]
    episode = read_episode(Bag(Path("foreign"), raw), contract)
    assert episode.has_transition.sum() == TICKS - 1
    assert episode.outcome == "unfinished"


def test_topics_of_another_type_are_not_mistaken_for_ours(contract: Contract) -> None:
    raw = [
        RawMessage(topic, "std_msgs/msg/String", stamp, cdr) for topic, stamp, cdr in episode_messages(contract, TICKS)
    ]
    with pytest.raises(UserError, match="/camera/image_raw carries std_msgs/msg/String, expected sensor_msgs/"):
        read_episode(Bag(Path("foreign"), raw), contract)


def test_a_bag_without_messages_or_without_a_whole_tick_says_so(tmp_path: Path, contract: Contract) -> None:
    with pytest.raises(UserError, match="episode_000000: holds no message"):
        ingest(tmp_path / "a", contract, [])
    raw = [each for each in episode_messages(contract, TICKS) if each[0] != "/tool/pose"]
    with pytest.raises(UserError, match="not one complete observation: tool_position: nothing on /tool/pose"):
        ingest(tmp_path / "b", contract, raw)


def test_one_bad_bag_does_not_cost_the_others(tmp_path: Path, contract: Contract) -> None:
    good = [record(tmp_path, contract, episode_messages(contract, TICKS), number=number) for number in (0, 2)]
    empty = tmp_path / "episode_000001.mcap"
    empty.touch()
    seen = []
    episodes, refused = read_episodes([good[0], empty, good[1]], contract, lambda: seen.append(True))
    assert [episode.source for episode in episodes] == [str(path) for path in good]
    assert refused == [f"{empty}: the file is empty; delete the bag."]
    assert len(seen) == 3


def test_a_cut_off_bag_still_gives_its_transitions(tmp_path: Path, contract: Contract) -> None:
    path = record(tmp_path, contract, episode_messages(contract, TICKS))
    file = next(path.glob("*.mcap"))
    with file.open("rb+") as stream:
        stream.truncate(file.stat().st_size - 30)
    bag = read_bag(path)
    assert bag.damage
    assert read_episode(bag, contract).has_transition.sum() == TICKS - 1


def several(contract: Contract, starts: tuple[int, ...], ticks: int = 4) -> list[Raw]:
    """Episodes one after the other, the last message of each among the first of the next."""
    raw: list[Raw] = []
    for start in starts:
        episode = episode_messages(contract, ticks, start)
        raw = [*raw[:-1], *episode[:2], *raw[-1:], *episode[2:]]
    return raw


def in_memory(contract: Contract, raw: list[Raw], **types: str) -> Bag:
    known = {topic: recorded.type for topic, recorded in contract.recorded_topics().items()} | {
        f"/{topic}": kind for topic, kind in types.items()
    }
    return Bag(Path("foreign"), [RawMessage(topic, known[topic], stamp, cdr) for topic, stamp, cdr in raw])


def read_all(bag: Bag, contract: Contract, cuts: Cuts | None = None) -> tuple[list[Episode], list[str]]:
    refused: list[str] = []
    return list(episodes_of(bag, contract, refused, cuts)), refused


STARTS = (START, START + 20 * PERIOD, START + 40 * PERIOD)


def firsts(episodes: list[Episode]) -> list[tuple[int, int]]:
    return [(int(episode.stamps[0]), int(episode.has_transition.sum())) for episode in episodes]


def test_episode_events_cut_a_bag_with_their_outcomes_wherever_they_come_in_it(contract: Contract) -> None:
    raw = several(contract, STARTS)
    event = "/episode/event"
    for number, start in enumerate(STARTS):
        about = {"episode": str(number), "seed": str(number + 5)}
        end = {**about, "outcome": "success"}
        last = start + 3 * PERIOD
        raw.append((event, start, messages.status_cdr(start - 1, "start", "", about)))
        if number < 2:
            raw.append((event, last, messages.status_cdr(last, "end", "", end)))
    bag = in_memory(contract, raw, **{"episode/event": "diagnostic_msgs/msg/DiagnosticArray"})
    episodes, refused = read_all(bag, contract)
    assert firsts(episodes) == [(start, 3) for start in STARTS]
    assert [(e.outcome, e.seed) for e in episodes] == [("success", 5), ("success", 6), ("unfinished", 7)]
    assert all(episode.terminated.tolist() == [False, False, True, False] for episode in episodes)
    assert refused == []
    with pytest.raises(UserError, match="holds 3 episodes; read it with `rl_ros ingest`"):
        read_episode(bag, contract)


def test_every_message_of_a_topic_cuts_a_bag(contract: Contract) -> None:
    marks = [("/reset_done", start - 1, messages.clock_cdr(start - 1)) for start in STARTS[1:]]
    raw = several(contract, STARTS) + marks
    types = {"reset_done": "std_msgs/msg/Header"}
    bag = in_memory(contract, raw, **types)
    episodes, refused = read_all(bag, contract, Cuts(topic="/reset_done"))
    assert firsts(episodes) == [(start, 3) for start in STARTS]
    assert refused == []
    with pytest.raises(UserError, match="foreign: no message on /other, so there is nothing to cut it at"):
        read_all(bag, contract, Cuts(topic="/other"))


def service_event(kind: int, stamp: int) -> bytes:
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    times = seconds.to_bytes(4, "little") + nanoseconds.to_bytes(4, "little")
    return b"\0\1\0\0" + bytes([kind, 0, 0, 0]) + times + bytes(32)


def test_a_reset_service_ends_an_episode_with_the_request_and_begins_one_with_the_answer(contract: Contract) -> None:
    raw = several(contract, STARTS, ticks=6)
    topic = "/reset/_service_event"
    for start in STARTS[1:]:
        asked, answered = start - 17 * PERIOD, start + 2 * PERIOD
        raw += [(topic, at, service_event(kind, at)) for kind, at in enumerate((asked, asked + 1, answered, answered))]
    bag = in_memory(contract, raw, **{topic[1:]: "std_srvs/srv/Trigger_Event"})
    episodes, _ = read_all(bag, contract, Cuts(topic=topic))
    # The arm moves back while the service runs: that is in no episode.
    assert [((int(e.stamps[0]) - s) // PERIOD, len(e.stamps)) for e, s in zip(episodes, STARTS, strict=True)] == [
        (0, 3),
        (2, 1),
        (2, 4),
    ]


def test_given_times_cut_a_bag_and_what_is_held_is_held_across(contract: Contract) -> None:
    raw = episode_messages(contract, 12)
    episodes, refused = read_all(in_memory(contract, raw), contract, Cuts(seconds=(0.4, 0.8)))
    assert firsts(episodes) == [(START + tick * PERIOD, 3) for tick in (0, 4, 8)]
    assert all((episode.desired_goal == np.float32(0.1)).all() for episode in episodes)
    assert refused == []
    assert [episode.truncated[2] for episode in episodes] == [True, True, False]
    assert episodes[2].terminated[2]


def test_an_episode_without_a_tick_does_not_cost_the_others(contract: Contract) -> None:
    episodes, refused = read_all(in_memory(contract, episode_messages(contract, 12)), contract, Cuts(seconds=(0.4, 99)))
    assert len(episodes) == 2
    assert refused == ["foreign: not one complete observation: no message on /camera/image_raw (episode 2)."]


def test_a_bag_that_nobody_judged_makes_transitions_only_where_the_contract_says_so(contract: Contract) -> None:
    raw = [each for each in episode_messages(contract, TICKS) if each[0] != contract.reward.topic]
    refusing = read_episode(in_memory(contract, raw), contract)
    assert not refusing.has_transition.any()
    assert refusing.problems == (f"no judgement ({TICKS - 1} times)",)
    judged_zero = dataclasses.replace(contract, reward=dataclasses.replace(contract.reward, unjudged="zero"))
    episode = read_episode(in_memory(judged_zero, raw), judged_zero)
    assert episode.has_transition.sum() == TICKS - 1
    assert not episode.reward.any()
    assert not episode.terminated.any()
    assert np.flatnonzero(episode.truncated).tolist() == [TICKS - 2]
    # One lost judgement is lost all the same.
    one_lost = without(episode_messages(contract, TICKS), contract.reward.topic, 3)
    assert not read_episode(in_memory(judged_zero, one_lost), judged_zero).has_transition[2]


def test_topics_of_another_robot_are_taken_by_key(contract: Contract) -> None:
    renamed = {"/camera/image_raw": "/front/rgb", "/policy/action": "/servo/command", "/goal/latent": "/goal"}
    raw = [(renamed.get(topic, topic), stamp, cdr) for topic, stamp, cdr in episode_messages(contract, TICKS)]
    other = contract.remapped({"image": "/front/rgb", "linear_velocity": "/servo/command", "desired_goal": "/goal"})
    assert read_episode(in_memory(other, raw), other).has_transition.sum() == TICKS - 1
    with pytest.raises(UserError, match="arm:=: no key of contract lift; there are: image, tool_position"):
        contract.remapped({"arm": "/x"})
    with pytest.raises(UserError, match="/joint_states is both a"):
        contract.remapped({"image": "/joint_states"})


@pytest.mark.parametrize("late", [7_000_000, 60_000_000, 99_000_000])
def test_actions_stamped_when_they_were_sent_belong_to_the_tick_that_they_answer(contract: Contract, late: int) -> None:
    raw = [each for each in episode_messages(contract, TICKS) if not each[0].startswith("/policy")]
    for tick in range(TICKS):
        sent, action = START + tick * PERIOD + late, np.array([0.1 * tick, 0.0, 0.0, 1.0])
        raw += [(topic, sent, cdr) for topic, cdr in messages.action_cdrs(contract, sent, action).items()]
    raw.sort(key=lambda each: each[1])
    assert not read_episode(in_memory(contract, raw), contract).has_transition.any()
    channels = {
        name: dataclasses.replace(channel, alignment="next", max_age=0.1) for name, channel in contract.action.items()
    }
    answered = dataclasses.replace(contract, action=channels)
    episode = read_episode(in_memory(answered, raw), answered)
    assert episode.has_transition.sum() == TICKS - 1
    np.testing.assert_allclose(episode.action[:-1, 0], 0.1 * np.arange(TICKS - 1), rtol=1e-6)


def at_rate(contract: Contract, hertz: float, ticks: int) -> Bag:
    """Somebody else's bag whose topics all come at that rate; the pictures tell their number."""
    raw = [goal_message(contract)]
    for tick in range(ticks):
        stamp = START + round(tick * 1e9 / hertz)
        raw += [(topic, stamp, restamped(cdr, stamp)) for topic, _, cdr in tick_messages(contract, tick, ticks)]
    return in_memory(contract, raw)


@pytest.mark.parametrize(("hertz", "closest", "furthest"), [(30.0, 3, 4), (25.0, 2, 3), (80.0, 8, 9)])
def test_of_a_reference_faster_than_the_control_rate_ticks_are_picked_and_that_is_told(
    contract: Contract, hertz: float, closest: int, furthest: int
) -> None:
    ticks = round(3 * hertz)
    episode = read_episode(at_rate(contract, hertz, ticks), contract)
    number = ((episode.stamps - START) * 1e-9 * hertz).round()
    assert set(np.diff(number)) <= {closest, furthest}
    assert np.diff(episode.stamps).mean() == pytest.approx(PERIOD, rel=0.05)
    assert episode.has_transition.sum() == len(episode.stamps) - 1
    np.testing.assert_array_equal(episode.observation["image"][:, 0, 0, 0], number)
    assert "/camera/image_raw is faster than control_rate, so ticks were picked out of it at 10 Hz" in episode.problems


@pytest.mark.parametrize(("hertz", "told"), [(7.0, "0.143 s apart.*to 7"), (12.0, ""), (13.0, "0.077 s apart.*to 13")])
def test_ticks_off_the_control_rate_are_kept_and_told_where_they_are_far_off(
    contract: Contract, hertz: float, told: str
) -> None:
    episode = read_episode(at_rate(contract, hertz, 20), contract)
    assert (len(episode.stamps), int(episode.has_transition.sum())) == (20, 19)
    assert bool(episode.problems) == bool(told)
    assert re.search(told, " ".join(episode.problems))


def test_actions_that_no_policy_can_repeat_are_told(contract: Contract) -> None:
    """As where somebody else's driver has other units, or is faster than the contract allows."""
    raw = [each for each in episode_messages(contract, 6) if each[0] != "/policy/action"]
    for tick, speed in enumerate((0.1, 0.2, 0.9, 0.1, -1.2, 0.1)):
        stamp = START + tick * PERIOD
        raw.append(("/policy/action", stamp, messages.twist_cdr(stamp, "", [speed, 0.0, 0.0])))
    [problem] = read_episode(in_memory(contract, raw), contract).problems
    assert "action.linear_velocity is beyond its limits" in problem
    assert "-1.2 to 0.9" in problem
    assert problem.endswith("(2 times)")


def test_a_pose_in_another_frame_is_told(contract: Contract) -> None:
    """A detector sees where the object is from the camera; taken for where it is from the base it is somewhere else."""
    raw = [each for each in episode_messages(contract, 6) if each[0] != "/object/pose"]
    for tick in range(6):
        stamp = START + tick * PERIOD
        raw.append(("/object/pose", stamp, messages.pose_cdr(stamp, "camera_optical_frame", [0.0, 0.1, 0.9])))
    problems = read_episode(in_memory(contract, raw), contract).problems
    told = f"/object/pose is in frame 'camera_optical_frame', not in {contract.frame}, and nothing transforms it"
    assert told in problems


def by_topic(raw: list[Raw]) -> list[Raw]:
    return sorted(raw, key=lambda each: (each[0], each[1]))


def test_a_bag_written_topic_by_topic_gives_the_same_episode(contract: Contract) -> None:
    raw = episode_messages(contract, 200)
    in_time = read_episode(in_memory(contract, raw), contract)
    for order in (by_topic(raw), by_topic(raw)[::-1]):
        order = [each for topic in dict.fromkeys(t for t, _, _ in order) for each in raw if each[0] == topic]
        episode = read_episode(in_memory(contract, order), contract)
        assert episode.has_transition.sum() == 199
        np.testing.assert_array_equal(episode.action, in_time.action)
        np.testing.assert_array_equal(episode.reward, in_time.reward)
        assert episode.problems == in_time.problems


def test_what_is_given_up_in_a_bag_written_topic_by_topic_says_why(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_ros.episodes.ingest.WAITING", 20_000)
    raw = episode_messages(contract, 200)
    episode = read_episode(in_memory(contract, by_topic(raw)), contract)
    assert 0 < episode.has_transition.sum() < 199
    assert any(
        re.match("/tool/pose comes too long after.*; sort the bag by time with `ros2 bag convert`", problem)
        for problem in episode.problems
    )
    # In the order of time nothing waits for long, not even for a topic that says nothing.
    unjudged = dataclasses.replace(contract, reward=dataclasses.replace(contract.reward, unjudged="zero"))
    silent = [each for each in raw if each[0] != contract.reward.topic]
    assert read_episode(in_memory(unjudged, silent), unjudged).has_transition.sum() == 199


def test_episodes_written_topic_by_topic_say_why_they_are_left_without_a_topic(contract: Contract) -> None:
    raw = by_topic(several(contract, (*STARTS, START + 60 * PERIOD)))
    episodes, refused = read_all(in_memory(contract, raw), contract, Cuts(seconds=(2.0, 4.0, 6.0)))
    assert len(episodes) < 4
    assert re.match("foreign: .*/tool/pose came too long after.*sort the bag by time", refused[-1])


def test_a_goal_that_no_policy_sees_may_be_missing_and_that_is_told(contract: Contract) -> None:
    raw = [each for each in episode_messages(contract, TICKS) if each[0] != contract.goal.desired_goal.topic]
    episode = read_episode(in_memory(contract, raw), contract)
    assert episode.has_transition.sum() == TICKS - 1
    assert (episode.desired_goal.dtype, episode.desired_goal.shape) == (np.float32, (TICKS, 1))
    assert not episode.desired_goal.any()
    assert episode.problems == (
        "desired_goal: taken as zeros, which no policy of this contract sees, as there is nothing on /goal/latent",
    )
    seen = dataclasses.replace(contract, goal=dataclasses.replace(contract.goal, policy_input=True))
    with pytest.raises(UserError, match="not one complete observation: desired_goal: nothing on /goal/latent"):
        read_episode(in_memory(seen, raw), seen)


def test_a_goal_that_comes_too_late_is_not_taken_as_zeros(contract: Contract) -> None:
    goal, *rest = episode_messages(contract, TICKS)
    stamp = START + 2 * PERIOD
    late = (goal[0], stamp, restamped(goal[2], stamp))
    episode = read_episode(in_memory(contract, [*rest, late]), contract)
    assert ((episode.stamps - START) // PERIOD).tolist() == [2, 3, 4, 5]
    assert episode.desired_goal.all()


def stamped_zero(raw: list[Raw], topic: str) -> list[Raw]:
    return [(t, s, cdr[:4] + bytes(8) + cdr[12:] if t == topic else cdr) for t, s, cdr in raw]


@pytest.mark.parametrize("topic", ["/camera/image_raw", "/tool/pose"])
def test_stamps_that_are_all_zero_are_one_sentence(contract: Contract, topic: str) -> None:
    raw = stamped_zero(episode_messages(contract, TICKS), topic)
    with pytest.raises(UserError, match=f"^foreign: every message on {topic} is stamped 0, so nothing can be aligned"):
        read_episode(in_memory(contract, raw), contract)


def test_stamps_that_go_backwards_are_counted_and_the_rest_is_used(contract: Contract) -> None:
    raw = episode_messages(contract, TICKS)
    back = [each for each in raw if each[0] == "/tool/pose"][:2]
    episode = read_episode(in_memory(contract, [*raw[:-10], *back, *raw[-10:]]), contract)
    assert episode.has_transition.sum() == TICKS - 1
    assert "/tool/pose went back in time (two publishers, or a clock that was set) (2 times)" in episode.problems


def test_a_clock_that_goes_back_cuts_a_bag_and_both_parts_are_kept(contract: Contract) -> None:
    # The last judgement of each part comes when the next part has begun already.
    back = [START, START - 100 * PERIOD, START - 102 * PERIOD]
    episodes, refused = read_all(in_memory(contract, several(contract, tuple(back))), contract)
    assert firsts(episodes) == [(start, 3) for start in back]
    assert [episode.terminated.tolist() for episode in episodes] == [[False, False, True, False]] * 3
    assert [episode.problems for episode in episodes] == [
        (),
        ("begins where the clock went back by 10.30 s",),
        ("begins where the clock went back by 0.50 s",),
    ]
    assert [episode.outcome for episode in episodes] == ["unfinished"] * 3
    assert refused == []


def test_of_a_clock_that_went_back_the_sound_part_is_kept_and_the_other_refused(contract: Contract) -> None:
    sound = episode_messages(contract, 4)
    blind = [raw for raw in episode_messages(contract, 5, START - 50 * PERIOD) if raw[0] != "/tool/pose"]
    episodes, refused = read_all(in_memory(contract, [*sound, *blind]), contract)
    assert firsts(episodes) == [(START, 3)]
    assert len(refused) == 1
    assert "nothing on /tool/pose" in refused[0]
    assert "begins where the clock went back by 5.30 s" in refused[0]


def test_a_clock_that_goes_back_between_told_episodes_leaves_each_whole(contract: Contract) -> None:
    back = (START, START - 100 * PERIOD)
    raw = several(contract, back)
    for number, start in enumerate(back):
        about = {"episode": str(number), "seed": "0", "outcome": "success"}
        for name, stamp in (("start", start - 1), ("end", start + 3 * PERIOD)):
            raw.append(("/episode/event", stamp, messages.status_cdr(stamp, name, "", about)))
    bag = in_memory(contract, raw, **{"episode/event": "diagnostic_msgs/msg/DiagnosticArray"})
    episodes, refused = read_all(bag, contract)
    assert sorted(firsts(episodes)) == [(start, 3) for start in sorted(back)]
    assert refused == []


def test_a_late_picture_or_a_second_camera_is_no_clock_that_goes_back(contract: Contract) -> None:
    raw = episode_messages(contract, TICKS)
    pictures = [each for each in raw if each[0] == "/camera/image_raw"]
    late = [*raw[:20], *pictures[:2], *raw[20:]]
    second = [("/camera/image_raw", s - 100 * PERIOD, restamped(cdr, s - 100 * PERIOD)) for _, s, cdr in pictures]
    mixed = list(raw)
    for picture, other in zip(pictures, second, strict=True):
        mixed.insert(mixed.index(picture) + 1, other)
    for messages_of_it in (late, mixed):
        episode = read_episode(in_memory(contract, messages_of_it), contract)
        assert ((episode.stamps - START) // PERIOD).tolist() == list(range(TICKS))
        assert any("/camera/image_raw went back in time" in problem for problem in episode.problems)


def test_a_clock_that_jumps_cuts_the_transition_across_the_jump(contract: Contract) -> None:
    hour = 36_000 * PERIOD
    raw = episode_messages(contract, 3)[:-1] + episode_messages(contract, 3, START + hour)
    episode = read_episode(in_memory(contract, raw), contract)
    assert np.flatnonzero(episode.has_transition).tolist() == [0, 3, 4]
    assert "ticks 3599.80 s apart (1 times)" in episode.problems


def test_joints_that_are_not_finite_cut_their_tick_and_say_so(contract: Contract) -> None:
    raw = without(episode_messages(contract, TICKS), "/joint_states", 2)
    stamp = START + 2 * PERIOD
    fingers = contract.observation["finger_position"].names
    raw.append(("/joint_states", stamp, messages.joint_state_cdr(stamp, fingers, [np.nan, 0.0])))
    raw.sort(key=lambda each: each[1])
    episode = read_episode(in_memory(contract, raw), contract)
    assert ((episode.stamps - START) // PERIOD).tolist() == [0, 1, 3, 4, 5]
    assert episode.problems[0] == "finger_position: not finite: [nan, 0.0] (1 times)"


def test_an_encoding_that_is_not_supported_is_one_sentence(contract: Contract) -> None:
    raw = [
        (topic, stamp, cdr.replace(b"rgb8", b"yuv8") if topic == "/camera/image_raw" else cdr)
        for topic, stamp, cdr in episode_messages(contract, TICKS)
    ]
    with pytest.raises(UserError, match="image: encoding yuv8, expected one that rgb8 can be made of: rgb8, bgr8"):
        read_episode(in_memory(contract, raw), contract)
