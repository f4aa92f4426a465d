"""Advantage-weighted regression: two regressions, and no critic of actions at all.

Peng et al. 2019, "Advantage-Weighted Regression: Simple and Scalable Off-Policy Reinforcement Learning" (1910.00177).

1. The value V(s) is fitted to the returns that followed s in the recordings, as TD(λ) estimates them.
2. The policy clones the recorded actions, each weighted by the exponential of how much better than V(s) its return was.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ActorCriticConfig, ColumnOfMemory, lambda_returns, refuse_hindsight
from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.networks.policies import Policy

ROWS_AT_ONCE = 4096
"""Rows of a memory whose values are computed together."""


@dataclass(frozen=True)
class AdvantageWeightedRegressionConfig(ActorCriticConfig):
    """Settings of AWR. The paper alternates 200 steps of SGD with momentum for the value and 1000 for the policy, each
    from a buffer of 50,000; here both take one step of Adam an update, from all of the data."""

    trace: float = 0.95
    """λ of TD(λ): 0 looks one tick ahead, 1 to the end of the recording."""
    returns_every: int = 1000
    """Updates after which returns are estimated again, with the value function of then."""
    temperature: float = 1.0
    """β: advantages, in units of their standard deviation, are divided by it."""
    largest_weight: float = 20.0
    """No recorded action counts more than this."""


class AdvantageWeightedRegression(Algorithm):
    """A value function and an advantage-weighted policy of fixed standard deviation."""

    name: ClassVar[str] = "awr"
    config_type: ClassVar[type[Config]] = AdvantageWeightedRegressionConfig
    uses_returns: ClassVar[bool] = True
    config: AdvantageWeightedRegressionConfig

    def build(self) -> dict[str, nn.Module]:
        """The shared networks, `value`, and `past`: encoder and value as they were when returns were last estimated."""
        networks = super().build()
        encoder = cast(Policy, networks["policy"]).encoder
        networks["value"] = self.critic(1, encoder.size)
        past = nn.ModuleDict({"encoder": copy.deepcopy(encoder), "value": copy.deepcopy(networks["value"])})
        networks["past"] = past.requires_grad_(False)
        self._returns: ColumnOfMemory[np.ndarray] = ColumnOfMemory()
        return networks

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Algorithm.batches`; with the return of each transition.

        Raises:
            UserError: goals are relabelled, for which there are no returns.
        """
        refuse_hindsight(self)
        for begin, batch in zip(rows, super().batches(memory, rows, rng), strict=True):
            batch.extra["return"] = self._returns.get(memory, self._estimate).take(begin)
            yield batch

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The two losses share no weights."""
        config, policy = self.config, self.trained_policy
        value = self.networks["value"](features.detach())[0]
        advantage = batch.extra["return"] - value.detach()
        log_probability = policy.layout.log_probability(policy.distribution(features), batch.action, config.action_std)
        losses = {
            "value_loss": value_loss(value, batch.extra["return"]),
            "policy_loss": policy_loss(log_probability, advantage, config.temperature, config.largest_weight),
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"value": value.detach().mean(), "advantage_std": advantage.std()}
        return losses["value_loss"] + losses["policy_loss"], metrics

    def after_update(self) -> None:
        """Every so often, keep the value function that returns are estimated with from now on."""
        if self.updates % self.config.returns_every == 0:
            past = cast(nn.ModuleDict, self.networks["past"])
            past["encoder"].load_state_dict(self.trained_policy.encoder.state_dict())
            past["value"].load_state_dict(self.networks["value"].state_dict())
            self._returns.forget()

    def load_state_dict(self, state: Mapping[str, Tensor | np.ndarray]) -> None:
        """See `Algorithm.load_state_dict`."""
        super().load_state_dict(state)
        self._returns.forget()

    def _estimate(self, memory: ReplayMemory) -> np.ndarray:
        """TD(λ) returns, float32 (rows,). What follows where recording stopped is what the value function has learned
        of such states, as in the paper: advantages call for an estimate, not for a lower bound as in Cal-QL."""
        next_value = np.zeros(len(memory.reward), np.float32)
        for start in range(0, len(memory.transitions), ROWS_AT_ONCE):
            rows = memory.transitions[start : start + ROWS_AT_ONCE]
            next_value[rows] = self._past_value(memory.take(rows))
        return lambda_returns(memory, next_value, self.config.discount, self.config.trace)

    @torch.no_grad()
    def _past_value(self, batch: Batch) -> np.ndarray:
        """V(s') of the value function of then, float32 (batch,)."""
        past = cast(nn.ModuleDict, self.networks["past"])
        features = past["encoder"](self._tensors(batch.next_observation, 0), self._tensor(batch.desired_goal))
        value: np.ndarray = past["value"](features)[0].cpu().numpy()
        return value


def value_loss(value: Tensor, returns: Tensor) -> Tensor:
    """Algorithm 1, line 6: L_V = E[ ( G − V(s) )² ], from (batch,) each."""
    return (returns - value).square().mean()


def policy_loss(log_probability: Tensor, advantage: Tensor, temperature: float, largest: float) -> Tensor:
    """Algorithm 1, line 7: L_π = −E[ exp( ( G − V(s) ) / β ) log π(a|s) ], the weight at most `largest`.

    As in the authors' code, advantages are standardised over the batch first, so that β suits rewards of any scale.

    Args:
        log_probability: log π(a|s), (batch,).
        advantage: G − V(s), (batch,); no gradient flows to it.
        temperature: β.
    """
    advantage = advantage.detach()
    standardised = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
    weight = torch.exp(standardised / temperature).clamp(max=largest)
    return -(weight * log_probability).mean()
