"""Critic-regularised regression: clone only those recorded actions that the critic thinks better than the policy's own.

Wang et al. 2020, "Critic Regularized Regression" (2006.15134).

1. Critics Q(s, a) learn from reward and from what the policy would do at s'.
2. The advantage of a recorded action is Q(s, a) less the mean, or the greatest, of Q over a few of the policy's.
3. The policy clones the recorded actions through a filter: all or nothing (binary), or exponentially weighted (exp).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from rl_ros.algorithms.actor_critic import ActorCritic, ActorCriticConfig, of_several
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.ddpg import critic_loss
from rl_ros.networks.policies import Policy, SpreadPolicy


@dataclass(frozen=True)
class CriticRegularisedRegressionConfig(ActorCriticConfig):
    """Settings of CRR. The paper's critic is distributional and its targets are copied every 100 updates; here two
    critics, of which the smaller counts, and slow targets keep narrow data from driving values up."""

    filter: Literal["binary", "exp"] = "exp"
    """How an advantage becomes a weight."""
    advantage: Literal["mean", "max"] = "mean"
    """What of the policy's own actions a recorded one is compared with."""
    temperature: float = 1.0
    """β of the exponential filter: advantages are divided by it."""
    samples: int = 4
    """Of the policy's actions in each state."""
    largest_weight: float = 20.0
    """No recorded action counts more than this."""


class CriticRegularisedRegression(ActorCritic):
    """Twin critics and a filter for cloning."""

    name: ClassVar[str] = "crr"
    config_type: ClassVar[type[Config]] = CriticRegularisedRegressionConfig
    config: CriticRegularisedRegressionConfig
    policy_type: ClassVar[type[Policy]] = SpreadPolicy

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The critics' and the policy's loss share no weights."""
        config, critic, state = self.config, self.networks["critic"], features.detach()
        policy = cast(SpreadPolicy, self.trained_policy)
        with torch.no_grad():
            next_state = self.next_features(batch)
            next_actions = policy.several(next_state, config.samples, self._generator)
            next_q = of_several(self.networks["target_critic"], next_state, next_actions)
            target = self.target(batch, next_q.amin(0).mean(0))
            own = of_several(critic, state, policy.several(state, config.samples, self._generator)).amin(0)
        q = critic(state, batch.action)
        advantage = estimated_advantage(q.detach().amin(0), own, config.advantage)
        weight = filtered(advantage, config)
        log_probability = policy.log_probability(features, batch.action)
        losses = {"critic_loss": critic_loss(q, target), "policy_loss": policy_loss(log_probability, weight)}
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"q": q.detach().mean(), "advantage_std": advantage.std(), "weight": weight.mean()}
        return losses["critic_loss"] + losses["policy_loss"], metrics


def estimated_advantage(q: Tensor, own: Tensor, compared_with: Literal["mean", "max"]) -> Tensor:
    """Section 3.1: Q(s, a) − 1/m Σ_j Q(s, a_j), or Q(s, a) − max_j Q(s, a_j), (batch,).

    Args:
        q: of the recorded actions, (batch,).
        own: of m actions of the policy, (m, batch).
    """
    return q - (own.mean(0) if compared_with == "mean" else own.amax(0))


def filtered(advantage: Tensor, config: CriticRegularisedRegressionConfig) -> Tensor:
    """Equations 3 and 4: f = 1[ A > 0 ], or f = exp( A / β ), at most the largest weight; (batch,) each."""
    if config.filter == "binary":
        return (advantage > 0).float()
    return torch.exp(advantage / config.temperature).clamp(max=config.largest_weight)


def policy_loss(log_probability: Tensor, weight: Tensor) -> Tensor:
    """Equation 1: L_π = −E[ f(Q, π, s, a) log π(a|s) ], from log π(a|s) and f, (batch,) each."""
    return -(weight.detach() * log_probability).mean()
