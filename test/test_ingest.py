"""Bags to training arrays: which transitions come out, and what is cut out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers import PERIOD, START, Raw, episode_messages, small_contract, tick_messages

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.bags import Bag, RawMessage, read_bag
from rl_ros.episodes.ingest import read_episode, read_episodes
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
    with pytest.raises(UserError, match="not one complete observation: no message on /camera/image_raw"):
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
