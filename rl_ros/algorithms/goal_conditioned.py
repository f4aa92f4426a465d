"""What the goal-conditioned learners with a value function share: their goals, and what those are worth.

Every transition is seen with two goals of hindsight. The value function's is partly the goal already achieved, partly
one of the same episode's future, partly one of any episode, so that it also learns of goals that this episode did not
lead to: that is how pieces of episodes are stitched together. The policy's is one that the episode did reach later.
The shares are those of OGBench (Park et al. 2025, 2410.20092, appendix on goals). A value is then minus the discounted
number of ticks to the goal: the reward is −1 at each tick until the goal is reached, where the "episode" terminates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.contract import Contract
from rl_ros.episodes.hindsight import GoalBatch, draw_goal_rows, goals_at
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.layers import DESIRED_GOAL
from rl_ros.networks.policies import ActionDistribution, ActionLayout


@dataclass(frozen=True)
class GoalConditionedConfig(Config):
    """Settings of goal-conditioned learning."""

    weight_decay: float = 0.0
    vector_limit: float = 5.0
    batch_size: int = 256
    discount: float = 0.98
    """γ: what a reward one tick later is worth; about 1 − 1 / the ticks of an episode."""
    tolerance: float = 0.05
    """Distance from the goal, in its units, within which it counts as reached: the task's."""
    target_rate: float = 0.05
    """Share of the way that target networks move at each update. Ten times that of OGBench, whose trainings are of a
    million updates: values travel back about one tick in 1 / target_rate of them."""
    value_current: float = 0.2
    """Share of the value function's goals that the transition has already achieved."""
    value_future: float = 0.5
    """Share that its episode achieves later, n ticks ahead with probability (1 − γ) γ^(n−1); the others are random."""

    policy_goals: Literal["future", "geometric_future"] = "future"
    """Which of the ticks that its episode comes to later has the policy's goal: any as likely, as in OGBench, or near
    ones rather, as for the value function. The latter where episodes are long and go from one thing to another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.value_current >= 0 and self.value_future >= 0 and self.value_current + self.value_future <= 1):
            raise UserError(
                f"value_current and value_future: expected shares that add up to at most 1, got {self.value_current} "
                f"and {self.value_future}."
            )


@dataclass(frozen=True, kw_only=True)
class GoalTransitions(Transitions):
    """A batch as tensors; otherwise as in `rl_ros.episodes.hindsight.GoalBatch`."""

    value_goal: Tensor
    value_reward: Tensor
    value_terminated: Tensor
    ahead: Tensor
    sub_goal: Tensor | None
    sub_goal_observation: dict[str, Tensor]


class GoalConditioned(Algorithm):
    """Learns a value function and a policy of goals, from recordings that say which goals were achieved."""

    config_type: ClassVar[type[Config]] = GoalConditionedConfig
    relabels: ClassVar[bool] = True
    config: GoalConditionedConfig

    def build(self) -> dict[str, nn.Module]:
        """The shared networks; see `Algorithm.build`.

        Raises:
            UserError: the contract keeps the goal from the policy.
        """
        require_goal(self.contract, self.name)
        return super().build()

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """The transitions with goals of hindsight, as `GoalBatch`; see `Algorithm.batches`."""
        policy_rows = draw_goal_rows({self.config.policy_goals: 1.0}, rng, memory, rows, self.config.discount)
        value_rows = draw_goal_rows(self.value_shares(), rng, memory, rows, self.config.discount)
        for begin, policy, value in zip(rows, policy_rows, value_rows, strict=True):
            yield self.goal_batch(memory, begin, policy, value)

    def value_shares(self) -> dict[str, float]:
        """Where the value function's goals come from, as in `Hindsight`; the others are those that were asked for."""
        current, future = self.config.value_current, self.config.value_future
        return {"current": current, "geometric_future": future, "random": 1.0 - current - future}

    def judge(self, achieved: np.ndarray, arrived: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward float32 (batch,) and terminated bool (batch,) of transitions under a goal.

        Args:
            achieved: where the transition begins, (batch, G).
            arrived: where it arrives, (batch, G).
            goal: (batch, G).
        """
        there = reached(achieved, goal, self.config.tolerance)
        return there.astype(np.float32) - 1.0, there

    def goal_batch(
        self, memory: ReplayMemory, rows: np.ndarray, policy_rows: np.ndarray, value_rows: np.ndarray
    ) -> GoalBatch:
        """The transitions that begin at `rows` with goals from other rows, int64 (batch,) each."""
        plain = memory.take(rows)
        achieved, arrived = memory.achieved_goal.take(rows, axis=0), memory.achieved_goal.take(rows + 1, axis=0)
        value_goal = goals_at(memory.achieved_goal, plain.desired_goal, rows, value_rows)
        value_reward, value_terminated = self.judge(achieved, arrived, value_goal)
        plain.desired_goal = memory.achieved_goal.take(policy_rows, axis=0)
        plain.reward, plain.terminated = self.judge(achieved, arrived, plain.desired_goal)
        return GoalBatch(
            **{field.name: getattr(plain, field.name) for field in fields(plain)},
            value_goal=value_goal,
            value_reward=value_reward,
            value_terminated=value_terminated,
            ahead=policy_rows - rows,
        )

    def with_goal(self, features: Tensor, goal: Tensor) -> Tensor:
        """The encoder's features (batch, size) with another goal (batch, G) in the place of theirs, which is last."""
        encoded = self.trained_policy.encoder.vectors[DESIRED_GOAL](goal)
        return torch.cat([features[:, : -encoded.shape[1]], encoded], dim=1)

    def _transitions(self, batch: Batch, shift: int) -> GoalTransitions:
        if not isinstance(batch, GoalBatch):
            raise TypeError(f"{self.name} learns from the batches that its own method `batches` gives")
        plain: dict[str, Any] = vars(super()._transitions(batch, shift))
        return GoalTransitions(
            **plain,
            value_goal=self._tensor(batch.value_goal),
            value_reward=self._tensor(batch.value_reward),
            value_terminated=self._tensor(batch.value_terminated).float(),
            ahead=self._tensor(batch.ahead),
            sub_goal=None if batch.sub_goal is None else self._tensor(batch.sub_goal),
            sub_goal_observation=self._tensors(batch.sub_goal_observation, shift),
        )


def require_goal(contract: Contract, algorithm: str) -> None:
    """Refuse a contract that an algorithm cannot learn goals from.

    Raises:
        UserError: the policy does not see the goal, or nothing says which goal a tick has achieved.
    """
    if not contract.goal.policy_input or not contract.goal.achieved_goal:
        raise UserError(
            f"{algorithm} learns to reach goals: the contract {contract.name} must set goal.policy_input to true and "
            "name in goal.achieved_goal the key that says what a tick achieved."
        )


def reached(achieved: np.ndarray, goal: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether goals (..., G) are within the tolerance of what was achieved (..., G), bool (...)."""
    near: np.ndarray = np.linalg.norm(achieved - goal, axis=-1) < tolerance
    return near


def expected_action(layout: ActionLayout, distribution: ActionDistribution) -> Tensor:
    """E[a] of a policy's answer, scaled to -1..1, (batch, A): something that gradients of a critic flow through.

    A discrete entry is 1 with probability σ(logit) and −1 otherwise, tanh(logit / 2) on average.
    """
    return torch.cat([distribution.mean, torch.tanh(distribution.logits / 2.0)], dim=1)[:, layout.order()]
