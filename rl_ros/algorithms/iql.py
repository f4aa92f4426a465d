"""Implicit Q-learning: learn which recorded actions were good, without ever asking about others.

Kostrikov, Nair and Levine 2021, "Offline Reinforcement Learning with Implicit Q-Learning" (2110.06169).

1. The value V(s) is an upper expectile of Q(s, a) over the recorded actions: what good behaviour would get from s.
2. Two critics Q(s, a) learn from reward and V(s'), so no action outside the data is ever evaluated.
3. The policy clones the recorded actions, each weighted by how much better than V(s) it was.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.networks.layers import move_towards
from rl_ros.networks.policies import Policy


@dataclass(frozen=True)
class ImplicitQLearningConfig(Config):
    """Settings of implicit Q-learning."""

    discount: float = 0.97
    """γ: what a reward one tick later is worth."""
    expectile: float = 0.8
    """τ: 0.5 makes V the mean of Q, towards 1 its maximum."""
    temperature: float = 10.0
    """β: how strongly advantages weigh; 0 is behaviour cloning."""
    target_rate: float = 0.05
    """Share of the way that the target critics move at each update. Ten times the paper's: rewards travel back about
    one tick in 1 / α updates, and a training of minutes has thousands of them where the paper's has a million."""


class ImplicitQLearning(Algorithm):
    """Expectile value, twin critics, advantage-weighted policy.

    One encoder serves all. It learns from the policy's and the auxiliary loss; value and critics take its features
    as they are, so that their errors, large at first, do not spoil what the policy sees.
    """

    name: ClassVar[str] = "iql"
    config_type: ClassVar[type[Config]] = ImplicitQLearningConfig
    config: ImplicitQLearningConfig

    def build(self) -> dict[str, nn.Module]:
        """The shared networks, `value`, the twin `critic`, and its `target_critic`, which no gradient moves."""
        networks = super().build()
        features = cast(Policy, networks["policy"]).encoder.size
        networks["value"] = self.critic(1, features)
        networks["critic"] = self.critic(2, features + len(self.contract.action_low))
        networks["target_critic"] = copy.deepcopy(networks["critic"]).requires_grad_(False)
        return networks

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The three losses share no weights, so that their sum descends each of them."""
        config, policy = self.config, self.trained_policy
        state = features.detach()
        with torch.no_grad():
            next_state = policy.encoder(batch.next_observation, batch.desired_goal)
            next_value = self.networks["value"](next_state)[0]
            target_q = self.networks["target_critic"](state, batch.action).amin(0)
        value = self.networks["value"](state)[0]
        q = self.networks["critic"](state, batch.action)
        log_probability = policy.layout.log_probability(policy.distribution(features), batch.action, config.action_std)
        advantage = target_q - value

        losses = {
            "value_loss": value_loss(target_q, value, config.expectile),
            "critic_loss": critic_loss(q, batch.reward, batch.terminated, next_value, config.discount),
            "policy_loss": policy_loss(log_probability, advantage, config.temperature),
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"q": q.detach().mean(), "value": value.detach().mean()}
        metrics["advantage_std"] = advantage.detach().std()
        metrics["cloning_loss"] = -log_probability.detach().mean()
        return torch.stack(list(losses.values())).sum(), metrics

    def after_update(self) -> None:
        """Move the target critics: θ̂ ← (1 − α) θ̂ + α θ."""
        move_towards(self.networks["target_critic"], self.networks["critic"], self.config.target_rate)


def value_loss(target_q: Tensor, value: Tensor, expectile: float) -> Tensor:
    """Equation 5: L_V = E[ L2^τ( Q̂(s, a) − V(s) ) ], where L2^τ(u) = |τ − 1(u < 0)| u².

    Args:
        target_q: the smaller of the target critics' answers, (batch,); no gradient flows to it.
        value: V(s), (batch,).
        expectile: τ.
    """
    difference = target_q.detach() - value
    weight = torch.where(difference < 0, 1.0 - expectile, expectile)
    return (weight * difference.square()).mean()


def critic_loss(q: Tensor, reward: Tensor, terminated: Tensor, next_value: Tensor, discount: float) -> Tensor:
    """Equation 6: L_Q = E[ ( r + γ V(s') − Q(s, a) )² ], summed over the critics.

    An episode that terminated has no s'; one that was truncated has, and its value counts.

    Args:
        q: both critics' answers, (critics, batch).
        reward: (batch,).
        terminated: 1 where the episode ended by the task's doing, (batch,).
        next_value: V(s'), (batch,); no gradient flows to it.
        discount: γ.
    """
    target = reward + discount * (1.0 - terminated) * next_value.detach()
    return (q - target).square().mean(1).sum()


def policy_loss(log_probability: Tensor, advantage: Tensor, temperature: float, largest: float = 100.0) -> Tensor:
    """Equation 7: L_π = −E[ exp( β ( Q̂(s, a) − V(s) ) ) log π(a|s) ], the weight at most `largest`.

    Args:
        log_probability: log π(a|s), (batch,).
        advantage: Q̂(s, a) − V(s), (batch,); no gradient flows to it.
        temperature: β.
    """
    weight = torch.exp(temperature * advantage.detach()).clamp(max=largest)
    return -(weight * log_probability).mean()
