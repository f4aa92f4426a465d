"""Weighted goal-conditioned supervised learning: clone what leads to a goal, and most what leads there soon.

Yang et al. 2022, "Rethinking Goal-Conditioned Supervised Learning and Its Connection to Offline RL" (2202.04478).
Goals are those of GCSL, and each transition has three weights: less for goals far ahead, more for actions of large
advantage, and little for all but the best advantages. Works offline, and online on what its own policy collects.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.goal_conditioned import (
    GoalConditioned,
    GoalConditionedConfig,
    GoalTransitions,
    expected_action,
    reached,
)
from rl_ros.networks.layers import move_towards
from rl_ros.networks.policies import Policy


@dataclass(frozen=True)
class WeightedGCSLConfig(GoalConditionedConfig):
    """Settings of weighted goal-conditioned supervised learning.

    The value function's goals are, as in the paper, those of the same episode's future, and now and then the one that
    was asked for; `value_current` and `value_future` are not used.
    """

    relabelled: float = 0.8
    """Share of the value function's goals that are of hindsight."""
    best_share: float = 0.2
    """Share of the transitions whose advantage counts as among the best."""
    other_weight: float = 0.05
    """ε: weight of all the others."""
    largest_weight: float = 10.0
    """M: bound of the exponential of the advantage."""


class WeightedGCSL(GoalConditioned):
    """A critic of the policy, and a policy that clones by three weights."""

    name: ClassVar[str] = "wgcsl"
    config_type: ClassVar[type[Config]] = WeightedGCSLConfig
    config: WeightedGCSLConfig

    def build(self) -> dict[str, nn.Module]:
        """The shared networks, `critic`, and `target_critic`, which no gradient moves."""
        networks = super().build()
        features = cast(Policy, networks["policy"]).encoder.size
        networks["critic"] = self.critic(1, features + len(self.contract.action_low))
        networks["target_critic"] = copy.deepcopy(networks["critic"]).requires_grad_(False)
        return networks

    def value_shares(self) -> dict[str, float]:
        """See `GoalConditioned.value_shares`."""
        return {"future": self.config.relabelled}

    def judge(self, achieved: np.ndarray, arrived: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The paper's reward: 1 for each arrival within the tolerance, and no end; see `GoalConditioned.judge`."""
        there = reached(arrived, goal, self.config.tolerance)
        return there.astype(np.float32), np.zeros(len(there), bool)

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The two losses share no weights, so that their sum descends each of them."""
        assert isinstance(batch, GoalTransitions)
        config, policy = self.config, self.trained_policy
        with torch.no_grad():
            next_features = policy.encoder(batch.next_observation, batch.desired_goal)
            next_value = self._value(self.with_goal(next_features, batch.value_goal), "target_critic", self.policy)
            advantage = (
                batch.reward
                + config.discount * self._value(next_features, "critic", policy)
                - self._value(features, "critic", policy)
            )
        q = self.networks["critic"](self.with_goal(features, batch.value_goal).detach(), batch.action)[0]
        log_probability = policy.layout.log_probability(policy.distribution(features), batch.action, config.action_std)
        weight = compound_weight(
            batch.ahead, advantage, config.discount, config.best_share, config.other_weight, config.largest_weight
        )
        losses = {
            "critic_loss": critic_loss(q, batch.value_reward, next_value, config.discount),
            "policy_loss": -(weight * log_probability).mean(),
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics["q"] = q.detach().mean()
        metrics["weight"] = weight.mean()
        metrics["cloning_loss"] = -log_probability.detach().mean()
        return torch.stack(list(losses.values())).sum(), metrics

    def after_update(self) -> None:
        """Move the target critic: θ̂ ← (1 − α) θ̂ + α θ."""
        move_towards(self.networks["target_critic"], self.networks["critic"], self.config.target_rate)

    def _value(self, features: Tensor, critic: str, policy: Policy) -> Tensor:
        """V(s, g) = Q(s, π(s, g), g), (batch,)."""
        action = expected_action(policy.layout, policy.distribution(features))
        value: Tensor = self.networks[critic](features, action)[0]
        return value


def critic_loss(q: Tensor, reward: Tensor, next_value: Tensor, discount: float) -> Tensor:
    """L_TD = E[ ( r + γ Q̂(s', π̂(s', g), g) − Q(s, a, g) )² ], the target within what returns can be.

    Args:
        q: (batch,).
        reward: 0 or 1, (batch,).
        next_value: Q̂(s', π̂(s', g), g), (batch,); no gradient flows to it.
        discount: γ. Nothing terminates: a goal can be stayed at.
    """
    target = (reward + discount * next_value.detach()).clamp(0.0, 1.0 / (1.0 - discount))
    return (q - target).square().mean()


def compound_weight(
    ahead: Tensor, advantage: Tensor, discount: float, best_share: float, other_weight: float, largest_weight: float
) -> Tensor:
    """The compound weight w = γ^(i − t) · min( exp(A), M ) · ε(A).

    ε(A) is 1 for the best advantages and small for the others. The paper finds the best ones in a queue of recent
    advantages; here they are the best of the batch.

    Args:
        ahead: i − t, ticks until the goal was achieved, (batch,).
        advantage: A = r + γ V(s', g) − V(s, g), (batch,).
        discount: γ.
        best_share: share of the batch that is among the best.
        other_weight: ε of the others.
        largest_weight: M.
    """
    threshold = torch.quantile(advantage, 1.0 - best_share)
    best = torch.where(advantage >= threshold, 1.0, other_weight)
    return discount ** ahead.float() * torch.exp(advantage).clamp(max=largest_weight) * best
