"""Many environments stepped together: the same episodes wherever they are stepped, and nothing left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import wait_for

from rl_ros.episodes.memory import Episode, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.tasks.env import make
from rl_ros.tasks.task import make_task
from rl_ros.training.rollouts import Rollouts

REACH = partial(make, "rl_ros/Reach-v0")


class Wander:
    """Noisy, and different for each observation; counts how many it was asked for."""

    def __init__(self) -> None:
        self.rng, self.asked = np.random.default_rng(0), 0

    def __call__(self, observation: Mapping[str, np.ndarray], desired_goal: np.ndarray) -> np.ndarray:
        self.asked += len(desired_goal)
        towards = desired_goal - observation["tool_position"]
        return np.clip(towards + self.rng.normal(0.0, 0.1, towards.shape), -0.4, 0.4).astype(np.float32)


def arrays(episode: Episode) -> dict[str, np.ndarray]:
    return {
        **episode.observation,
        "desired_goal": episode.desired_goal,
        "action": episode.action,
        "reward": episode.reward,
        "truncated": episode.truncated,
        "has_transition": episode.has_transition,
    }


def segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


def test_the_number_of_workers_changes_nothing_and_nothing_is_left() -> None:
    found, before = [], segments()
    for workers in (0, 1, 3):
        with Rollouts(REACH, count=3, workers=workers) as rollouts:
            assert segments() <= before
            found.append(rollouts.collect(Wander(), range(5)))
    assert segments() <= before
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert one.seed == other.seed
            assert one.outcome == other.outcome
            for name, array in arrays(one).items():
                np.testing.assert_array_equal(array, arrays(other)[name])


def test_episodes_are_whole_and_mean_what_those_of_bags_mean() -> None:
    with Rollouts(REACH, count=2) as rollouts:
        act = Wander()
        episodes = rollouts.collect(act, [4, 9, 2])
        contract = rollouts.contract
        compute_reward = rollouts.environment.compute_reward
    assert [episode.seed for episode in episodes] == [4, 9, 2]
    assert act.asked == 150
    for episode in episodes:
        assert len(episode.stamps) == 51
        assert episode.has_transition.sum() == 50
        assert episode.truncated[49]
        assert not episode.terminated.any()
        assert episode.observation.keys() == contract.observation.keys()
        achieved = episode.observation["tool_position"][1:]
        np.testing.assert_array_equal(episode.reward[:50], compute_reward(achieved, episode.desired_goal[1:]))
        np.testing.assert_array_equal(episode.desired_goal[0], make_task("reach").goal_pose(episode.seed).astype("f4"))
        assert episode.outcome == ("success" if episode.reward[49] == 0.0 else "timeout")
    memory = ReplayMemory([], capacity=1000, achieved_goal=contract.goal.achieved_goal)
    for episode in episodes:
        memory.append(episode)
    assert len(memory) == 150


def test_a_run_goes_on_from_any_episode() -> None:
    with Rollouts(REACH, count=2) as rollouts:
        act = Wander()
        rollouts.collect(act, range(2))
        state = act.rng.bit_generator.state
        whole = rollouts.collect(act, range(2, 4))
    with Rollouts(REACH, count=2) as rollouts:
        act = Wander()
        act.rng.bit_generator.state = state
        resumed = rollouts.collect(act, range(2, 4))
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.observation["tool_position"], other.observation["tool_position"])


def test_experts_demonstrate() -> None:
    with Rollouts(REACH, count=2) as rollouts:
        episodes = rollouts.demonstrate(lambda: make_task("reach").expert(0.0), range(3))
    assert [episode.success for episode in episodes] == [True] * 3


def test_a_killed_worker_is_one_clear_error() -> None:
    with Rollouts(REACH, count=2, workers=2) as rollouts:
        rollouts.collect(Wander(), [0])
        os.kill(rollouts._processes[1].pid or 0, signal.SIGKILL)
        with pytest.raises(UserError, match="worker rollouts-1 was killed by SIGKILL; its episodes are lost"):
            rollouts.collect(Wander(), range(2))


FORSAKEN = """
import sys
from functools import partial
from rl_ros.tasks.env import make
from rl_ros.training.rollouts import Rollouts

rollouts = Rollouts(partial(make, "rl_ros/Reach-v0"), count=2, workers=2)
print(*(process.pid for process in rollouts._processes), flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_behind_when_the_first_process_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", FORSAKEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        lines = iter(first.stdout.readline, b"")
        workers = next(pids for pids in (line.split() for line in lines) if pids and all(map(bytes.isdigit, pids)))
        places = [Path("/proc") / worker.decode() for worker in workers]
        assert len(places) == 2
        assert all(_runs(place) for place in places)
        # The memory that they share has no name, so it goes with the last of them.
        assert not any("/dev/shm/" in (place / "maps").read_text() for place in places)
        first.kill()
        assert wait_for(lambda: not any(_runs(place) for place in places))


def _runs(process: Path) -> bool:
    """Whether a process is there and is not one that only waits to be buried."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_environment_that_fails_says_why() -> None:
    with Rollouts(REACH, count=1, workers=1) as rollouts, pytest.raises(UserError, match="rollouts-0 failed"):
        rollouts.collect(Wander(), [-7])


@pytest.mark.parametrize(("count", "workers"), [(0, 0), (2, 3), (2, -1)])
def test_numbers_that_make_no_sense_are_refused(count: int, workers: int) -> None:
    with pytest.raises(UserError, match="rollouts: expected 1 or more environments"):
        Rollouts(REACH, count, workers)
