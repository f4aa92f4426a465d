"""TD3+BC: an off-policy actor-critic that is also asked to do what was done.

Fujimoto and Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning" (2106.06860), on the twin delayed
critics of Fujimoto, van Hoof and Meger 2018, "Addressing Function Approximation Error in Actor-Critic Methods"
(1802.09477).

1. Two critics Q(s, a) learn from reward and from the smaller of the target critics' answers at s', where the target
   policy acts with a little noise. Unlike the paper's they have layer norm; `critic_layer_norm=false` takes it away.
2. The policy climbs Q and is held to the recorded actions by a squared error. Q is divided by its own size, so that
   one weight suits rewards of any scale.
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import DelayedActorCritic, DelayedActorCriticConfig
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.ddpg import critic_loss
from rl_ros.networks.layers import frozen
from rl_ros.networks.policies import DeterministicPolicy


@dataclass(frozen=True)
class TD3PlusBehaviourCloningConfig(DelayedActorCriticConfig):
    """Settings of TD3+BC; the defaults are the paper's, but for the critics' layer norm.

    It keeps Q from running away where the data say nothing (Ball et al. 2023, 2302.02948, section 4.2), and scored
    higher on locomotion and on pick and place in what is measured in `benchmarks/`.
    """

    critic_layer_norm: bool = True
    alpha: float = 2.5
    """α: weight of Q, in units of its own size, against the squared error of cloning; 0 is behaviour cloning."""


class TD3PlusBehaviourCloning(DelayedActorCritic):
    """Twin critics and a deterministic policy held to the data."""

    name: ClassVar[str] = "td3_bc"
    config_type: ClassVar[type[Config]] = TD3PlusBehaviourCloningConfig
    config: TD3PlusBehaviourCloningConfig

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The critics' and the policy's loss share no weights."""
        config, critic, state = self.config, self.networks["critic"], features.detach()
        policy = cast(DeterministicPolicy, self.trained_policy)
        with torch.no_grad():
            next_state = self.next_features(batch)
            next_action = self.next_action(next_state)
            target = self.target(batch, self.networks["target_critic"](next_state, next_action).amin(0))
        q = critic(state, batch.action)
        total = critic_loss(q, target)
        metrics = {"critic_loss": total.detach(), "q": q.detach().mean()}
        if self.policy_is_due:
            action = policy.action(features)
            loss = policy_loss(frozen(critic, state, action, first=1)[0], action, batch.action, config.alpha)
            metrics["policy_loss"] = loss.detach()
            total = total + loss
        return total, metrics


def policy_loss(q: Tensor, action: Tensor, recorded: Tensor, alpha: float) -> Tensor:
    """Equations 3 and 5: L_π = −λ E[ Q(s, π(s)) ] + E[ (π(s) − a)² ] with λ = α / E[ |Q(s, π(s))| ].

    λ is a constant to the gradient, and the square is a mean over the entries of the action, as in the authors' code.

    Args:
        q: Q(s, π(s)) of the first critic, (batch,).
        action: π(s), (batch, A).
        recorded: a, (batch, A).
        alpha: α.
    """
    weight = alpha / q.detach().abs().mean()
    return -weight * q.mean() + nn.functional.mse_loss(action, recorded)
