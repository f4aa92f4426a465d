"""Hierarchical implicit Q-learning: one value function, from which one policy learns the way and another the steps.

Park et al. 2023, "HIQL: Offline Goal-Conditioned RL with Latent States as Actions" (2307.11949).

1. V(s, φ([s; g])) is learned from states alone, as in `gcivl`; φ is what V needs to know of a goal.
2. The high policy answers a far goal with the φ of a sub-goal, `sub_goal_steps` ticks ahead in the recordings, and
   clones those sub-goals that bring the goal nearer. Over many ticks V changes by more than it errs.
3. The low policy answers that φ with an action, and clones the actions that bring the sub-goal nearer.

Sub-goals are goals of the contract: what was achieved on the way. Both policies are one module that asks the high one
at every tick, and one graph in the bundle.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Config, Transitions
from rl_ros.algorithms.gcivl import GoalConditionedIVL, GoalConditionedIVLConfig
from rl_ros.algorithms.goal_conditioned import GoalTransitions
from rl_ros.algorithms.iql import policy_loss
from rl_ros.contract import Contract
from rl_ros.episodes.hindsight import GoalBatch
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.networks.critics import StackedCritic
from rl_ros.networks.layers import DESIRED_GOAL, Normalisation, multilayer
from rl_ros.networks.policies import ActionDistribution, Policy

REPRESENTATION = 10
"""Numbers that φ([s; g]) has."""


@dataclass(frozen=True)
class HierarchicalIQLConfig(GoalConditionedIVLConfig):
    """Settings of hierarchical implicit Q-learning."""

    expectile: float = 0.7
    sub_goal_steps: int = 10
    """k: ticks from a state to its sub-goal, or fewer where the goal is nearer."""
    temperature: float = 10.0
    """β of the low policy."""
    high_temperature: float = 3.0
    """β of the high policy."""


class HierarchicalPolicy(Policy):
    """The high policy, and the low one on its answer in the place of the goal."""

    def __init__(self, contract: Contract, normalisation: Normalisation, *arguments: Any, **options: Any) -> None:
        super().__init__(contract, normalisation, *arguments, **options)
        self.goal_size = len(normalisation[DESIRED_GOAL]["mean"])
        inputs = self.encoder.size - self.goal_size + REPRESENTATION
        self.high = self.hidden_network(self.encoder.size, REPRESENTATION)
        self.actor = self.hidden_network(inputs, len(contract.action_low))

    def sub_goal(self, features: Tensor) -> Tensor:
        """π^h(s, g): the representation to go for, (batch, `REPRESENTATION`), before it is given its length."""
        answer: Tensor = self.high(features)
        return answer

    def low_distribution(self, features: Tensor, representation: Tensor) -> ActionDistribution:
        """π^l(s, φ): what to do for a sub-goal, given the encoder's features with any goal."""
        return super().distribution(torch.cat([features[:, : -self.goal_size], representation], dim=1))

    def distribution(self, features: Tensor) -> ActionDistribution:
        """What to do for the goal, by way of a sub-goal."""
        return self.low_distribution(features, to_length(self.sub_goal(features)))


class RepresentationValue(nn.Module):
    """V(s, φ([s; g])) of both networks, (2, batch), from the encoder's features (batch, size), the goal last."""

    def __init__(self, critic: StackedCritic, representation: nn.Module, goal_size: int) -> None:
        super().__init__()
        self.critic, self.representation, self.goal_size = critic, representation, goal_size

    def represent(self, features: Tensor) -> Tensor:
        """φ([s; g]), (batch, `REPRESENTATION`), of length √`REPRESENTATION`."""
        return to_length(self.representation(features))

    def forward(self, features: Tensor) -> Tensor:
        """Values float32 (2, batch)."""
        values: Tensor = self.critic(features[:, : -self.goal_size], self.represent(features))
        return values


class HierarchicalIQL(GoalConditionedIVL):
    """The value of `gcivl` on represented goals, and two policies."""

    name: ClassVar[str] = "hiql"
    config_type: ClassVar[type[Config]] = HierarchicalIQLConfig
    policy_type: ClassVar[type[Policy]] = HierarchicalPolicy
    config: HierarchicalIQLConfig

    def value_network(self, policy: Policy) -> nn.Module:
        """The value function with the representation that it learns."""
        config, goal_size = self.config, cast(HierarchicalPolicy, policy).goal_size
        hidden = [config.hidden_size] * config.hidden_layers
        representation = multilayer([policy.encoder.size, *hidden, REPRESENTATION], config.critic_layer_norm)
        critic = self.critic(2, policy.encoder.size - goal_size + REPRESENTATION)
        return RepresentationValue(critic, representation, goal_size)

    def goal_batch(
        self, memory: ReplayMemory, rows: np.ndarray, policy_rows: np.ndarray, value_rows: np.ndarray
    ) -> GoalBatch:
        """The transitions with goals and sub-goals; see `GoalConditioned.goal_batch`."""
        batch = super().goal_batch(memory, rows, policy_rows, value_rows)
        sub_goal_rows = np.minimum(rows + self.config.sub_goal_steps, policy_rows)
        batch.sub_goal = memory.achieved_goal.take(sub_goal_rows, axis=0)
        batch.sub_goal_observation = {n: column.take(sub_goal_rows, axis=0) for n, column in memory.observation.items()}
        return batch

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. The three losses share no weights, so that their sum descends each of them."""
        assert isinstance(batch, GoalTransitions)
        assert batch.sub_goal is not None
        config, policy = self.config, cast(HierarchicalPolicy, self.trained_policy)
        values, metrics = self.values(batch, features)
        with torch.no_grad():
            near = self.with_goal(features, batch.sub_goal)
            representation = cast(RepresentationValue, self.networks["value"]).represent(near)
            next_near = policy.encoder(batch.next_observation, batch.sub_goal)
            there = policy.encoder(batch.sub_goal_observation, batch.desired_goal)
            high_advantage, low_advantage = self.advantage(features, there), self.advantage(near, next_near)

        high_probability = representation_log_probability(policy.sub_goal(features), representation)
        low_probability = policy.layout.log_probability(
            policy.low_distribution(features, representation), batch.action, config.action_std
        )
        losses = {
            "high_policy_loss": policy_loss(high_probability, high_advantage, config.high_temperature),
            "low_policy_loss": policy_loss(low_probability, low_advantage, config.temperature),
        }
        metrics |= {name: loss.detach() for name, loss in losses.items()}
        metrics["cloning_loss"] = -low_probability.detach().mean()
        return torch.stack([values, *losses.values()]).sum(), metrics


def to_length(representation: Tensor) -> Tensor:
    """Vectors (batch, n) of the same directions and length √n, so that each entry is about 1 in size."""
    size = representation.shape[1] ** 0.5
    return size * nn.functional.normalize(representation, dim=1)


def representation_log_probability(answer: Tensor, representation: Tensor) -> Tensor:
    """log π^h(φ | s, g) of a Gaussian of standard deviation 1, up to a constant, (batch,) from (batch, n) each."""
    return -0.5 * (answer - representation).square().sum(1)
