"""Goal-conditioned implicit value learning: how far each goal is, and the recorded actions that bring it nearer.

Implicit Q-learning (Kostrikov et al. 2021, 2110.06169) with states alone, as in HIQL (Park et al. 2023, 2307.11949,
equation 4) and OGBench (Park et al. 2025, 2410.20092): no Q(s, a, g). A next state counts as the merit of the action
that led to it, which is right where the robot's motion is nearly deterministic, and optimistic about luck elsewhere.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.goal_conditioned import GoalConditioned, GoalConditionedConfig, GoalTransitions
from rl_ros.algorithms.iql import policy_loss
from rl_ros.networks.layers import move_towards
from rl_ros.networks.policies import Policy


@dataclass(frozen=True)
class GoalConditionedIVLConfig(GoalConditionedConfig):
    """Settings of goal-conditioned implicit value learning."""

    expectile: float = 0.9
    """τ: 0.5 makes V the mean over what was done, towards 1 the best of it."""
    temperature: float = 10.0
    """β: how strongly advantages weigh; 0 is cloning."""


class GoalConditionedIVL(GoalConditioned):
    """Twin expectile values of goals, and a policy that clones what brings them nearer."""

    name: ClassVar[str] = "gcivl"
    config_type: ClassVar[type[Config]] = GoalConditionedIVLConfig
    config: GoalConditionedIVLConfig

    def build(self) -> dict[str, nn.Module]:
        """The shared networks, the twin `value`, and its `target_value`, which no gradient moves."""
        networks = super().build()
        networks["value"] = self.value_network(cast(Policy, networks["policy"]))
        networks["target_value"] = copy.deepcopy(networks["value"]).requires_grad_(False)
        return networks

    def value_network(self, policy: Policy) -> nn.Module:
        """Two networks from the encoder's features (batch, size) to V(s, g), (2, batch)."""
        return self.critic(2, policy.encoder.size)

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The two losses share no weights, so that their sum descends each of them."""
        assert isinstance(batch, GoalTransitions)
        policy = self.trained_policy
        values, metrics = self.values(batch, features)
        with torch.no_grad():
            next_features = policy.encoder(batch.next_observation, batch.desired_goal)
            advantage = self.advantage(features, next_features)
        log_probability = policy.layout.log_probability(
            policy.distribution(features), batch.action, self.config.action_std
        )
        actor = policy_loss(log_probability, advantage, self.config.temperature)
        metrics |= {
            "policy_loss": actor.detach(),
            "advantage_std": advantage.std(),
            "cloning_loss": -log_probability.detach().mean(),
        }
        return values + actor, metrics

    def values(self, batch: GoalTransitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the value function, and metrics."""
        config, networks = self.config, self.networks
        state = self.with_goal(features, batch.value_goal).detach()
        with torch.no_grad():
            next_state = self.trained_policy.encoder(batch.next_observation, batch.value_goal)
            next_target, target = networks["target_value"](next_state), networks["target_value"](state)
        value = networks["value"](state)
        loss = implicit_value_loss(
            value, target, next_target, batch.value_reward, batch.value_terminated, config.discount, config.expectile
        )
        return loss, {"value_loss": loss.detach(), "value": value.detach().mean()}

    @torch.no_grad()
    def advantage(self, before: Tensor, after: Tensor) -> Tensor:
        """A = V(s', g) − V(s, g) from features of either, (batch,): by how much the goal came nearer."""
        value = self.networks["value"]
        nearer: Tensor = value(after).mean(0) - value(before).mean(0)
        return nearer

    def after_update(self) -> None:
        """Move the target values: θ̂ ← (1 − α) θ̂ + α θ."""
        move_towards(self.networks["target_value"], self.networks["value"], self.config.target_rate)


def implicit_value_loss(
    value: Tensor,
    target: Tensor,
    next_target: Tensor,
    reward: Tensor,
    terminated: Tensor,
    discount: float,
    expectile: float,
) -> Tensor:
    """Equation 4 of HIQL: L_V = E[ |τ − 1(A < 0)| ( r + γ V̂(s', g) − V(s, g) )² ], summed over the twins.

    A = r + γ min V̂(s', g) − mean V̂(s, g) is by the target networks and the same for both, so that they agree on which
    transitions were good; each then follows its own target network.

    Args:
        value: V(s, g) of both, (2, batch).
        target: V̂(s, g), (2, batch); no gradient flows to it.
        next_target: V̂(s', g), (2, batch); no gradient flows to it.
        reward: (batch,).
        terminated: 1 where the goal was reached, after which nothing counts, (batch,).
        discount: γ.
        expectile: τ.
    """
    goes_on = discount * (1.0 - terminated)
    advantage = reward + goes_on * next_target.detach().amin(0) - target.detach().mean(0)
    weight = torch.where(advantage < 0, 1.0 - expectile, expectile)
    difference = reward + goes_on * next_target.detach() - value
    return (weight * difference.square()).mean(1).sum()
