"""Conservative Q-learning: critics that value unseen actions less than recorded ones.

Kumar et al. 2020, "Conservative Q-Learning for Offline Reinforcement Learning" (2006.04779), on soft actor-critic
(Haarnoja et al. 2018, 1812.05905).

1. Two critics learn from reward and from what the policy would do at s', without its entropy.
2. At the same time the values of many actions are pushed down, the higher the more, and those of recorded actions up.
3. The policy is that of soft actor-critic: it climbs the smaller critic and keeps some entropy.

Discrete entries of an action, such as a gripper that is open or closed, are drawn and judged at their two limits only.
Between them nothing was recorded, and conservative critics would dig a valley that no policy climbs out of.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ActorCritic, ActorCriticConfig, ClonesFirst, of_several
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.ddpg import critic_loss
from rl_ros.algorithms.sac import Temperature, temperature_loss
from rl_ros.networks.layers import frozen
from rl_ros.networks.mixed_policy import MixedDistribution, MixedPolicy
from rl_ros.networks.policies import Policy


@dataclass(frozen=True)
class ConservativeQLearningConfig(ActorCriticConfig):
    """Settings of CQL; the defaults are the paper's for locomotion, which has networks of three layers."""

    critic_layer_norm: bool = True
    """The paper's critics have none; in training runs of minutes it steadies what is learned (docs/algorithms.md)."""
    policy_learning_rate: float = 1e-4
    """Of the policy and its temperature; critics learn at `learning_rate`."""
    penalty: Literal["H", "rho"] = "H"
    """What is pushed down: the soft maximum over all actions, estimated by importance sampling, or over the policy's
    own, which suits actions of many entries."""
    conservative_weight: float = 5.0
    """α: weight of the penalty; 5 or 10 in the paper."""
    samples: int = 10
    """Actions of each kind for each state: uniform ones, the policy's at s, and the policy's at s'."""
    lagrange_gap: float | None = None
    """τ: learn a factor of the weight such that unseen actions come out valued by this much more than recorded ones,
    at most; 5 or 10 in the paper, 0.8 for mazes. None: the weight stays as it is."""
    next_action: Literal["most_likely", "drawn", "best"] = "drawn"
    """Whose value at s' counts: of the policy's most likely action, of one drawn from it, or of the best of several."""
    cloning_updates: int = 0
    """Updates in which the policy clones before it climbs Q; 40,000 in the authors' code."""


class ConservativeQLearning(ClonesFirst, ActorCritic):
    """Conservative twin critics and the policy of soft actor-critic."""

    name: ClassVar[str] = "cql"
    config_type: ClassVar[type[Config]] = ConservativeQLearningConfig
    config: ConservativeQLearningConfig
    policy_type: ClassVar[type[Policy]] = MixedPolicy

    def build(self) -> dict[str, nn.Module]:
        """See `ActorCritic.build`; and the `temperature` of the policy and the `multiplier` of Lagrange."""
        networks = super().build()
        networks["temperature"] = Temperature(1.0)
        if self.config.lagrange_gap is not None:
            networks["multiplier"] = Temperature(1.0)
        return networks

    def learning_rates(self) -> dict[str, float]:
        """See `Algorithm.learning_rates`."""
        slower = {"policy": self.config.policy_learning_rate, "temperature": self.config.policy_learning_rate}
        return super().learning_rates() | slower

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. Each part trains one network; what it sees of the others is held fast."""
        config, critic, state, generator = self.config, self.networks["critic"], features.detach(), self._generator
        policy = cast(MixedPolicy, self.trained_policy)
        distribution = policy.mixed(features)
        with torch.no_grad():
            own, own_density = distribution.draw(config.samples, generator)
            next_state = self.next_features(batch)
            next_distribution = policy.mixed(next_state)
            ahead, ahead_density = next_distribution.draw(config.samples, generator)
            candidates = self.next_actions(next_distribution, ahead)
            next_q = of_several(self.networks["target_critic"], next_state, candidates)
            target = self.target(batch, next_q.amin(0).amax(0))
            uniform = self.uniform_actions(own) if config.penalty == "H" else own[:0]

        # One forward pass for all: the recorded action, and the sampled ones of each kind.
        actions = torch.cat([batch.action[None], uniform, own, ahead])
        values = of_several(critic, state, actions)
        q, sampled = values[:, 0], self.sampled_values(values[:, 1:], len(uniform), batch)
        if config.penalty == "H":
            # A discrete entry is at either limit with probability 1/2, and 1/2 is also the density from -1 to 1.
            uniform_density = torch.full(uniform.shape[:2], -math.log(2.0) * uniform.shape[2])
            density = torch.cat([uniform_density, own_density, ahead_density])
            gap = conservative_gap(sampled, density, q)
        else:
            gap = conservative_gap_of_policy(sampled, q)

        losses = {"critic_loss": critic_loss(q, target)}
        weight = config.conservative_weight
        if config.lagrange_gap is not None:
            multiplier, gap_limit = self.networks["multiplier"]().clamp(max=1e6), config.lagrange_gap
            losses["multiplier_loss"] = -(multiplier * weight * (gap.detach() - gap_limit)).sum()
            losses["conservative_loss"] = (multiplier.detach() * weight * (gap - gap_limit)).sum()
        else:
            losses["conservative_loss"] = weight * gap.sum()
        temperature = self.networks["temperature"]()
        tried, log_probability, share = distribution.every_choice(generator)
        log_probability = (share * log_probability).sum(0)
        if self.cloning:
            climbed = distribution.log_probability(batch.action)
        else:
            climbed = (share * of_several(partial(frozen, critic), state, tried).amin(0)).sum(0)
        losses["policy_loss"] = policy_loss(climbed, log_probability, temperature.detach())
        losses["temperature_loss"] = temperature_loss(temperature, log_probability, -float(distribution.mean.shape[1]))
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {
            "q": q.detach().mean(),
            "conservative_gap": gap.detach().mean(),
            "temperature": temperature.detach(),
        }
        return torch.stack(list(losses.values())).sum(), metrics

    def next_actions(self, distribution: MixedDistribution, drawn: Tensor) -> Tensor:
        """The actions at s' the best of which counts, (count, batch, A), out of what is drawn there, likewise."""
        if self.config.next_action == "most_likely":
            return distribution.most_likely()[None]
        return drawn if self.config.next_action == "best" else drawn[:1]

    def uniform_actions(self, like: Tensor) -> Tensor:
        """Actions (count, batch, A) drawn from everywhere, discrete entries from their two limits."""
        uniform = 2.0 * torch.rand(like.shape, generator=self._generator) - 1.0
        return torch.where(self.trained_policy.layout.is_discrete, torch.sign(uniform), uniform)

    def sampled_values(self, sampled: Tensor, uniform: int, batch: Transitions) -> Tensor:
        """What the penalty pushes down, (critics, samples, batch): of uniform actions first, then of the policy's."""
        return sampled


def conservative_gap(sampled: Tensor, log_density: Tensor, q: Tensor) -> Tensor:
    """Equation 4, CQL(H): E[ log Σ_a exp Q(s, a) − Q(s, a_recorded) ], for each critic, (critics,).

    The sum over all actions is estimated by importance sampling (appendix F): each sampled exp Q is divided by the
    density that its action was drawn with. As in the authors' code it is a sum over the samples, not their mean.

    Args:
        sampled: Q(s, a_j), (critics, samples, batch).
        log_density: of drawing a_j, (samples, batch).
        q: of the recorded actions, (critics, batch).
    """
    return (torch.logsumexp(sampled - log_density, dim=1) - q).mean(1)


def conservative_gap_of_policy(sampled: Tensor, q: Tensor) -> Tensor:
    """Appendix A, CQL(ρ) with ρ the policy: E[ log E_{a~ρ} exp Q(s, a) − Q(s, a_recorded) ], (critics,).

    Its gradient is the exponentially weighted average of the gradients of Q(s, a_j), as the paper has it.

    Args:
        sampled: Q(s, a_j) of the policy's actions, (critics, samples, batch).
        q: of the recorded actions, (critics, batch).
    """
    return (torch.logsumexp(sampled, dim=1) - math.log(sampled.shape[1]) - q).mean(1)


def policy_loss(climbed: Tensor, log_probability: Tensor, temperature: Tensor) -> Tensor:
    """SAC, equation 7 of 1812.05905: L_π = E[ α log π(ã|s) − min_i Q_i(s, ã) ], from (batch,) each.

    Args:
        climbed: the smaller critic's answer to the policy's action ã, or log π(a|s) while the policy clones.
        log_probability: log π(ã|s). Of discrete entries both are expected values.
        temperature: α, a scalar; no gradient flows to it.
    """
    return (temperature * log_probability - climbed).mean()
