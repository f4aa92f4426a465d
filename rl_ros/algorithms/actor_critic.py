"""What the offline actor-critics share: settings, twin critics with slow targets, and looking ahead.

What makes each of them an algorithm of its own, its losses, is in its own file.
"""

import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from rl_ros.algorithms.base import Algorithm, Config, Transitions
from rl_ros.algorithms.ddpg import bellman_target
from rl_ros.algorithms.td3 import smoothed
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.errors import UserError
from rl_ros.networks.layers import move_towards
from rl_ros.networks.policies import DeterministicPolicy, Policy


@dataclass(frozen=True)
class ActorCriticConfig(Config):
    """Settings of offline actor-critics; the defaults are what most papers use on D4RL (Fu et al. 2020, 2004.07219)."""

    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    batch_size: int = 256
    schedule: Literal["cosine", "constant"] = "constant"
    average_rate: float = 1.0
    critic_layer_norm: bool = False
    discount: float = 0.99
    """γ: what a reward one tick later is worth."""
    target_rate: float = 0.005
    """τ: share of the way that target networks move at each update."""


class ActorCritic(Algorithm):
    """A policy, critics of actions, and target critics that follow them slowly.

    One encoder serves all. It learns from the policy's and the auxiliary loss; the critics take its features as they
    are, so that their errors, large at first, do not spoil what the policy sees.
    """

    config_type: ClassVar[type[Config]] = ActorCriticConfig
    config: ActorCriticConfig
    critics: ClassVar[int] = 2

    def build(self) -> dict[str, nn.Module]:
        """The shared networks, `critic`, and its `target_critic`, which no gradient moves."""
        networks = super().build()
        features = cast(Policy, networks["policy"]).encoder.size
        networks["critic"] = self.critic(self.critics, features + len(self.contract.action_low))
        networks["target_critic"] = copy.deepcopy(networks["critic"]).requires_grad_(False)
        return networks

    @torch.no_grad()
    def next_features(self, batch: Transitions) -> Tensor:
        """The features of s', (batch, size)."""
        features: Tensor = self.trained_policy.encoder(batch.next_observation, batch.desired_goal)
        return features

    def target(self, batch: Transitions, next_value: Tensor) -> Tensor:
        """y = r + γⁿ V(s'), (batch,); n is 1 unless rewards are returns of n steps.

        An episode that terminated has no s'; one that was truncated has, and its value counts.
        """
        return bellman_target(batch.reward, batch.terminated, next_value, self.config.discount**batch.steps)

    @torch.no_grad()
    def explore(self, observation: Mapping[str, Tensor], desired_goal: Tensor) -> Tensor:
        """See `Algorithm.explore`; an action drawn from the policy where it is a stochastic one."""
        return self.trained_policy.drawn(observation, desired_goal, self._generator)

    def after_update(self) -> None:
        """Move the target critics: θ' ← τ θ + (1 − τ) θ'."""
        move_towards(self.networks["target_critic"], self.networks["critic"], self.config.target_rate)


class ClonesFirst(Algorithm):
    """What learns in two phases: at first, for as many updates as its `cloning_updates`, the policy only clones."""

    config: Any

    @property
    def cloning(self) -> bool:
        """Whether the policy only clones in the update at hand."""
        return bool(self.updates < self.config.cloning_updates)

    def phase(self) -> Hashable:
        """See `Algorithm.phase`."""
        return self.cloning


@dataclass(frozen=True)
class DelayedActorCriticConfig(ActorCriticConfig):
    """Settings of actor-critics like TD3 (Fujimoto, van Hoof and Meger 2018, 1802.09477); the defaults are its."""

    policy_delay: int = 2
    """Updates of the critics to one of the policy and of the target networks."""
    target_noise: float = 0.2
    """Standard deviation of the target policy's noise, where half of an action's range is 1."""
    target_noise_limit: float = 0.5
    """Largest such noise."""


class DelayedActorCritic(ActorCritic):
    """Twin critics, and a deterministic policy that learns less often than they do."""

    config_type: ClassVar[type[Config]] = DelayedActorCriticConfig
    config: DelayedActorCriticConfig
    policy_type: ClassVar[type[Policy]] = DeterministicPolicy

    def build(self) -> dict[str, nn.Module]:
        """See `ActorCritic.build`; and `target_actor`, which follows the policy's actor."""
        networks = super().build()
        networks["target_actor"] = copy.deepcopy(cast(Policy, networks["policy"]).actor).requires_grad_(False)
        return networks

    def next_action(self, next_state: Tensor) -> Tensor:
        """The target policy's action at s' with a little noise, (batch, A), from features (batch, size)."""
        noise = self.config.target_noise * torch.randn(
            (len(next_state), len(self.contract.action_low)), generator=self._generator
        )
        return smoothed(torch.tanh(self.networks["target_actor"](next_state)), noise, self.config.target_noise_limit)

    @property
    def policy_is_due(self) -> bool:
        """Whether the policy learns in the update at hand."""
        return self.judging or (self.updates + 1) % self.config.policy_delay == 0

    def phase(self) -> Hashable:
        """See `Algorithm.phase`."""
        return self.policy_is_due

    def after_update(self) -> None:
        """Move the target networks, as often as the policy: θ' ← τ θ + (1 − τ) θ'."""
        if self.updates % self.config.policy_delay == 0:
            super().after_update()
            move_towards(self.networks["target_actor"], self.trained_policy.actor, self.config.target_rate)


def of_several(critic: Callable[[Tensor, Tensor], Tensor], state: Tensor, actions: Tensor) -> Tensor:
    """Q(s, a) of several actions in each state, in one forward pass: (critics, count, batch).

    Args:
        state: features, (batch, size).
        actions: (count, batch, A).
    """
    count, batch = actions.shape[:2]
    values = critic(state.repeat(count, 1), actions.flatten(0, 1))
    return values.view(-1, count, batch)


def most_and_least(q: Tensor, share: float) -> Tensor:
    """λ min_i Q_i + (1 − λ) max_i Q_i of critics (critics, …), (…): equation 13 of BCQ (1812.02900)."""
    return share * q.amin(0) + (1.0 - share) * q.amax(0)


T = TypeVar("T")


class ColumnOfMemory(Generic[T]):
    """What is known of each row of a memory, computed again only when its episodes have changed."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[ReplayMemory, tuple[np.ndarray, T]] = WeakKeyDictionary()

    def get(self, memory: ReplayMemory, compute: Callable[[ReplayMemory], T]) -> T:
        """It, such as an array (rows,)."""
        known = self._known.get(memory)
        if known is None or known[0] is not memory.transitions:  # which is a new array whenever episodes change
            known = self._known[memory] = memory.transitions, compute(memory)
        return known[1]

    def forget(self) -> None:
        """Compute all of them again."""
        self._known.clear()


def lambda_returns(memory: ReplayMemory, next_value: np.ndarray, discount: float, trace: float) -> np.ndarray:
    """TD(λ): G_t = r_t + γ ( (1 − λ) V(s_{t+1}) + λ G_{t+1} ), float32 (rows,).

    Sutton and Barto 2018, section 12.1. Where the episode terminated nothing follows; where recording stopped before
    that, V(s_{t+1}) stands for what would have. With λ = 1 and V = 0 it is the sum of the rewards that were seen,
    which for a truncated episode is less than what would have come, where rewards are positive.

    Args:
        memory: the episodes.
        next_value: V(s_{t+1}), (rows,).
        discount: γ.
        trace: λ.
    """
    rows = memory.transitions
    ends = (memory.terminated | memory.truncated)[rows]
    continues = (np.diff(rows, append=-1) == 1) & ~ends  # only within an episode are transitions in neighbouring rows
    bootstrap = np.where(memory.terminated, 0.0, next_value).astype(np.float64)
    returns = memory.reward + discount * bootstrap
    # Backwards through all episodes side by side: as many steps as the longest has, not as there are rows.
    place = np.arange(len(rows))
    end = np.minimum.accumulate(np.where(continues, len(rows), place)[::-1])[::-1]
    ahead = end - place
    by_distance = np.split(rows[np.argsort(ahead, kind="stable")], np.cumsum(np.bincount(ahead))[:-1])
    for group in by_distance[1:]:
        mixed = (1.0 - trace) * bootstrap[group] + trace * returns[group + 1]
        returns[group] = memory.reward[group] + discount * mixed
    return returns.astype(np.float32)


def refuse_hindsight(learner: Algorithm) -> None:
    """Refuse goals of hindsight where returns are of the goals that episodes were given.

    Raises:
        UserError: goals are relabelled.
    """
    if learner.hindsight is not None:
        raise UserError(
            f"{learner.name} learns from the returns of whole episodes, which hindsight does not know for other goals; "
            "train it without hindsight, or use iql or td3_bc."
        )
