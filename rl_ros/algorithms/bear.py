"""BEAR: stay within the support of the recorded actions, without having to match how often each was taken.

Kumar et al. 2019, "Stabilizing Off-Policy Q-Learning via Bootstrapping Error Reduction" (1906.00949).

1. A variational auto-encoder learns to draw actions like those recorded in a state.
2. The policy climbs the smaller critic, as long as samples of it and of the auto-encoder look alike: their maximum mean
   discrepancy, of few samples, hardly sees densities, only where there are samples at all. A multiplier keeps it at ε.
3. Two critics learn from reward and the best of several of the policy's actions at s'.
4. What is exported draws many of the policy's actions and takes the one that the first critic likes best.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ActorCriticConfig, ClonesFirst, most_and_least, of_several
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.bcq import ChoosingPolicy
from rl_ros.algorithms.ddpg import bellman_target, critic_loss
from rl_ros.algorithms.sac import Temperature
from rl_ros.contract import Contract
from rl_ros.networks.action_vae import ActionVAE
from rl_ros.networks.critics import StackedCritic
from rl_ros.networks.layers import frozen, move_towards
from rl_ros.networks.policies import GaussianPolicy, Policy


@dataclass(frozen=True)
class BEARConfig(ActorCriticConfig):
    """Settings of BEAR."""

    policy_learning_rate: float = 1e-4
    """Of the policy; critics and auto-encoder learn at `learning_rate`."""
    multiplier_learning_rate: float = 1e-3
    """Of the multiplier of the constraint."""
    vae_hidden_size: int = 750
    """Width of the auto-encoder's layers."""
    kernel: Literal["laplacian", "gaussian"] = "laplacian"
    """Of the discrepancy; the paper has the Gaussian one for half-cheetahs."""
    kernel_width: float = 20.0
    """σ of the kernel."""
    matched_samples: int = 5
    """Of policy and auto-encoder, for the discrepancy; 4 to 10 in the paper."""
    discrepancy: float = 0.05
    """ε: what the discrepancy may be."""
    cloning_updates: int = 40_000
    """Updates in which the policy only comes near the data, before it climbs Q."""
    target_samples: int = 10
    """Actions among which the best one at s' is sought."""
    samples: int = 100
    """Actions among which the exported policy chooses."""
    least_share: float = 0.75
    """λ: share of the smaller critic in a target; the rest is the larger one's."""


class BestOfSamplesPolicy(ChoosingPolicy, GaussianPolicy):
    """Draws actions and takes the one that the first critic likes best.

    Its noise is the same for every observation, made once, so that the same observation gives the same action.
    """

    noise: Tensor

    def __init__(self, contract: Contract, *arguments: Any, **options: Any) -> None:
        super().__init__(contract, *arguments, **options)
        self.register_buffer("noise", torch.zeros(0))

    def complete(self, critic: StackedCritic, samples: int) -> None:
        """Add what the configuration decides on; must be called before anything else."""
        self.critic = critic
        self.noise = torch.randn(samples, 1, len(self.layout.is_discrete))

    def candidates(self, state: Tensor) -> Tensor:
        """See `ChoosingPolicy.candidates`."""
        mean, log_std = self.gaussian(state)
        return torch.tanh(mean + self.noise * log_std.exp())


class BEAR(ClonesFirst):
    """A generative model of actions, twin critics, and a policy that stays within its support."""

    name: ClassVar[str] = "bear"
    config_type: ClassVar[type[Config]] = BEARConfig
    config: BEARConfig
    policy_type: ClassVar[type[Policy]] = BestOfSamplesPolicy

    def build(self) -> dict[str, nn.Module]:
        """The policy with its critic, the `target_critic`, the `vae`, and the `multiplier` of the constraint."""
        networks = super().build()
        policy, config = cast(BestOfSamplesPolicy, networks["policy"]), self.config
        size, action = policy.encoder.size, len(self.contract.action_low)
        # Before the policy, which asks it too, so that its weights count as the critic's and learn at its rate.
        networks = {"critic": self.critic(2, size + action), **networks}
        policy.complete(cast(StackedCritic, networks["critic"]), config.samples)
        networks["target_critic"] = copy.deepcopy(networks["critic"]).requires_grad_(False)
        networks["vae"] = ActionVAE(size, action, config.vae_hidden_size)
        networks["multiplier"] = Temperature(1.0)
        return networks

    def learning_rates(self) -> dict[str, float]:
        """See `Algorithm.learning_rates`."""
        others = {"policy": self.config.policy_learning_rate, "multiplier": self.config.multiplier_learning_rate}
        return super().learning_rates() | others

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. Each part trains one network; what it sees of the others is held fast."""
        config, state, generator = self.config, features.detach(), self._generator
        policy, critic = cast(BestOfSamplesPolicy, self.trained_policy), self.networks["critic"]
        vae, count = cast(ActionVAE, self.networks["vae"]), len(features)
        with torch.no_grad():
            next_state = policy.encoder(batch.next_observation, batch.desired_goal)
            next_drawn, _ = policy.several(next_state, config.target_samples, generator)
            next_q = of_several(self.networks["target_critic"], next_state, torch.tanh(next_drawn))
            next_value = most_and_least(next_q, config.least_share).amax(0)
            discount = config.discount**batch.steps
            target = bellman_target(batch.reward, batch.terminated, next_value, discount)
            like_recorded = vae.decode(state, vae.draw(config.matched_samples, count, generator))
        q = critic(state, batch.action)
        drawn, _ = policy.several(features, config.matched_samples, generator)
        distance = discrepancy(drawn, like_recorded, config.kernel, config.kernel_width)
        multiplier = self.networks["multiplier"]()
        climbed = None
        if not self.cloning:
            climbed = frozen(critic, state, torch.tanh(drawn[0])).amin(0)
        losses = {
            "critic_loss": critic_loss(q, target),
            "policy_loss": policy_loss(climbed, distance, multiplier.detach(), config.discrepancy),
            "multiplier_loss": -multiplier * (distance.detach() - config.discrepancy).mean(),
            "vae_loss": vae.loss(state, batch.action, torch.randn(count, vae.latent, generator=generator)),
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"q": q.detach().mean(), "discrepancy": distance.detach().mean(), "multiplier": multiplier.detach()}
        return torch.stack(list(losses.values())).sum(), metrics

    def after_update(self) -> None:
        """Move the target critics, θ' ← τ θ + (1 − τ) θ', and keep log α within −5 and 10."""
        move_towards(self.networks["target_critic"], self.networks["critic"], self.config.target_rate)
        with torch.no_grad():
            cast(Temperature, self.networks["multiplier"]).log.clamp_(-5.0, 10.0)


def discrepancy(x: Tensor, y: Tensor, kernel: Literal["laplacian", "gaussian"], width: float) -> Tensor:
    """Equation 3, and its root: MMD² = E k(x, x') − 2 E k(x, y) + E k(y, y'), (batch,).

    With k(x, y) = exp( −Σ|x − y| / 2σ ) or exp( −Σ(x − y)² / 2σ ), as in the authors' code, of actions before their
    tanh, where distances near the limits still count.

    Args:
        x: samples, (n, batch, A).
        y: samples, (m, batch, A).
        width: σ.
    """

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        difference = a[:, None] - b[None]
        distance = difference.abs() if kernel == "laplacian" else difference.square()
        return torch.exp(-distance.sum(3) / (2.0 * width)).mean((0, 1))

    squared = mean_kernel(x, x) - 2.0 * mean_kernel(x, y) + mean_kernel(y, y)
    return (squared + 1e-6).sqrt()


def policy_loss(climbed: Tensor | None, distance: Tensor, multiplier: Tensor, allowed: float) -> Tensor:
    """Equation 1 with its constraint: L_π = E[ −min_i Q_i(s, ã) + α ( MMD − ε ) ].

    Args:
        climbed: the smaller critic's answer to the policy's action ã, (batch,); None while the policy only comes near
            the data.
        distance: MMD, (batch,).
        multiplier: α, a scalar; no gradient flows to it.
        allowed: ε.
    """
    constraint = (multiplier * (distance - allowed)).mean()
    return constraint if climbed is None else constraint - climbed.mean()
