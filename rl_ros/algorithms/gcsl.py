"""Goals by cloning: whatever an episode came to was, in hindsight, what it set out for.

Goal-conditioned behaviour cloning and goal-conditioned supervised learning, which are one loss with goals drawn in two
ways. No rewards, no values: a failure is a demonstration of how to get where it ended. What neither can do is tell a
straight way from a detour, or join the beginning of one episode to the end of another.

GCSL collects its own data and clones those, again and again: online, its policy acts between updates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from rl_ros.algorithms.base import Config
from rl_ros.algorithms.bc import BehaviourCloning, BehaviourCloningConfig
from rl_ros.algorithms.goal_conditioned import require_goal
from rl_ros.episodes.hindsight import draw_goal_rows
from rl_ros.episodes.memory import Batch, ReplayMemory


@dataclass(frozen=True)
class GoalConditionedCloningConfig(BehaviourCloningConfig):
    """Settings of goal-conditioned cloning."""

    weight_decay: float = 0.0
    vector_limit: float = 5.0
    batch_size: int = 256


class GoalConditionedCloning(BehaviourCloning):
    """Maximise E[ log π(a_t | s_t, g) ], g achieved at a tick drawn uniformly from t+1 to the end of the episode.

    As in OGBench (Park et al. 2025, 2410.20092); Lynch et al. 2019 (1903.01973) call it Play-GCBC.
    """

    name: ClassVar[str] = "gcbc"
    config_type: ClassVar[type[Config]] = GoalConditionedCloningConfig
    relabels: ClassVar[bool] = True

    def build(self) -> dict[str, nn.Module]:
        """The policy; see `Algorithm.build`.

        Raises:
            UserError: the contract keeps the goal from the policy.
        """
        require_goal(self.contract, self.name)
        return super().build()

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """The transitions with goals of hindsight; see `Algorithm.batches`."""
        begins, goal_rows = self.pairs(memory, rows, rng)
        for begin, goals in zip(begins, goal_rows, strict=True):
            batch = memory.take(begin)
            batch.desired_goal = memory.achieved_goal.take(goals, axis=0)
            yield batch

    def pairs(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows to act at and rows whose achieved goals to act for, int64 of the shape of `rows` each."""
        return rows, draw_goal_rows({"future": 1.0}, rng, memory, rows, discount=1.0)


class GoalConditionedSupervisedLearning(GoalConditionedCloning):
    """Maximise E[ log π(a_t | s_t, g = s_t') ], t < t' drawn uniformly from an episode's pairs of ticks.

    Ghosh et al. 2021, "Learning to Reach Goals via Iterated Supervised Learning" (1912.06088). The
    paper's policy is categorical, over actions in 3 bins a dimension; here it is a Gaussian of constant standard
    deviation, so that actions are as fine as the robot's. As in the paper's experiments the policy is not told how
    many ticks are left.
    """

    name: ClassVar[str] = "gcsl"

    def pairs(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See `GoalConditionedCloning.pairs`."""
        return uniform_pairs(memory, rows, rng)


def uniform_pairs(memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows t < t' of each row's episode, all its pairs of ticks alike.

    A t in the middle of a gap has no action to clone: there the row itself is t, and the episode's end t'.
    """
    first, last = memory.first_row.take(rows), memory.last_row.take(rows)
    one = first + (rng.random(rows.shape) * (last - first + 1)).astype(np.int64)
    other = first + (rng.random(rows.shape) * (last - first)).astype(np.int64)
    other += other >= one
    begin, goal = np.minimum(one, other), np.maximum(one, other)
    usable = memory.has_transition.take(begin)
    return np.where(usable, begin, rows), np.where(usable, goal, last)
