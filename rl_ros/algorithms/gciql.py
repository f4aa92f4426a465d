"""Goal-conditioned implicit Q-learning: which recorded actions lead to a goal soonest.

Kostrikov et al. 2021 (2110.06169) with goals, as in OGBench (Park et al. 2025, 2410.20092):

1. V(s, g) is an upper expectile of Q(s, a, g) over the recorded actions.
2. Two critics Q(s, a, g) learn from the reward, −1 until the goal is reached, and V(s', g).
3. The policy clones the recorded actions weighted by advantage (AWR, equation 7 of IQL), or seeks what the critics
   like best near the recorded actions (DDPG+BC: Fujimoto and Gu 2021, 2106.06860). OGBench does the latter, which takes
   critics that are right about actions beside the recorded ones, and so a longer training.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.goal_conditioned import (
    GoalConditioned,
    GoalConditionedConfig,
    GoalTransitions,
    expected_action,
)
from rl_ros.algorithms.iql import critic_loss, policy_loss, value_loss
from rl_ros.networks.layers import frozen, move_towards
from rl_ros.networks.policies import Policy


@dataclass(frozen=True)
class GoalConditionedIQLConfig(GoalConditionedConfig):
    """Settings of goal-conditioned implicit Q-learning."""

    expectile: float = 0.9
    """τ: 0.5 makes V the mean of Q, towards 1 its maximum."""
    policy_objective: Literal["awr", "ddpg_bc"] = "awr"
    """How the policy is made from the critics."""
    cloning_weight: float = 0.05
    """α of DDPG+BC: how much log π counts against Q, which is divided by its own size. log π is that of a standard
    deviation of `action_std`, so α is smaller than OGBench's by its square."""
    temperature: float = 3.0
    """β of AWR: how strongly advantages weigh, 0 being cloning."""


class GoalConditionedIQL(GoalConditioned):
    """Expectile value, twin critics, and a policy of the actions that they prefer."""

    name: ClassVar[str] = "gciql"
    config_type: ClassVar[type[Config]] = GoalConditionedIQLConfig
    config: GoalConditionedIQLConfig

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
        assert isinstance(batch, GoalTransitions)
        config, networks, policy = self.config, self.networks, self.trained_policy
        state = self.with_goal(features, batch.value_goal).detach()
        with torch.no_grad():
            next_value = networks["value"](policy.encoder(batch.next_observation, batch.value_goal))[0]
            target_q = networks["target_critic"](state, batch.action).amin(0)
        value = networks["value"](state)[0]
        q = networks["critic"](state, batch.action)

        distribution = policy.distribution(features)
        log_probability = policy.layout.log_probability(distribution, batch.action, config.action_std)
        if config.policy_objective == "ddpg_bc":
            action = expected_action(policy.layout, distribution)
            sought = frozen(networks["critic"], features.detach(), action).amin(0)
            actor = seeking_loss(sought, log_probability, config.cloning_weight)
        else:
            with torch.no_grad():
                advantage = networks["target_critic"](features, batch.action).amin(0) - networks["value"](features)[0]
            actor = policy_loss(log_probability, advantage, config.temperature)
        losses = {
            "value_loss": value_loss(target_q, value, config.expectile),
            "critic_loss": critic_loss(q, batch.value_reward, batch.value_terminated, next_value, config.discount),
            "policy_loss": actor,
        }
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"q": q.detach().mean(), "value": value.detach().mean()}
        metrics["cloning_loss"] = -log_probability.detach().mean()
        return torch.stack(list(losses.values())).sum(), metrics

    def after_update(self) -> None:
        """Move the target critics: θ̂ ← (1 − α) θ̂ + α θ."""
        move_towards(self.networks["target_critic"], self.networks["critic"], self.config.target_rate)


def seeking_loss(q: Tensor, log_probability: Tensor, cloning_weight: float) -> Tensor:
    """DDPG+BC: L_π = −E[ Q(s, π(s, g), g) ] / E|Q| − α E[ log π(a|s, g) ], as in OGBench.

    Args:
        q: the critics' answer to the policy's action, (batch,); its size is taken as it is, without a gradient.
        log_probability: of the recorded actions, (batch,).
        cloning_weight: α.
    """
    return -q.mean() / q.detach().abs().mean().clamp(min=1e-6) - cloning_weight * log_probability.mean()
