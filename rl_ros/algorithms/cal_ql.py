"""Calibrated Q-learning: conservative, but never below what the recordings did get. For policies to be tuned online.

Nakamoto et al. 2023, "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning" (2303.05479).

Conservative Q-learning (see `cql.py`) values the policy's actions so low that the first rewards earned online look like
a discovery, and what was learned is forgotten. Here their values are pushed down no further than the return of the
recorded behaviour. That return must not be more than the behaviour is worth, or the penalty is off everywhere; what it
is taken for where a recording was cut off is said at `lower_returns`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ColumnOfMemory, lambda_returns, refuse_hindsight
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.cql import ConservativeQLearning, ConservativeQLearningConfig
from rl_ros.episodes.memory import Batch, ReplayMemory


@dataclass(frozen=True)
class CalibratedQLearningConfig(ConservativeQLearningConfig):
    """Settings of Cal-QL: those of CQL."""


class CalibratedQLearning(ConservativeQLearning):
    """Conservative Q-learning with the returns of the recordings as a lower bound."""

    name: ClassVar[str] = "cal_ql"
    config_type: ClassVar[type[Config]] = CalibratedQLearningConfig
    uses_returns: ClassVar[bool] = True
    config: CalibratedQLearningConfig

    def build(self) -> dict[str, nn.Module]:
        """See `ConservativeQLearning.build`."""
        self._returns: ColumnOfMemory[np.ndarray] = ColumnOfMemory()
        return super().build()

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Algorithm.batches`; with the Monte Carlo return of each transition.

        Raises:
            UserError: goals are relabelled, for which there are no returns.
        """
        refuse_hindsight(self)
        returns = self._returns.get(memory, lambda memory: lower_returns(memory, self.config.discount))
        for begin, batch in zip(rows, super().batches(memory, rows, rng), strict=True):
            batch.extra["return"] = returns.take(begin)
            yield batch

    def sampled_values(self, sampled: Tensor, uniform: int, batch: Transitions) -> Tensor:
        """See `ConservativeQLearning.sampled_values`."""
        return torch.cat([sampled[:, :uniform], calibrated(sampled[:, uniform:], batch.extra["return"])], dim=1)


def calibrated(q: Tensor, returns: Tensor) -> Tensor:
    """Equation 5.1: max( Q(s, a), V^μ(s) ), where V^μ is the return of the recorded behaviour.

    Where the return is the larger no gradient flows, so that Q is pushed down no further.

    Args:
        q: of the policy's actions, (critics, samples, batch).
        returns: (batch,).
    """
    return torch.maximum(q, returns)


def lower_returns(memory: ReplayMemory, discount: float) -> np.ndarray:
    """The Monte Carlo return of each transition, float32 (rows,): no more than the recorded behaviour is worth.

    Where recording stopped before an end, what follows is taken to be min( r, 0 ) / (1 − γ), r the last reward: if that
    is negative it goes on like that, and otherwise nothing more is earned.

    - −1 a tick and 0 at the goal: an episode without success is worth −1 / (1 − γ) at each of its ticks, as in the
      authors' code for sparse rewards; one that was cut off at its goal stays there.
    - 0 a tick and 1 at the goal: what was seen, as nothing negative can follow.
    - Dense: that rewards go on to be worth at least 0, or the last of them if that is less, is an assumption. It holds
      where none is negative, as for most of what walks; where worse ones follow the bound is too high by those.

    Args:
        memory: the episodes.
        discount: γ.
    """
    return lambda_returns(memory, np.minimum(memory.reward, 0.0) / (1.0 - discount), discount, trace=1.0)
