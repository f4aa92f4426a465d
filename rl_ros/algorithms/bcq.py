"""Batch-constrained Q-learning: choose the best of a few actions like the recorded ones.

Fujimoto, Meger and Precup 2019, "Off-Policy Deep Reinforcement Learning without Exploration" (1812.02900).

1. A variational auto-encoder learns to draw actions like those recorded in a state.
2. A perturbation moves each of them a little, towards what the first critic likes.
3. Two critics learn from reward and the best of several such actions at s', judged mostly by the smaller critic.
4. The policy draws many such actions and takes the one that the first critic likes best.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ActorCriticConfig, most_and_least, of_several
from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.algorithms.ddpg import bellman_target, critic_loss
from rl_ros.contract import Contract
from rl_ros.networks.action_vae import ActionVAE
from rl_ros.networks.critics import StackedCritic
from rl_ros.networks.layers import frozen, move_towards, multilayer
from rl_ros.networks.policies import Policy


@dataclass(frozen=True)
class BatchConstrainedQLearningConfig(ActorCriticConfig):
    """Settings of BCQ. The paper's critics and perturbation have layers of 400 and 300, and its batches are of 100."""

    learning_rate: float = 1e-3
    vae_hidden_size: int = 750
    """Width of the auto-encoder's layers."""
    perturbation: float = 0.05
    """Φ: largest perturbation, where half of an action's range is 1."""
    target_samples: int = 10
    """Actions among which the best one at s' is sought."""
    samples: int = 100
    """Actions among which the policy chooses."""
    least_share: float = 0.75
    """λ: share of the smaller critic in a target; the rest is the larger one's."""


class ChoosingPolicy(Policy):
    """Takes, of several actions, the one that the first critic likes best."""

    critic: StackedCritic

    def candidates(self, state: Tensor) -> Tensor:
        """The actions to choose from, (count, batch, A), scaled to -1..1, given features (batch, size)."""
        raise NotImplementedError

    def forward(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """See `Policy.forward`."""
        state = self.encoder(observation, desired_goal)
        return self.layout.unscale(best_action(self.critic, state, self.candidates(state)))

    def equally_good(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """Every candidate for one observation whose value cannot be told from the best one's, (n, A)."""
        state = self.encoder(observation, desired_goal)
        return self.layout.unscale(best_actions(self.critic, state, self.candidates(state)))


class BatchConstrainedPolicy(ChoosingPolicy):
    """Draws actions like the recorded ones, perturbs them, and takes the best. Discrete entries go to their limits.

    Its draws are the same for every observation, made once, so that the same observation gives the same action.
    """

    latents: Tensor

    def __init__(self, contract: Contract, *arguments: Any, **options: Any) -> None:
        super().__init__(contract, *arguments, **options)
        self.register_buffer("latents", torch.zeros(0))

    def complete(self, vae: ActionVAE, critic: StackedCritic, config: BatchConstrainedQLearningConfig) -> None:
        """Add what the configuration decides on; must be called before anything else."""
        self.vae, self.critic, self.limit = vae, critic, config.perturbation
        size, action = self.encoder.size, len(self.layout.is_discrete)
        self.actor = multilayer([size + action] + [config.hidden_size] * config.hidden_layers + [action])
        self.latents = torch.randn(config.samples, 1, vae.latent).clamp(-vae.LATENT_LIMIT, vae.LATENT_LIMIT)

    def perturbed(self, actor: nn.Module, state: Tensor, actions: Tensor) -> Tensor:
        """a + ξ(s, a) within the limits, (count, batch, A), from features (batch, size): equation 12."""
        repeated = state.expand(len(actions), *state.shape)
        change = self.limit * torch.tanh(actor(torch.cat([repeated, actions], dim=2)))
        return (actions + change).clamp(-1.0, 1.0)

    def candidates(self, state: Tensor) -> Tensor:
        """See `ChoosingPolicy.candidates`."""
        drawn = torch.tanh(self.vae.decode(state, self.latents.expand(-1, len(state), -1)))
        return self.perturbed(self.actor, state, drawn)


class BatchConstrainedQLearning(Algorithm):
    """A generative model of actions, a perturbation, and twin critics. What the policy needs to act is all in it."""

    name: ClassVar[str] = "bcq"
    config_type: ClassVar[type[Config]] = BatchConstrainedQLearningConfig
    config: BatchConstrainedQLearningConfig
    policy_type: ClassVar[type[Policy]] = BatchConstrainedPolicy

    def build(self) -> dict[str, nn.Module]:
        """The policy, and its `target_critic` and `target_actor`, which no gradient moves."""
        networks = super().build()
        policy, config = cast(BatchConstrainedPolicy, networks["policy"]), self.config
        size, action = policy.encoder.size, len(self.contract.action_low)
        policy.complete(ActionVAE(size, action, config.vae_hidden_size), self.critic(2, size + action), config)
        networks["target_critic"] = copy.deepcopy(policy.critic).requires_grad_(False)
        networks["target_actor"] = copy.deepcopy(policy.actor).requires_grad_(False)
        return networks

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The encoder of observations learns from the auto-encoder's loss."""
        config, state, generator = self.config, features.detach(), self._generator
        policy, count = cast(BatchConstrainedPolicy, self.trained_policy), len(features)
        with torch.no_grad():
            next_state = policy.encoder(batch.next_observation, batch.desired_goal)
            drawn = policy.vae.decode(next_state, policy.vae.draw(config.target_samples, count, generator))
            next_actions = policy.perturbed(self.networks["target_actor"], next_state, torch.tanh(drawn))
            next_q = of_several(self.networks["target_critic"], next_state, next_actions)
            next_value = most_and_least(next_q, config.least_share).amax(0)
            discount = config.discount**batch.steps
            target = bellman_target(batch.reward, batch.terminated, next_value, discount)
            own = torch.tanh(policy.vae.decode(state, policy.vae.draw(1, count, generator)))
        q = policy.critic(state, batch.action)
        action = policy.perturbed(policy.actor, state, own)[0]
        losses = {
            "critic_loss": critic_loss(q, target),
            "policy_loss": policy_loss(frozen(policy.critic, state, action, first=1)[0]),
            "vae_loss": policy.vae.loss(
                features, batch.action, torch.randn(count, policy.vae.latent, generator=generator)
            ),
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics["q"] = q.detach().mean()
        return torch.stack(list(losses.values())).sum(), metrics

    def after_update(self) -> None:
        """Move the target networks: θ' ← τ θ + (1 − τ) θ'."""
        policy = cast(BatchConstrainedPolicy, self.trained_policy)
        move_towards(self.networks["target_critic"], policy.critic, self.config.target_rate)
        move_towards(self.networks["target_actor"], policy.actor, self.config.target_rate)


def best_action(critic: nn.Module, state: Tensor, actions: Tensor) -> Tensor:
    """Equation 14: the one of several actions (count, batch, A) that the first critic likes best, (batch, A)."""
    repeated = state.repeat(len(actions), 1)
    values = critic(repeated, actions.flatten(0, 1), first=1).view(len(actions), -1)
    best = values.argmax(0)[None, :, None].expand(1, -1, actions.shape[2])
    return actions.gather(0, best)[0]


def best_actions(critic: nn.Module, state: Tensor, actions: Tensor) -> Tensor:
    """Of several actions (count, 1, A) in one state, those as good as the best to the precision of float32, (n, A)."""
    values = critic(state.repeat(len(actions), 1), actions.flatten(0, 1), first=1)[0]
    best = values.max()
    return actions[:, 0][values >= best - 1e-5 * (1.0 + best.abs())]


def policy_loss(q: Tensor) -> Tensor:
    """Equation 12: the perturbation climbs the first critic, L_ξ = −E[ Q(s, a + ξ(s, a)) ], from (batch,)."""
    return -q.mean()
