"""Deep deterministic policy gradient: a critic judges actions, and the policy climbs it.

Lillicrap et al. 2016, "Continuous control with deep reinforcement learning" (1509.02971), as a universal value
function approximator: policy and critic see the goal (Schaul et al. 2015), so that hindsight (Andrychowicz et al. 2017,
1707.01495) can say what a recording was good for. The fixed points of that second paper are kept, because without them
a goal-conditioned critic drifts: targets stay within what returns can be, large actions cost a little, and observations
and goals are standardised.

Demonstrations, where a batch has some: Vecerik et al. 2017 (1707.08817) keep them in the memory and use returns of n
steps; Nair et al. 2018 (1709.10089) clone them wherever the critic thinks them better than the policy.
"""

import copy
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.episodes.hindsight import OWN, Reward
from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.layers import frozen, move_towards
from rl_ros.networks.policies import DeterministicPolicy, Policy


@dataclass(frozen=True)
class DeterministicPolicyGradientConfig(Config):
    """Settings of deep deterministic policy gradient, for goals that are reached within about fifty ticks."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 512
    schedule: Literal["cosine", "constant"] = "constant"
    average_rate: float = 1.0
    hidden_layers: int = 3
    vector_limit: float = 5.0
    discount: float = 0.98
    """γ: what a reward one tick later is worth."""
    target_rate: float = 0.01
    """Share of the way that the target networks move at each update."""
    smallest_reward: float | None = -1.0
    """No tick is worth less; with it no value is below this over 1 − γ. None: not known, as for distances. Where
    a tick is worth less, learning is refused."""
    largest_reward: float | None = 0.0
    """The same from above."""
    action_penalty: float = 1.0
    """Weight of the mean square of the policy's actions, from -1 to 1. Where the critic does not care, the policy then
    keeps still: without it the tanh saturates, and the hand is soon as far as can be from whatever it is to touch."""
    random_share: float = 0.3
    """Share of the exploring actions that are uniformly random."""
    noise: float = 0.2
    """Standard deviation of what is added to the others, where half of their range is 1."""
    return_steps: int = 1
    """n: rewards of so many ticks are added up before a critic says what follows; 1707.08817 uses 1 and 10."""
    policy_delay: int = 1
    """Updates of the critic for each one of the policy."""
    cloning_weight: float = 20.0
    """Of cloning demonstrations against raising values; matters only where batches hold demonstrations."""


class DeterministicPolicyGradient(Algorithm):
    """One critic, one policy, and slowly moving copies of both that say what comes next.

    Discrete entries of an action are learned as if they were continuous; see `DeterministicPolicy`. One encoder
    serves all; where it sees images it learns from the policy's loss and the auxiliary one.
    """

    name: ClassVar[str] = "ddpg"
    config_type: ClassVar[type[Config]] = DeterministicPolicyGradientConfig
    policy_type: ClassVar[type[Policy]] = DeterministicPolicy
    config: DeterministicPolicyGradientConfig
    critics: ClassVar[int] = 1

    def build(self) -> dict[str, nn.Module]:
        """The policy, the `critic`, and their targets, which no gradient moves."""
        networks = super().build()
        policy = cast(Policy, networks["policy"])
        networks["critic"] = self.critic(self.critics, policy.encoder.size + len(self.contract.action_low))
        networks["target_critic"] = copy.deepcopy(networks["critic"]).requires_grad_(False)
        networks["target_actor"] = copy.deepcopy(policy.actor).requires_grad_(False)
        return networks

    def loss(self, batch: Transitions, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`. Critic and policy share no weights here, so that the sum descends each of them."""
        config = self.config
        state = features.detach()
        with torch.no_grad():
            next_state = self.trained_policy.encoder(batch.next_observation, batch.desired_goal)
            discount = config.discount**batch.steps
            target = bellman_target(batch.reward, batch.terminated, self.next_value(next_state), discount)
            target = target.clamp(*value_range(config.smallest_reward, config.largest_reward, config.discount))
        q = self.networks["critic"](state, batch.action)
        losses = {"critic_loss": critic_loss(q, target)}
        if self.policy_is_due:
            losses |= self.policy_losses(batch, features, q.detach())
        metrics = {name: loss.detach() for name, loss in losses.items()}
        metrics["q"] = q.detach().mean()
        return torch.stack(list(losses.values())).sum(), metrics

    def batches(self, memory: ReplayMemory, rows: np.ndarray, rng: np.random.Generator) -> Iterator[Batch]:
        """See `Algorithm.batches`; rewards are returns of `return_steps`.

        Raises:
            UserError: a reward is beyond `smallest_reward` or `largest_reward`.
        """
        steps, discount, hindsight = self.config.return_steps, self.config.discount, self.hindsight
        if steps == 1:
            for batch in super().batches(memory, rows, rng):
                self._require_bounded(batch.reward)
                yield batch
            return
        goal_rows = np.full(rows.shape, OWN) if hindsight is None else hindsight.goal_rows(rng, memory, rows)
        for begin, goals in zip(rows, goal_rows, strict=True):
            batch = memory.take(begin) if hindsight is None else hindsight.relabel(memory, begin, goals, rng)
            self._require_bounded(batch.reward)
            compute_reward = None if hindsight is None else hindsight.compute_reward
            yield with_returns(batch, memory, begin, goals != OWN, steps, discount, compute_reward)

    @property
    def policy_is_due(self) -> bool:
        """Whether the policy learns in the update at hand."""
        return self.judging or self.updates % self.config.policy_delay == 0

    def phase(self) -> Hashable:
        """See `Algorithm.phase`."""
        return self.policy_is_due

    def next_value(self, next_state: Tensor) -> Tensor:
        """Q'(s', π'(s')), (batch,), from the features of s'."""
        next_action = torch.tanh(self.networks["target_actor"](next_state))
        value: Tensor = self.networks["target_critic"](next_state, next_action)[0]
        return value

    def policy_losses(self, batch: Transitions, features: Tensor, q: Tensor) -> dict[str, Tensor]:
        """What the policy descends, by name; `q` is what the critics think of the recorded actions."""
        policy, config = cast(DeterministicPolicy, self.trained_policy), self.config
        action = policy.action(features)
        value = frozen(self.networks["critic"], features.detach(), action, first=1)[0]
        losses = {"policy_loss": policy_loss(value, action, config.action_penalty)}
        if config.cloning_weight > 0:
            better = batch.demonstration * (q[0] > value.detach())
            losses["cloning_loss"] = config.cloning_weight * cloning_loss(action, batch.action, better)
        return losses

    @torch.no_grad()
    def explore(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """The policy's action with Gaussian noise, or for a share of the rows a uniformly random one.

        Plappert et al. 2018 (1802.09464), appendix on hyperparameters.
        """
        policy, config, generator = cast(DeterministicPolicy, self.trained_policy), self.config, self._generator
        action = policy.action(policy.encoder(observation, desired_goal))
        action = action + config.noise * torch.randn(action.shape, generator=generator)
        random = 2.0 * torch.rand(action.shape, generator=generator) - 1.0
        chosen = torch.rand(len(action), 1, generator=generator) < config.random_share
        return policy.layout.unscale(torch.where(chosen, random, action))

    def after_update(self) -> None:
        """Move the targets: θ' ← (1 − τ) θ' + τ θ."""
        rate = self.config.target_rate
        move_towards(self.networks["target_critic"], self.networks["critic"], rate)
        move_towards(self.networks["target_actor"], self.trained_policy.actor, rate)

    def _require_bounded(self, reward: np.ndarray) -> None:
        """Refuse rewards (batch,) that the bounds on values would cut off: nothing could be learned from them."""
        smallest, largest = self.config.smallest_reward, self.config.largest_reward
        least, most = reward.min(), reward.max()
        if (smallest is None or least >= smallest) and (largest is None or most <= largest):
            return
        raise UserError(
            f"{self.name}: rewards from {least:g} to {most:g} are not between smallest_reward {smallest} and "
            f"largest_reward {largest}, which bound the values that are learned; set both to what a tick can be worth, "
            "or to null where nobody knows."
        )


def with_returns(
    batch: Batch,
    memory: ReplayMemory,
    rows: np.ndarray,
    relabelled: np.ndarray,
    steps: int,
    discount: float,
    compute_reward: Reward | None,
) -> Batch:
    """The batch with returns of n steps, Σ γⁱ r_{t+i} for i < n, fewer where its episode ends: 1707.08817.

    Args:
        rows: where the transitions begin, int64 (batch,).
        relabelled: whether they have another goal than the one they were recorded with, bool (batch,).
        steps: n.
        compute_reward: of the goals that the later ticks arrive at; None if nothing is relabelled.
    """
    reward, taken = batch.reward.astype(np.float64), np.ones(len(rows), np.int64)
    terminated = batch.terminated.copy()
    going = ~terminated
    for ahead in range(1, steps):
        later = np.minimum(rows + ahead, memory.last_row[rows])
        going = going & memory.has_transition[later] & (later == rows + ahead)
        later = np.where(going, later, rows)
        worth = memory.reward[later]
        if compute_reward is not None:
            again = compute_reward(memory.achieved_goal[later + 1], batch.desired_goal)
            worth = np.where(relabelled, again, worth)
        reward += going * discount**ahead * worth
        taken += going
        ends = going & memory.terminated[later] & ~relabelled
        terminated |= ends
        going &= ~ends
    batch.reward, batch.terminated, batch.steps = reward.astype(np.float32), terminated, taken
    batch.next_observation = {name: column[rows + taken] for name, column in memory.observation.items()}
    return batch


def value_range(smallest: float | None, largest: float | None, discount: float) -> tuple[float, float]:
    """What values can be where rewards lie between these: each over 1 − γ, for rewards of −1 and 0 [−1 / (1 − γ), 0].

    An episode that may end early can be worth nothing at all, so that 0 is always within.
    """
    return (
        -math.inf if smallest is None else min(smallest, 0.0) / (1.0 - discount),
        math.inf if largest is None else max(largest, 0.0) / (1.0 - discount),
    )


def bellman_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: Tensor | float) -> Tensor:
    """y = r + γⁿ (1 − terminated) Q'(s', π'(s')), from (batch,) each: 1509.02971, below equation 5.

    An episode that terminated has no s'; one that was truncated has, and its value counts.
    """
    return reward + discount * (1.0 - terminated) * next_value


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Equation 4 of 1509.02971: E[ (Q(s, a) − y)² ], summed over the critics, from (critics, batch) and (batch,)."""
    return (q - target).square().mean(1).sum()


def policy_loss(value: Tensor, action: Tensor, penalty: float) -> Tensor:
    """−E[ Q(s, π(s)) ], whose gradient is equation 6 of 1509.02971, and the penalty on E[ π(s)² ] of 1707.01495.

    Args:
        value: (batch,).
        action: π(s) scaled to -1..1, (batch, A).
    """
    return -value.mean() + penalty * action.square().mean()


def cloning_loss(action: Tensor, demonstrated: Tensor, better: Tensor) -> Tensor:
    """Σ ‖π(s) − a‖² over demonstrated actions that the critic prefers, over the batch: 1709.10089, equations 2 and 3.

    Args:
        action: π(s), (batch, A).
        demonstrated: a, (batch, A).
        better: 1 for demonstrations with Q(s, a) > Q(s, π(s)), else 0, (batch,): the Q-filter.
    """
    return (better * (action - demonstrated).square().sum(1)).mean()
