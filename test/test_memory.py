"""Replay memory and hindsight: what a transition holds, what is forgotten, and which goals come from where."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rl_ros.contract import Contract, Key, difference
from rl_ros.episodes.hindsight import (
    OWN,
    PRIOR,
    Hindsight,
    episode,
    final,
    future,
    geometric_future,
    random,
    relabelled_share,
)
from rl_ros.episodes.memory import Columns, Episode, ReplayMemory, TaskMemories
from rl_ros.errors import UserError


def made(number: int, ticks: int, terminated: bool = True) -> Episode:
    """An episode whose values tell its number and its ticks; the position is (number, tick)."""
    tick, last = np.arange(ticks), np.arange(ticks) == ticks - 2
    position = np.stack([np.full(ticks, number), tick], axis=1).astype(np.float32)
    return Episode(
        stamps=tick.astype(np.int64),
        observation={
            "position": position,
            "image": np.full((ticks, 32, 32, 3), 10 * number + tick[:, None, None, None], np.uint8),
        },
        auxiliary={"height": (0.5 * tick[:, None]).astype(np.float64)},
        desired_goal=np.full((ticks, 2), -1, np.float32),
        action=position + 100,
        reward=(-1.0 - tick).astype(np.float32),
        terminated=last & terminated,
        truncated=last & (not terminated),
        has_transition=tick < ticks - 1,
        outcome="success",
        seed=0,
        source="",
    )


def reached(achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
    """1 where they are the same."""
    return (np.abs(achieved_goal - desired_goal).sum(axis=-1) < 1e-6).astype(np.float32)


@pytest.fixture
def memory() -> ReplayMemory:
    return ReplayMemory([made(0, 4), made(1, 6, terminated=False), made(2, 3)], achieved_goal="position")


def test_a_transition_joins_a_row_and_the_next(memory: ReplayMemory) -> None:
    assert memory.transitions.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
    batch = memory.take(np.array([1, 8, 11]))
    np.testing.assert_array_equal(batch.observation["position"], [[0, 1], [1, 4], [2, 1]])
    np.testing.assert_array_equal(batch.next_observation["position"], [[0, 2], [1, 5], [2, 2]])
    assert batch.observation["image"][:, 0, 0, 0].tolist() == [1, 14, 21]
    assert batch.next_observation["image"][:, 0, 0, 0].tolist() == [2, 15, 22]
    np.testing.assert_array_equal(batch.auxiliary["height"][:, 0], [0.5, 2.0, 0.5])
    np.testing.assert_array_equal(batch.next_auxiliary["height"][:, 0], [1.0, 2.5, 1.0])
    np.testing.assert_array_equal(batch.action, [[100, 101], [101, 104], [102, 101]])
    assert batch.reward.tolist() == [-2.0, -5.0, -2.0]
    assert batch.terminated.tolist() == [False, False, True]
    assert batch.truncated.tolist() == [False, True, False]
    assert batch.auxiliary["height"].dtype == np.float64


def test_what_is_taken_is_nobody_elses(memory: ReplayMemory) -> None:
    batch = memory.take(np.array([0, 1]))
    for array in (batch.reward, batch.observation["position"], batch.observation["image"]):
        array[...] = 7
    again = memory.take(np.array([0]))
    assert again.reward[0] == -1.0 and not again.observation["position"].any()
    assert again.observation["image"][0, 0, 0, 0] == 0


def test_a_block_is_its_batches(memory: ReplayMemory) -> None:
    rows = memory.sample(np.random.default_rng(0), (5, 7))
    block = memory.take(rows)
    for index in range(5):
        one, other = block[index], memory.take(rows[index])
        np.testing.assert_array_equal(one.next_observation["image"], other.next_observation["image"])
        np.testing.assert_array_equal(one.observation["position"], other.observation["position"])
        np.testing.assert_array_equal(one.next_auxiliary["height"], other.next_auxiliary["height"])
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_array_equal(one.truncated, other.truncated)


def test_sampling_is_uniform_over_transitions(memory: ReplayMemory) -> None:
    rows, counts = np.unique(memory.sample(np.random.default_rng(0), 20_000), return_counts=True)
    assert rows.tolist() == memory.transitions.tolist()
    assert np.abs(counts / 2000 - 1).max() < 0.1


def test_mapped_columns_are_used_as_they_are(tmp_path: Path) -> None:
    columns = Columns.of([made(0, 4), made(1, 6)])
    file = tmp_path / "image.npy"
    np.save(file, columns.observation["image"])
    mapped = np.load(file, mmap_mode="r")
    memory = ReplayMemory(Columns(**{**columns.__dict__, "observation": {**columns.observation, "image": mapped}}))
    assert np.shares_memory(memory.observation["image"], mapped)
    batch = memory.take(memory.transitions)
    assert batch.observation["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12, 13, 14]
    assert batch.observation["image"].flags.writeable
    assert type(batch.observation["image"]) is np.ndarray


def test_no_transition_is_no_memory() -> None:
    lonely = made(0, 3)
    lonely.has_transition[:] = False
    for episodes in ([], [lonely], Columns.of([lonely])):
        with pytest.raises(UserError, match="hold no complete transition"):
            ReplayMemory(episodes)


# Bounded capacity.


def held(memory: ReplayMemory) -> list[int]:
    """Numbers of the episodes that can be sampled."""
    return sorted({int(n) for n in memory.take(memory.transitions).observation["position"][:, 0]})


def test_the_oldest_episodes_are_forgotten_whole() -> None:
    memory = ReplayMemory([], capacity=10, achieved_goal="position")
    with pytest.raises(UserError, match="the replay memory is empty"):
        memory.sample(np.random.default_rng(0), 1)
    for number in range(3):
        memory.append(made(number, 3))
    assert held(memory) == [0, 1, 2] and len(memory) == 6
    memory.append(made(3, 4))  # does not fit behind the others, and takes the place of two
    assert held(memory) == [2, 3] and len(memory) == 5
    memory.append(made(4, 2))
    assert held(memory) == [2, 3, 4]
    memory.append(made(5, 3))
    assert held(memory) == [3, 4, 5]
    for number in range(6, 200):
        memory.append(made(number, 2 + number % 7, terminated=number % 2 == 0))
        batch = memory.take(memory.transitions)
        assert number in batch.observation["position"][:, 0], "the newest is there"
        # Each transition lies within one episode, and ends where it should.
        np.testing.assert_array_equal(batch.next_observation["position"][:, 0], batch.observation["position"][:, 0])
        np.testing.assert_array_equal(batch.next_observation["position"][:, 1], batch.observation["position"][:, 1] + 1)
        np.testing.assert_array_equal(memory.achieved_goal[memory.transitions], batch.observation["position"])
        for row in memory.transitions:
            rows = np.arange(memory.first_row[row], memory.last_row[row] + 1)
            assert len(set(memory.episode[rows])) == 1 and len(rows) == 2 + memory.observation["position"][row, 0] % 7


def test_what_cannot_be_appended_is_refused(memory: ReplayMemory) -> None:
    with pytest.raises(UserError, match="an episode of 11 ticks does not fit a replay memory of 10"):
        ReplayMemory([], capacity=10).append(made(0, 11))
    with pytest.raises(UserError, match="no capacity to append to"):
        memory.append(made(0, 3))


def test_columns_can_begin_a_bounded_memory() -> None:
    memory = ReplayMemory(Columns.of([made(0, 4), made(1, 4)]), capacity=9)
    assert held(memory) == [0, 1]
    memory.append(made(2, 3))
    assert held(memory) == [1, 2]


# Hindsight.


def test_strategies_are_pure_functions_of_indices() -> None:
    rows, first, last = np.array([3, 3, 3, 8]), np.array([2, 2, 2, 6]), np.array([6, 6, 6, 9])
    uniform = np.array([0.0, 0.5, 0.999, 0.999])
    assert final(last).tolist() == [6, 6, 6, 9]
    assert future(rows, last, uniform).tolist() == [4, 5, 6, 9]
    assert episode(first, last, uniform).tolist() == [2, 4, 6, 9]
    assert random(np.array([0, 1, 5, 6]), uniform).tolist() == [1, 6, 7, 7]
    # With discount 0.5: one ahead below 0.5, two ahead below 0.75, and never behind the end.
    ahead = geometric_future(np.zeros(5, int), np.full(5, 3), np.array([0.0, 0.49, 0.51, 0.76, 0.9999]), 0.5)
    assert ahead.tolist() == [1, 1, 2, 3, 3]


def test_future_goals_are_uniform_over_what_follows(memory: ReplayMemory) -> None:
    hindsight = Hindsight({"future": 1.0}, reached)
    goals = hindsight.goal_rows(np.random.default_rng(0), memory, np.full((100, 300), 5))
    rows, counts = np.unique(goals, return_counts=True)
    assert rows.tolist() == [6, 7, 8, 9]
    assert np.abs(counts / 7500 - 1).max() < 0.05


def test_the_share_of_relabelled_transitions_is_k_of_k_plus_1(memory: ReplayMemory) -> None:
    assert relabelled_share(4) == 0.8
    hindsight = Hindsight({"future": relabelled_share(4)}, reached)
    goals = hindsight.goal_rows(np.random.default_rng(0), memory, memory.sample(np.random.default_rng(1), 20_000))
    assert (goals != OWN).mean() == pytest.approx(0.8, abs=0.01)


def test_a_new_goal_brings_the_reward_of_where_the_transition_arrives(memory: ReplayMemory) -> None:
    hindsight = Hindsight({"future": 1.0}, reached)
    rows, goal_rows = np.array([4, 4, 4, 2]), np.array([5, 6, OWN, 3])
    batch = hindsight.relabel(memory, rows, goal_rows, np.random.default_rng(0))
    np.testing.assert_array_equal(batch.desired_goal, [[1, 1], [1, 2], [-1, -1], [0, 3]])
    # Row 4 arrives at row 5: the goal of row 5 is reached, that of row 6 is not yet.
    assert batch.reward.tolist() == [1.0, 0.0, -1.0, 1.0]
    assert batch.reward.dtype == np.float32
    # That the old goal ended the episode says nothing of the new one.
    assert memory.take(rows).terminated.tolist() == [False, False, False, True]
    assert batch.terminated.tolist() == [False] * 4
    ending = Hindsight({"future": 1.0}, reached, compute_terminated=lambda a, g: reached(a, g) > 0)
    assert ending.relabel(memory, rows, goal_rows, np.random.default_rng(0)).terminated.tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_relabelling_a_block_is_relabelling_its_batches(memory: ReplayMemory) -> None:
    hindsight, rng = Hindsight({"final": 0.5, "random": 0.3}, reached), np.random.default_rng(0)
    rows = memory.sample(rng, (3, 50))
    goal_rows = hindsight.goal_rows(rng, memory, rows)
    block = hindsight.relabel(memory, rows, goal_rows, rng)
    for index in range(3):
        batch = hindsight.relabel(memory, rows[index], goal_rows[index], rng)
        np.testing.assert_array_equal(block[index].desired_goal, batch.desired_goal)
        np.testing.assert_array_equal(block[index].reward, batch.reward)


def test_strategies_can_be_mixed_with_a_prior(memory: ReplayMemory) -> None:
    def prior(rng: np.random.Generator, size: int) -> np.ndarray:
        return np.full((size, 2), 9, np.float32)

    hindsight, rng = Hindsight({"prior": 0.5, "final": 0.3}, reached, prior=prior), np.random.default_rng(0)
    rows = np.full(10_000, 4)
    goal_rows = hindsight.goal_rows(rng, memory, rows)
    assert {int(n): round(float((goal_rows == n).mean()), 1) for n in np.unique(goal_rows)} == {
        PRIOR: 0.5,
        OWN: 0.2,
        9: 0.3,
    }
    goals = hindsight.relabel(memory, rows, goal_rows, rng).desired_goal
    assert (goals[goal_rows == PRIOR] == 9).all()
    assert (goals[goal_rows == OWN] == -1).all()
    assert (goals[goal_rows == 9] == [1, 5]).all()


def test_mistakes_in_hindsight_are_named(memory: ReplayMemory) -> None:
    with pytest.raises(UserError, match="no hindsight strategy is named 'past'"):
        Hindsight({"past": 0.5}, reached)
    with pytest.raises(UserError, match="the shares add up to 1.4"):
        Hindsight({"future": 0.8, "final": 0.6}, reached)
    with pytest.raises(UserError, match="expected a share from 0 to 1 for future, got 4"):
        Hindsight({"future": 4}, reached)
    with pytest.raises(UserError, match="no prior is given"):
        Hindsight({"prior": 0.5}, reached)
    unknowing = ReplayMemory([made(0, 4)])
    with pytest.raises(UserError, match="name a key as goal.achieved_goal in the contract"):
        Hindsight({"future": 1.0}, reached).relabel(unknowing, np.array([0]), np.array([1]), np.random.default_rng(0))
    with pytest.raises(UserError, match="expected one of position, image, height, got 'depth'"):
        ReplayMemory([made(0, 4)], achieved_goal="depth")
    with pytest.raises(UserError, match="height has shape .1., but the desired goal has .2."):
        ReplayMemory([made(0, 4)], achieved_goal="height")


def test_the_contract_names_what_was_achieved() -> None:
    contract = Contract.load("lift")
    height = Key("/object/height", "sensor_msgs/msg/JointState", "position", (1,), names=("height",))
    goal = dataclasses.replace(contract.goal, achieved_goal="object_height")
    auxiliary = {**contract.auxiliary, "object_height": height}
    knowing = dataclasses.replace(contract, auxiliary=auxiliary, goal=goal)
    assert Contract.from_yaml(knowing.to_yaml(), "c.yaml") == knowing
    assert difference(contract, knowing) is None, "a policy sees nothing of it"
    for wrong in ("tool_position", "nothing"):
        text = knowing.to_yaml().replace("achieved_goal: object_height", f"achieved_goal: {wrong}")
        with pytest.raises(UserError, match=f"goal.achieved_goal: expected .* of shape .1., .* got '{wrong}'"):
            Contract.from_yaml(text, "c.yaml")


# Several tasks.


def test_another_tasks_reward_leaves_the_memory_alone(memory: ReplayMemory) -> None:
    def judge(values: dict[str, np.ndarray], desired_goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert values["image"].shape[1:] == (32, 32, 3) and desired_goal.shape[1:] == (2,)
        return values["position"][:, 1] * 10, values["height"][:, 0] >= 2.0

    other = memory.judged_by(judge)
    batch = other.take(np.array([0, 6, 7, 8]))
    assert batch.reward.tolist() == [10.0, 30.0, 40.0, 50.0]
    assert batch.terminated.tolist() == [False, False, True, True]
    assert batch.truncated.tolist() == [False, False, False, False], "an end is one or the other"
    assert memory.take(np.array([0, 8])).reward.tolist() == [-1.0, -5.0]
    assert memory.take(np.array([8])).truncated.tolist() == [True]
    assert np.shares_memory(other.observation["image"], memory.observation["image"])


def test_tasks_are_sampled_in_fixed_shares() -> None:
    memories = {"lift": ReplayMemory([made(n, 50) for n in range(5)]), "push": ReplayMemory([made(9, 3)])}
    rng = np.random.default_rng(0)
    batch, task = TaskMemories(memories).take(TaskMemories(memories).sample(rng, 64))
    assert np.bincount(task).tolist() == [32, 32]
    assert (batch.observation["position"][task == 1, 0] == 9).all()
    assert (batch.observation["position"][task == 0, 0] < 9).all()
    assert batch.next_observation["image"].shape == (64, 32, 32, 3)
    rows = TaskMemories(memories, {"lift": 3, "push": 1}).sample(rng, 10)
    assert sum(map(len, rows.values())) == 10 and len(rows["lift"]) == 8
    with pytest.raises(UserError, match="expected a positive number for each of lift, push"):
        TaskMemories(memories, {"lift": 1.0})
