"""Policies: from an observation to an action of a contract."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    is_discrete: Tensor

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        is_discrete = torch.from_numpy(contract.action_discrete)
        self.register_buffer("low", torch.from_numpy(contract.action_low), persistent=False)
        self.register_buffer("high", torch.from_numpy(contract.action_high), persistent=False)
        self.register_buffer("is_discrete", is_discrete, persistent=False)
        self.register_buffer("continuous", torch.nonzero(~is_discrete).flatten(), persistent=False)
        self.register_buffer("discrete", torch.nonzero(is_discrete).flatten(), persistent=False)

    def scale(self, action: Tensor) -> Tensor:
        """(batch, A) in the contract's units to the range -1..1."""
        return 2.0 * (action - self.low) / (self.high - self.low) - 1.0

    def unscale(self, action: Tensor) -> Tensor:
        """The range -1..1 to the contract's units: clipped to the limits, discrete entries to the nearer of them."""
        continuous = self.low + (action + 1.0) / 2.0 * (self.high - self.low)
        continuous = torch.minimum(torch.maximum(continuous, self.low), self.high)  # rounding must not leave the limits
        return torch.where(self.is_discrete, torch.where(action > 0, self.high, self.low), continuous)

    def most_likely(self, distribution: ActionDistribution) -> Tensor:
        """The mean of continuous entries and the likelier limit of discrete ones: (batch, A), contract units."""
        low, high = self.low[self.continuous], self.high[self.continuous]
        continuous = low + (distribution.mean + 1.0) / 2.0 * (high - low)
        continuous = torch.minimum(torch.maximum(continuous, low), high)  # rounding must not leave the limits
        discrete = torch.where(distribution.logits > 0, self.high[self.discrete], self.low[self.discrete])
        return torch.cat([continuous, discrete], dim=1)[:, self.order()]

    def order(self) -> Tensor:
        """Where each entry of an action is when the continuous ones come first and the discrete ones after them."""
        return torch.argsort(torch.cat([self.continuous, self.discrete]))

    def log_probability(self, distribution: ActionDistribution, action: Tensor, std: float | Tensor) -> Tensor:
        """log π(a|s) of scaled actions (batch, A), up to a constant, float32 (batch,).

        Continuous entries are Gaussian about the mean with the standard deviation `std`, in scaled units, so
        their part is a squared error; discrete entries are Bernoulli, so theirs is a cross entropy.
        """
        error = (action[:, self.continuous] - distribution.mean) / std
        is_high = (action[:, self.discrete] > 0).float()
        entropy = nn.functional.binary_cross_entropy_with_logits(distribution.logits, is_high, reduction="none")
        return -0.5 * error.square().sum(1) - entropy.sum(1)


class Policy(nn.Module):
    """An encoder of observations and an actor on its features. Raw observations go in, contract units come out.

    Args:
        hidden_size: width of the actor's hidden layers.
        image_features: numbers that an image becomes.
        hidden_layers: how many of them.
        layer_norm: whether each is followed by a LayerNorm.
        vector_limit: standardised vectors are clipped to ± this; 0 leaves them as they are.
    """

    outputs_per_entry = 1
    """Numbers that the actor gives for each entry of the action."""

    def __init__(
        self,
        contract: Contract,
        normalisation: Normalisation,
        hidden_size: int = 256,
        image_features: int = 128,
        hidden_layers: int = 2,
        layer_norm: bool = False,
        vector_limit: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(contract, normalisation, image_features, vector_limit)
        self.layout = ActionLayout(contract)
        self._hidden, self._layer_norm = [hidden_size] * hidden_layers, layer_norm
        self.actor = self.hidden_network(self.encoder.size, self.outputs_per_entry * len(contract.action_low))

    def hidden_network(self, inputs: int, outputs: int) -> nn.Module:
        """A new network with hidden layers like the actor's."""
        return multilayer([inputs, *self._hidden, outputs], self._layer_norm)

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

    def drawn(self, observation: Mapping[str, Tensor], desired_goal: Tensor, generator: torch.Generator) -> Tensor:
        """An action to collect experience with, as `forward` gives it; a draw where the policy is a stochastic one."""
        return self(observation, desired_goal)


class SpreadPolicy(Policy):
    """A policy that also learns how widely its actions spread about their mean, the same for every observation.

    Continuous entries are Gaussian about tanh f(s), discrete ones Bernoulli; as in IQL (2110.06169) and AWAC
    (2006.09359). Its density at the limits of an action, where many recordings are, is finite: tanh of a Gaussian has
    none there. What is exported acts by the mean.
    """

    LOG_STD = -5.0
    """Least logarithm of the standard deviation; the greatest is 0, half of an action's range."""

    def __init__(self, contract: Contract, *arguments: Any, **options: Any) -> None:
        super().__init__(contract, *arguments, **options)
        self.spread = nn.Parameter(torch.full((len(self.layout.continuous),), -1.4))
        """At first the standard deviation is 0.37."""

    def log_std(self) -> Tensor:
        """Logarithm of the standard deviation of each continuous entry, (C,)."""
        return self.LOG_STD * torch.sigmoid(self.spread)

    def log_probability(self, features: Tensor, action: Tensor) -> Tensor:
        """log π(a|s) of actions (batch, A) scaled to -1..1, (batch,)."""
        log_std = self.log_std()
        part = self.layout.log_probability(self.distribution(features), action, log_std.exp())
        return part - (log_std + 0.5 * math.log(2.0 * math.pi)).sum()

    @torch.no_grad()
    def several(self, features: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` actions scaled to -1..1 and within it, (count, batch, A), without gradients."""
        distribution = self.distribution(features)
        noise = torch.randn(count, *distribution.mean.shape, generator=generator)
        continuous = (distribution.mean + noise * self.log_std().exp()).clamp(-1.0, 1.0)
        if not len(self.layout.discrete):
            return continuous
        uniform = torch.rand(count, *distribution.logits.shape, generator=generator)
        discrete = 2.0 * (uniform < torch.sigmoid(distribution.logits)).float() - 1.0
        return torch.cat([continuous, discrete], dim=2)[:, :, self.layout.order()]

    def drawn(self, observation: Mapping[str, Tensor], desired_goal: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.drawn`."""
        return self.layout.unscale(self.several(self.encoder(observation, desired_goal), 1, generator)[0])


class DeterministicPolicy(Policy):
    """a = tanh(f(s)): one action for each observation, every entry continuous from -1 to 1.

    For critics that are differentiated by the action. A discrete entry is learned as if it were continuous, and the
    nearer of its limits is what comes out.
    """

    def action(self, features: Tensor) -> Tensor:
        """The action (batch, A), scaled to -1..1, in the contract's order."""
        return torch.tanh(self.actor(features))

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """See `Policy.forward`."""
        return self.layout.unscale(self.action(self.encoder(observation, desired_goal)))


class GaussianPolicy(Policy):
    """a = tanh(u), where u is Gaussian with mean and standard deviation that depend on the observation.

    Haarnoja et al. 2018 (1801.01290), appendix C. What is exported acts by tanh of the mean. A discrete entry is
    learned as if it were continuous, and the nearer of its limits is what comes out.
    """

    outputs_per_entry = 2

    def gaussian(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of u, (batch, A) each."""
        mean, log_std = self.actor(features).chunk(2, dim=1)
        return mean, limited_log_std(log_std)

    def sample(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (batch, A) scaled to -1..1 that gradients flow through, and their log π(a|s), (batch,)."""
        mean, log_std = self.gaussian(features)
        noise = torch.randn(mean.shape, generator=generator)
        u = mean + noise * log_std.exp()
        return torch.tanh(u), squashed_log_probability(u, noise, log_std)

    def several(self, features: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` draws of u, (count, batch, A), that gradients flow through, and log π(tanh u|s), (count, batch)."""
        mean, log_std = self.gaussian(features)
        noise = torch.randn(count, *mean.shape, generator=generator)
        u = mean + noise * log_std.exp()
        return u, squashed_log_probability(u, noise, log_std)

    def log_probability(self, features: Tensor, action: Tensor) -> Tensor:
        """log π(a|s) of actions (batch, A) scaled to -1..1, (batch,)."""
        mean, log_std = self.gaussian(features)
        return recorded_log_probability(action, mean, log_std)

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """See `Policy.forward`."""
        mean, _ = self.gaussian(self.encoder(observation, desired_goal))
        return self.layout.unscale(torch.tanh(mean))

    def drawn(self, observation: Mapping[str, Tensor], desired_goal: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.drawn`."""
        return self.layout.unscale(self.sample(self.encoder(observation, desired_goal), generator)[0])


LOG_STD = (-5.0, 2.0)
"""Range of the logarithm of the standard deviation of a policy that is tanh of a Gaussian."""
EDGE = 1e-6
"""Recorded actions of such a policy count as at most 1 less this: at 1 itself u is infinite."""


def limited_log_std(output: Tensor) -> Tensor:
    """What an actor puts out, as the logarithm of a standard deviation within its range."""
    low, high = LOG_STD
    return low + (high - low) * (torch.tanh(output) + 1.0) / 2.0


def recorded_log_probability(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log π(a|s) of recorded actions (batch, A) scaled to -1..1 under tanh of a Gaussian, (batch,)."""
    u = torch.atanh(action.clamp(EDGE - 1.0, 1.0 - EDGE))
    return squashed_log_probability(u, (u - mean) * torch.exp(-log_std), log_std)


def squashed_log_probability(u: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """log π(tanh u): Σ log N(u; μ, σ) − log(1 − tanh² u), equation 21 of 1801.01290, (…, batch) from (…, batch, A).

    Args:
        noise: (u − μ) / σ.
        log_std: log σ.
    """
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    # log(1 − tanh² u), in a form that does not run out of digits.
    log_slope = 2.0 * (math.log(2.0) - u - nn.functional.softplus(-2.0 * u))
    return (log_normal - log_slope).sum(-1)
