"""Behaviour-regularised actor-critic: pay for every departure from a model of the recorded behaviour.

Wu, Tucker and Nachum 2019, "Behavior Regularized Offline Reinforcement Learning" (1911.11361).

1. The policy first clones the recordings; a copy of it is then kept as the model β̂ of the behaviour.
2. From there on the policy climbs the smaller critic less α times its divergence from β̂.
3. With a value penalty (BRAC-v) the critics' targets lose that divergence at s' too, so that a departure later on is
   foreseen; with a policy penalty (BRAC-p) they do not.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.actor_critic import ActorCritic, ActorCriticConfig, ClonesFirst
from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.bc import cloning_loss
from rl_ros.algorithms.ddpg import critic_loss
from rl_ros.algorithms.sac import Temperature
from rl_ros.errors import UserError
from rl_ros.networks.layers import frozen, gaussian_divergence
from rl_ros.networks.policies import GaussianPolicy, Policy


@dataclass(frozen=True)
class BRACConfig(ActorCriticConfig):
    """Settings of BRAC."""

    penalty: Literal["value", "policy"] = "value"
    """Whether targets are penalised too (BRAC-v), or the policy alone (BRAC-p)."""
    penalty_weight: float = 1.0
    """α, or where it begins; the paper chooses it for each task, from 0.03 to 100."""
    divergence_limit: float | None = None
    """Learn α such that the divergence, nats, stays at this. None: α stays as it is."""
    multiplier_learning_rate: float = 1e-3
    """Of α."""
    cloning_updates: int = 40_000
    """Updates in which the policy clones and nothing else happens; 300,000 in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cloning_updates < 1:
            raise UserError("cloning_updates: expected at least 1, as BRAC needs a model of the behaviour, got 0.")


class BRAC(ClonesFirst, ActorCritic):
    """Twin critics, a policy, and a fixed model of the behaviour."""

    name: ClassVar[str] = "brac"
    config_type: ClassVar[type[Config]] = BRACConfig
    config: BRACConfig
    policy_type: ClassVar[type[Policy]] = GaussianPolicy

    def build(self) -> dict[str, nn.Module]:
        """See `ActorCritic.build`; and the `behaviour`, which no gradient moves, and the `multiplier` α."""
        networks = super().build()
        networks["behaviour"] = copy.deepcopy(networks["policy"]).requires_grad_(False)
        networks["multiplier"] = Temperature(self.config.penalty_weight)
        if self.config.divergence_limit is None:
            networks["multiplier"].requires_grad_(False)
        return networks

    def learning_rates(self) -> dict[str, float]:
        """See `Algorithm.learning_rates`."""
        return super().learning_rates() | {"multiplier": self.config.multiplier_learning_rate}

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. Each part trains one network; what it sees of the others is held fast."""
        config, critic, state, generator = self.config, self.networks["critic"], features.detach(), self._generator
        policy, behaviour = cast(GaussianPolicy, self.trained_policy), cast(GaussianPolicy, self.networks["behaviour"])
        if self.cloning:
            cloning = cloning_loss(policy.log_probability(features, batch.action))
            return cloning, {"policy_loss": cloning.detach()}
        multiplier = self.networks["multiplier"]()
        with torch.no_grad():
            next_state = self.next_features(batch)
            next_action, _ = policy.sample(next_state, generator)
            next_value = self.networks["target_critic"](next_state, next_action).amin(0)
            recorded = behaviour.gaussian(behaviour.encoder(batch.observation, batch.desired_goal))
            if config.penalty == "value":
                next_recorded = behaviour.gaussian(behaviour.encoder(batch.next_observation, batch.desired_goal))
                next_value = next_value - multiplier * gaussian_divergence(*policy.gaussian(next_state), *next_recorded)
            target = self.target(batch, next_value)
        q = critic(state, batch.action)
        action, _ = policy.sample(features, generator)
        # Exact where the paper estimates it from samples: both are tanh of a Gaussian, and the tanh cancels.
        distance = gaussian_divergence(*policy.gaussian(features), *recorded)
        losses = {
            "critic_loss": critic_loss(q, target),
            "policy_loss": policy_loss(frozen(critic, state, action).amin(0), distance, multiplier.detach()),
        }
        if config.divergence_limit is not None:
            losses["multiplier_loss"] = -multiplier * (distance.detach() - config.divergence_limit).mean()
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"q": q.detach().mean(), "divergence": distance.detach().mean(), "multiplier": multiplier.detach()}
        return torch.stack(list(losses.values())).sum(), metrics

    def after_update(self) -> None:
        """Move the target critics: θ' ← τ θ + (1 − τ) θ'. When cloning is over, keep what came of it."""
        if self.updates == self.config.cloning_updates:
            self.networks["behaviour"].load_state_dict(self.trained_policy.state_dict())
        super().after_update()


def policy_loss(climbed: Tensor, distance: Tensor, multiplier: Tensor) -> Tensor:
    """Equation 5: L_π = −E[ min_i Q_i(s, ã) − α D(s) ]; the target of equation 4 has the same difference at s'.

    Args:
        climbed: the smaller critic's answer to the policy's action ã, (batch,).
        distance: D(s), (batch,).
        multiplier: α, a scalar; no gradient flows to it.
    """
    return (multiplier * distance - climbed).mean()
