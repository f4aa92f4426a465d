"""Random ensemble mixture: every update holds for another mixture of many critics.

Agarwal, Schuurmans and Norouzi 2020, "An Optimistic Perspective on Offline Reinforcement Learning" (1907.04543).

The paper's REM is a Q-learner for a few discrete actions. Actions here are continuous, so this is an actor-critic in
its spirit: the critic has many heads on shared layers, each update draws a random convex mixture of them that has to
be consistent with itself, and a policy climbs their mean where the paper takes the best action by it. Nothing holds
the policy to the data: it needs recordings of every kind of action, as those of a whole training are.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ActorCritic, ActorCriticConfig
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.networks.layers import frozen, move_towards, multilayer
from rl_ros.networks.policies import DeterministicPolicy, Policy


@dataclass(frozen=True)
class RandomEnsembleMixtureConfig(ActorCriticConfig):
    """Settings of REM. The paper's, for images of 84x84 and batches of 32, are a learning rate of 5e-5 and targets that
    are copied every 8000 updates."""

    heads: int = 200
    """Critics on shared hidden layers."""


class ManyHeads(nn.Module):
    """Many values of a state and an action, on shared hidden layers."""

    def __init__(self, inputs: int, config: RandomEnsembleMixtureConfig) -> None:
        super().__init__()
        sizes = [inputs] + [config.hidden_size] * config.hidden_layers + [config.heads]
        self.layers = multilayer(sizes, config.critic_layer_norm)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Values (batch, heads) of features (batch, size) and actions (batch, A)."""
        values: Tensor = self.layers(torch.cat([state, action], dim=1))
        return values


class RandomEnsembleMixture(ActorCritic):
    """A critic of many heads and a deterministic policy."""

    name: ClassVar[str] = "rem"
    config_type: ClassVar[type[Config]] = RandomEnsembleMixtureConfig
    config: RandomEnsembleMixtureConfig
    policy_type: ClassVar[type[Policy]] = DeterministicPolicy

    def build(self) -> dict[str, nn.Module]:
        """See `ActorCritic.build`, with a critic of many heads; and `target_actor`."""
        networks = super().build()
        policy = cast(Policy, networks["policy"])
        networks["critic"] = ManyHeads(policy.encoder.size + len(self.contract.action_low), self.config)
        networks["target_critic"] = copy.deepcopy(networks["critic"]).requires_grad_(False)
        networks["target_actor"] = copy.deepcopy(policy.actor).requires_grad_(False)
        return networks

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The critic's and the policy's loss share no weights."""
        critic, state = self.networks["critic"], features.detach()
        policy = cast(DeterministicPolicy, self.trained_policy)
        mixture = random_mixture(self.config.heads, self._generator)
        with torch.no_grad():
            next_state = self.next_features(batch)
            next_q = self.networks["target_critic"](next_state, torch.tanh(self.networks["target_actor"](next_state)))
            target = self.target(batch, next_q @ mixture)
        q = critic(state, batch.action)
        losses = {
            "critic_loss": mixture_loss(q, target, mixture),
            "policy_loss": policy_loss(frozen(critic, state, policy.action(features))),
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics["q"] = q.detach().mean()
        return losses["critic_loss"] + losses["policy_loss"], metrics

    def after_update(self) -> None:
        """Move the target networks: θ' ← τ θ + (1 − τ) θ'."""
        super().after_update()
        move_towards(self.networks["target_actor"], self.trained_policy.actor, self.config.target_rate)


def random_mixture(heads: int, generator: torch.Generator) -> Tensor:
    """α_k = α'_k / Σ α'_k with α'_k uniform from 0 to 1: a point of the simplex, (heads,); section 4.2."""
    uniform = torch.rand(heads, generator=generator)
    return uniform / uniform.sum()


def mixture_loss(q: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """Equation 6: E[ ℓ( Σ_k α_k Q_k(s, a) − r − γ Σ_k α_k Q'_k(s', a') ) ], where ℓ is Huber's with δ = 1.

    Args:
        q: (batch, heads).
        target: r + γ Σ_k α_k Q'_k(s', a'), (batch,); no gradient flows to it.
        mixture: α, (heads,).
    """
    return nn.functional.huber_loss(q @ mixture, target.detach())


def policy_loss(q: Tensor) -> Tensor:
    """L_π = −E[ 1/K Σ_k Q_k(s, π(s)) ], from (batch, heads): section 4.2 has the best action by that mean."""
    return -q.mean()
