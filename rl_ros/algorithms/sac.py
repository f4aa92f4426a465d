"""Soft actor-critic: reach the goal, and otherwise stay as undecided as possible.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (1812.05905). The policy is rewarded for its
entropy, so that it explores by itself; how much that is worth is learned, until the entropy is what was asked for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.ddpg import (
    DeterministicPolicyGradient,
    DeterministicPolicyGradientConfig,
    cloning_loss,
    policy_loss,
)
from rl_ros.networks.layers import frozen, move_towards
from rl_ros.networks.policies import GaussianPolicy, Policy


@dataclass(frozen=True)
class SoftActorCriticConfig(DeterministicPolicyGradientConfig):
    """Settings of SAC, beside those of DDPG; `noise` is not used, the policy has its own."""

    action_penalty: float = 0.0
    """None, as in the paper: entropy keeps the tanh from saturating."""
    random_share: float = 0.0
    entropy_per_entry: float = -1.0
    """Entropy that is asked of each entry of an action, nats."""
    first_temperature: float = 0.1
    """α, what a nat is worth, at the beginning."""


class Temperature(nn.Module):
    """α > 0, learned."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(first)))

    def forward(self) -> Tensor:
        """α, a scalar."""
        return self.log.exp()


class SoftActorCritic(DeterministicPolicyGradient):
    """Two critics, a policy that draws its actions, and the temperature."""

    name: ClassVar[str] = "sac"
    config_type: ClassVar[type[Config]] = SoftActorCriticConfig
    policy_type: ClassVar[type[Policy]] = GaussianPolicy
    config: SoftActorCriticConfig
    critics: ClassVar[int] = 2

    def build(self) -> dict[str, nn.Module]:
        """The policy, the critics and their targets, and the `temperature`."""
        networks = super().build()
        del networks["target_actor"]
        networks["temperature"] = Temperature(self.config.first_temperature)
        return networks

    def next_value(self, next_state: Tensor) -> Tensor:
        """minᵢ Q'ᵢ(s', a') − α log π(a'|s') with a' drawn from the policy, (batch,): equations 3 and 5."""
        policy = cast(GaussianPolicy, self.trained_policy)
        action, log_probability = policy.sample(next_state, self._generator)
        value: Tensor = self.networks["target_critic"](next_state, action).amin(0)
        return value - self.networks["temperature"]() * log_probability

    def policy_losses(self, batch: Transitions, features: Tensor, q: Tensor) -> dict[str, Tensor]:
        """See `DeterministicPolicyGradient.policy_losses`; and the temperature's."""
        policy, config = cast(GaussianPolicy, self.trained_policy), self.config
        action, log_probability = policy.sample(features, self._generator)
        value = frozen(self.networks["critic"], features.detach(), action).amin(0)
        temperature = self.networks["temperature"]()
        soft = value - temperature.detach() * log_probability
        losses = {"policy_loss": policy_loss(soft, action, config.action_penalty)}
        target = config.entropy_per_entry * action.shape[1]
        losses["temperature_loss"] = temperature_loss(temperature, log_probability, target)
        if config.cloning_weight > 0:
            better = batch.demonstration * (q.amin(0) > value.detach())
            losses["cloning_loss"] = config.cloning_weight * cloning_loss(action, batch.action, better)
        return losses

    @torch.no_grad()
    def explore(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """An action drawn from the policy, or for a share of the rows a uniformly random one."""
        policy, generator = cast(GaussianPolicy, self.trained_policy), self._generator
        action, _ = policy.sample(policy.encoder(observation, desired_goal), generator)
        random = 2.0 * torch.rand(action.shape, generator=generator) - 1.0
        chosen = torch.rand(len(action), 1, generator=generator) < self.config.random_share
        return policy.layout.unscale(torch.where(chosen, random, action))

    def after_update(self) -> None:
        """Move the target critics: θ' ← (1 − τ) θ' + τ θ."""
        move_towards(self.networks["target_critic"], self.networks["critic"], self.config.target_rate)


def temperature_loss(temperature: Tensor, log_probability: Tensor, target_entropy: float) -> Tensor:
    """Equation 18: J(α) = E[ −α ( log π(a|s) + H̄ ) ], from log π(a|s) (batch,), which no gradient flows to."""
    return -temperature * (log_probability.detach().mean() + target_entropy)
