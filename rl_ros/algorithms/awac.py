"""AWAC: clone the recorded actions, each weighted by how much better it is than what the policy would do.

Nair et al. 2020, "AWAC: Accelerating Online Reinforcement Learning with Offline Datasets" (2006.09359).

1. Two critics Q(s, a) learn from reward and from what the policy would do at s'.
2. The advantage of a recorded action is Q(s, a) less V(s), the value of the policy's own actions.
3. The policy maximises the likelihood of the recorded actions, weighted by the exponential of their advantage: it is
   never asked to leave the data, and what it does is learned from as soon as it acts itself.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from rl_ros.algorithms.actor_critic import ActorCritic, ActorCriticConfig, of_several
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.ddpg import critic_loss
from rl_ros.networks.policies import Policy, SpreadPolicy


@dataclass(frozen=True)
class AdvantageWeightedActorCriticConfig(ActorCriticConfig):
    """Settings of AWAC. The authors' code has policies of four layers, batches of 1024 and a weight decay of 1e-4;
    two layers and batches of 256 score as well or better on D4RL (Tarasov et al. 2022, CORL, 2210.07105)."""

    temperature: float = 1.0 / 3.0
    """λ: advantages are divided by it; the larger, the closer to cloning. 1 or 2 in the authors' code, by the task."""
    samples: int = 1
    """Of the policy's actions, to estimate V(s) with."""
    largest_weight: float = 100.0
    """No recorded action counts more than this."""


class AdvantageWeightedActorCritic(ActorCritic):
    """Twin critics and an advantage-weighted policy."""

    name: ClassVar[str] = "awac"
    config_type: ClassVar[type[Config]] = AdvantageWeightedActorCriticConfig
    config: AdvantageWeightedActorCriticConfig
    policy_type: ClassVar[type[Policy]] = SpreadPolicy

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The critics' and the policy's loss share no weights."""
        config, critic, state = self.config, self.networks["critic"], features.detach()
        policy = cast(SpreadPolicy, self.trained_policy)
        with torch.no_grad():
            next_state = self.next_features(batch)
            next_action = policy.several(next_state, 1, self._generator)[0]
            target = self.target(batch, self.networks["target_critic"](next_state, next_action).amin(0))
            actions = policy.several(state, config.samples, self._generator)
            value = of_several(critic, state, actions).amin(0).mean(0)
        q = critic(state, batch.action)
        advantage = q.detach().amin(0) - value
        log_probability = policy.log_probability(features, batch.action)
        losses = {
            "critic_loss": critic_loss(q, target),
            "policy_loss": policy_loss(log_probability, advantage, config.temperature, config.largest_weight),
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"q": q.detach().mean(), "value": value.mean(), "advantage_std": advantage.std()}
        return losses["critic_loss"] + losses["policy_loss"], metrics


def policy_loss(log_probability: Tensor, advantage: Tensor, temperature: float, largest: float) -> Tensor:
    """Equation 13: L_π = −E[ exp( A(s, a) / λ ) log π(a|s) ], the weight at most `largest`.

    Args:
        log_probability: log π(a|s), (batch,).
        advantage: A(s, a) = Q(s, a) − V(s), (batch,); no gradient flows to it.
        temperature: λ.
    """
    weight = torch.exp(advantage.detach() / temperature).clamp(max=largest)
    return -(weight * log_probability).mean()
