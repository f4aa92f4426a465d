"""Policies: from an observation to an action of a contract."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rl_ros.contract import Contract
from rl_ros.networks.layers import Normalisation, ObservationEncoder, multilayer


@dataclass(frozen=True)
class ActionDistribution:
    """A policy's answer to a batch of observations."""

    mean: Tensor
    """float32 (batch, C): the continuous entries, each scaled so that its limits are -1 and 1."""
    logits: Tensor
    """float32 (batch, D): log-odds of each discrete entry being at its high limit."""


class ActionLayout(nn.Module):
    """Which entries of a contract's action are continuous and which discrete, and their limits."""

    low: Tensor
    high: Tensor
    continuous: Tensor
    discrete: Tensor

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        is_discrete = torch.from_numpy(contract.action_discrete)
        self.register_buffer("low", torch.from_numpy(contract.action_low), persistent=False)
        self.register_buffer("high", torch.from_numpy(contract.action_high), persistent=False)
        self.register_buffer("continuous", torch.nonzero(~is_discrete).flatten(), persistent=False)
        self.register_buffer("discrete", torch.nonzero(is_discrete).flatten(), persistent=False)

    def scale(self, action: Tensor) -> Tensor:
        """(batch, A) in the contract's units to the range -1..1."""
        return 2.0 * (action - self.low) / (self.high - self.low) - 1.0

    def most_likely(self, distribution: ActionDistribution) -> Tensor:
        """The mean of continuous entries and the likelier limit of discrete ones: (batch, A), contract units."""
        low, high = self.low[self.continuous], self.high[self.continuous]
        continuous = low + (distribution.mean + 1.0) / 2.0 * (high - low)
        continuous = torch.minimum(torch.maximum(continuous, low), high)  # rounding must not leave the limits
        discrete = torch.where(distribution.logits > 0, self.high[self.discrete], self.low[self.discrete])
        order = torch.argsort(torch.cat([self.continuous, self.discrete]))
        return torch.cat([continuous, discrete], dim=1)[:, order]

    def log_probability(self, distribution: ActionDistribution, action: Tensor, std: float) -> Tensor:
        """log π(a|s) of scaled actions (batch, A), up to a constant, float32 (batch,).

        Continuous entries are Gaussian about the mean with the fixed standard deviation `std`, in scaled units, so
        their part is a squared error; discrete entries are Bernoulli, so theirs is a cross entropy.
        """
        error = (action[:, self.continuous] - distribution.mean) / std
        is_high = (action[:, self.discrete] > 0).float()
        entropy = nn.functional.binary_cross_entropy_with_logits(distribution.logits, is_high, reduction="none")
        return -0.5 * error.square().sum(1) - entropy.sum(1)


class Policy(nn.Module):
    """An encoder of observations and an actor on its features. Raw observations go in, contract units come out."""

    def __init__(
        self, contract: Contract, normalisation: Normalisation, hidden_size: int = 256, image_features: int = 128
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(contract, normalisation, image_features)
        self.layout = ActionLayout(contract)
        self.actor = multilayer([self.encoder.size, hidden_size, hidden_size, len(contract.action_low)])

    def distribution(self, features: Tensor) -> ActionDistribution:
        """What to do, given the encoder's features (batch, size)."""
        output = self.actor(features)
        split = len(self.layout.continuous)
        return ActionDistribution(mean=torch.tanh(output[:, :split]), logits=output[:, split:])

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """The action to take, float32 (batch, A) in the contract's units and within its limits.

        Args:
            observation: by contract key, (batch, *shape), raw.
            desired_goal: (batch, G), raw; ignored unless the contract makes it an input.
        """
        return self.layout.most_likely(self.distribution(self.encoder(observation, desired_goal)))
