"""ReBRAC: TD3+BC with a penalty of its own for the policy and for the critics, and critics with LayerNorm.

Tarasov et al. 2023, "Revisiting the Minimalist Approach to Offline Reinforcement Learning" (2305.09836), which goes
back to the two penalties of BRAC (Wu et al. 2019, 1911.11361).

1. Two critics learn from reward and from the smaller of the target critics' answers at s', less the squared distance of
   the target policy's action there from the one that was recorded next.
2. The policy climbs Q, divided by its own size, and pays for its squared distance from the recorded action.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from rl_ros.algorithms.actor_critic import DelayedActorCritic, DelayedActorCriticConfig
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.ddpg import critic_loss
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.networks.layers import frozen
from rl_ros.networks.policies import DeterministicPolicy


@dataclass(frozen=True)
class ReBRACConfig(DelayedActorCriticConfig):
    """Settings of ReBRAC; the defaults are the paper's for locomotion. It chooses both penalties for each data set,
    from 0.001 to 0.1 for the policy and from 0 to 0.1 for the critics; those here are in the middle."""

    learning_rate: float = 1e-3
    batch_size: int = 1024
    hidden_layers: int = 3
    critic_layer_norm: bool = True
    policy_penalty: float = 0.01
    """β1: what the policy pays for its squared distance from the recorded action."""
    critic_penalty: float = 0.01
    """β2: what the critics' targets lose for the distance of the next action."""


class ReBRAC(DelayedActorCritic):
    """Twin critics and a deterministic policy, each with its own penalty."""

    name: ClassVar[str] = "rebrac"
    config_type: ClassVar[type[Config]] = ReBRACConfig
    config: ReBRACConfig

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Algorithm.batches`; with the action that was recorded next, and whether one was."""
        for begin, batch in zip(rows, super().batches(memory, rows, rng), strict=True):
            batch.extra["next_action"] = memory.action.take(begin + 1, axis=0)
            batch.extra["has_next"] = memory.has_transition.take(begin + 1)
            yield batch

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The critics' and the policy's loss share no weights."""
        config, critic, state = self.config, self.networks["critic"], features.detach()
        policy = cast(DeterministicPolicy, self.trained_policy)
        with torch.no_grad():
            next_state = self.next_features(batch)
            next_action = self.next_action(next_state)
            recorded = policy.layout.scale(batch.extra["next_action"])
            next_value = penalised_value(
                self.networks["target_critic"](next_state, next_action),
                next_action,
                recorded,
                batch.extra["has_next"].float(),
                config.critic_penalty,
            )
            target = self.target(batch, next_value)
        q = critic(state, batch.action)
        total = critic_loss(q, target)
        metrics = {"critic_loss": total.detach(), "q": q.detach().mean()}
        if self.policy_is_due:
            action = policy.action(features)
            loss = policy_loss(frozen(critic, state, action).amin(0), action, batch.action, config.policy_penalty)
            metrics["policy_loss"] = loss.detach()
            total = total + loss
        return total, metrics


def penalised_value(q: Tensor, action: Tensor, recorded: Tensor, has_recorded: Tensor, penalty: float) -> Tensor:
    """Equation 6, within the target: min_i Q'_i(s', a') − β2 ‖a' − â'‖², (batch,).

    Args:
        q: the target critics' answers at s', (critics, batch).
        action: a', (batch, A).
        recorded: â', the action that was recorded at s', (batch, A).
        has_recorded: 1 where there is one, (batch,); at the end of a recording nothing is known to be far from.
        penalty: β2.
    """
    return q.amin(0) - penalty * has_recorded * (action - recorded).square().sum(1)


def policy_loss(q: Tensor, action: Tensor, recorded: Tensor, penalty: float) -> Tensor:
    """Equation 5: L_π = −E[ Q(s, π(s)) ] / E[ |Q| ] + β1 E[ ‖π(s) − a‖² ].

    The size of Q is a constant to the gradient, and the square a sum over the entries of the action, as in the
    authors' code.

    Args:
        q: the smaller of the critics' answers to π(s), (batch,).
        action: π(s), (batch, A).
        recorded: a, (batch, A).
        penalty: β1.
    """
    return -q.mean() / q.detach().abs().mean() + penalty * (action - recorded).square().sum(1).mean()
