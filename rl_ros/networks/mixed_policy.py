"""A policy with continuous entries and discrete ones, for critics that judge the discrete ones at their limits only.

Delalleau et al. 2019, "Discrete and Continuous Action Representation for Practical RL in Video Games" (1912.11077).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.networks.policies import (
    ActionLayout,
    Policy,
    limited_log_std,
    recorded_log_probability,
    squashed_log_probability,
)


@dataclass(frozen=True)
class MixedDistribution:
    """π(a|s) for a batch of observations; its actions are scaled to -1..1 and in the contract's order.

    Continuous entries are tanh of a Gaussian, discrete ones Bernoulli at -1 or 1, all independent of each other.
    """

    layout: ActionLayout
    choices: Tensor
    """Every combination of the discrete entries, (2^D, D)."""
    mean: Tensor
    """Of the Gaussian, (batch, C)."""
    log_std: Tensor
    """Its standard deviation's logarithm, (batch, C)."""
    logits: Tensor
    """Log-odds of each discrete entry being at 1, (batch, D)."""

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` actions (count, batch, A), whose continuous entries gradients flow through, and log π of each."""
        continuous, log_probability = self._draw_continuous(count, generator)
        if not self.logits.shape[1]:
            return continuous, log_probability
        uniform = torch.rand(count, *self.logits.shape, generator=generator)
        discrete = 2.0 * (uniform < torch.sigmoid(self.logits)).float() - 1.0
        return self._joined(continuous, discrete), log_probability + self._of_discrete(discrete)

    def every_choice(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """One draw of the continuous entries with every combination of the discrete ones: section 3.2.

        What is expected of an action is then exact in the discrete entries, and a loss compares one end with the other
        without ever looking between them.

        Returns:
            actions: (K, batch, A) for K = 2^D combinations.
            log_probability: log π of each, (K, batch).
            share: the probability of each combination, (K, batch); they add up to 1.
        """
        continuous, log_probability = self._draw_continuous(1, generator)
        if not self.logits.shape[1]:
            return continuous, log_probability, torch.ones_like(log_probability)
        choices = self.choices[:, None, :].expand(-1, len(self.logits), -1)
        log_share = self._of_discrete(choices)
        actions = self._joined(continuous.expand(len(choices), -1, -1), choices)
        return actions, log_probability + log_share, log_share.exp()

    def most_likely(self) -> Tensor:
        """tanh of the mean, and the likelier end of discrete entries: (batch, A)."""
        return self._joined(torch.tanh(self.mean), torch.where(self.logits > 0, 1.0, -1.0))

    def log_probability(self, action: Tensor) -> Tensor:
        """log π(a|s) of recorded actions (batch, A), (batch,)."""
        continuous = recorded_log_probability(action[:, self.layout.continuous], self.mean, self.log_std)
        return continuous + self._of_discrete(action[:, self.layout.discrete])

    def _draw_continuous(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(count, *self.mean.shape, generator=generator)
        u = self.mean + noise * self.log_std.exp()
        return torch.tanh(u), squashed_log_probability(u, noise, self.log_std)

    def _of_discrete(self, discrete: Tensor) -> Tensor:
        """log π of discrete entries (…, batch, D), (…, batch)."""
        return nn.functional.logsigmoid(torch.where(discrete > 0, self.logits, -self.logits)).sum(-1)

    def _joined(self, continuous: Tensor, discrete: Tensor) -> Tensor:
        return torch.cat([continuous, discrete], dim=-1)[..., self.layout.order()]


class MixedPolicy(Policy):
    """Continuous entries like those of `GaussianPolicy`, and discrete ones that are drawn from their two limits.

    What is exported acts by the most likely action.

    Raises:
        UserError: more discrete entries than `MOST_DISCRETE`.
    """

    outputs_per_entry = 2
    MOST_DISCRETE = 6
    """All combinations of discrete entries are tried; those of so many are 64."""

    choices: Tensor

    def __init__(self, contract: Contract, *arguments: Any, **options: Any) -> None:
        super().__init__(contract, *arguments, **options)
        discrete = len(self.layout.discrete)
        if discrete > self.MOST_DISCRETE:
            raise UserError(
                f"contract {contract.name}: the {discrete} discrete entries of its action have {2**discrete} "
                f"combinations, too many to try each of them in every state; {self.MOST_DISCRETE} are possible. "
                "Train iql or awac, which need not try them."
            )
        choices = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=discrete)))
        self.register_buffer("choices", choices, persistent=False)

    def mixed(self, features: Tensor) -> MixedDistribution:
        """What to do, given the encoder's features (batch, size)."""
        mean, log_std = self.actor(features).chunk(2, dim=1)
        continuous, discrete = self.layout.continuous, self.layout.discrete
        return MixedDistribution(
            layout=self.layout,
            choices=self.choices,
            mean=mean[:, continuous],
            log_std=limited_log_std(log_std[:, continuous]),
            logits=mean[:, discrete],
        )

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """See `Policy.forward`."""
        return self.layout.unscale(self.mixed(self.encoder(observation, desired_goal)).most_likely())

    def drawn(self, observation: Mapping[str, Tensor], desired_goal: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.drawn`."""
        actions, _ = self.mixed(self.encoder(observation, desired_goal)).draw(1, generator)
        return self.layout.unscale(actions[0])
