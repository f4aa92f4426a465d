"""Recorded transitions as a policy sees them, and what came after each."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from rl_ros.algorithms.base import Algorithm
from rl_ros.algorithms.ddpg import value_range
from rl_ros.algorithms.goal_conditioned import GoalConditioned
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.networks.critics import StackedCritic
from rl_ros.networks.layers import StackedLinear

DISCOUNT = 0.99
"""Where the algorithm has none, such as behaviour cloning."""
AT_ONCE = 1024
"""Ticks that go through the policy at once."""


@dataclass(frozen=True)
class Logged:
    """Transitions of some episodes in their order, with what the policy would have done; n rows."""

    state: np.ndarray
    """float32 (n, F): the features that the policy decides by."""
    next_state: np.ndarray
    """float32 (n, F)."""
    action: np.ndarray
    """float32 (n, A), as recorded, scaled to -1..1."""
    policy_action: np.ndarray
    """float32 (n, A): of the policy at `state`, scaled."""
    next_policy_action: np.ndarray
    """float32 (n, A): of the policy at `next_state`, scaled."""
    reward: np.ndarray
    """float32 (n,)."""
    terminated: np.ndarray
    """bool (n,)."""
    last: np.ndarray
    """bool (n,): the next row is no continuation: the end of an episode, or a gap in it."""
    episode: np.ndarray
    """int64 (n,), numbered from 0."""

    @property
    def starts(self) -> np.ndarray:
        """Rows that episodes begin with."""
        return np.flatnonzero(np.diff(self.episode, prepend=-1))

    @property
    def episodes(self) -> int:
        """How many there are."""
        return int(self.episode[-1]) + 1


def collect(memory: ReplayMemory, rows: np.ndarray, learner: Algorithm) -> Logged:
    """The transitions at `rows`, int64 (n,) in rising order, as the policy sees them."""
    ticks = np.unique(np.concatenate([rows, rows + 1]))
    states, actions = [], []
    layout = learner.policy.layout
    with torch.no_grad():
        for some in np.array_split(ticks, max(1, len(ticks) // AT_ONCE)):
            observation = {name: torch.from_numpy(column[some]) for name, column in memory.observation.items()}
            goal = torch.from_numpy(memory.desired_goal[some])
            states.append(learner.policy.encoder(observation, goal).numpy())
            actions.append(layout.scale(learner.policy(observation, goal)).numpy())
        recorded = layout.scale(torch.from_numpy(memory.action[rows])).numpy()
    state, action = np.concatenate(states), np.concatenate(actions)
    here, there = np.searchsorted(ticks, rows), np.searchsorted(ticks, rows + 1)
    number = memory.episode[rows]
    return Logged(
        state=state[here],
        next_state=state[there],
        action=recorded,
        policy_action=action[here],
        next_policy_action=action[there],
        reward=np.asarray(memory.reward[rows], np.float32),
        terminated=np.asarray(memory.terminated[rows]),
        last=np.append((np.diff(rows) != 1) | (np.diff(number) != 0), True),
        episode=np.unique(number, return_inverse=True)[1],
    )


def own_values(learner: Algorithm, logged: Logged) -> np.ndarray | None:
    """Q(s, a) of the run's own critics at the recorded actions, the smallest of them, (n,); None if it has none.

    Critics that look at something else than features and action count as none, and those of goal-conditioned learning
    as well, whose rewards are not the recorded ones.
    """
    critic = dict(learner.networks.items()).get("critic")
    inputs = logged.state.shape[1] + logged.action.shape[1]
    if isinstance(learner, GoalConditioned) or not isinstance(critic, StackedCritic):
        return None
    if cast(StackedLinear, critic.layers[0]).weight.shape[1] != inputs:
        return None
    with torch.no_grad():
        values: np.ndarray = critic(torch.from_numpy(logged.state), torch.from_numpy(logged.action)).amin(0).numpy()
    return values


def returns(logged: Logged, discount: float, tail: np.ndarray | None = None) -> np.ndarray:
    """The discounted return from each transition on, float64 (n,).

    Args:
        tail: (n,), what is to come after the last transition of an episode that was only truncated; 0 without.
    """
    found = np.zeros(len(logged.reward))
    after = 0.0
    for row in range(len(found) - 1, -1, -1):
        if logged.last[row]:
            after = 0.0 if logged.terminated[row] or tail is None else float(tail[row])
        after = float(logged.reward[row]) + discount * after * (not logged.terminated[row])
        found[row] = after
    return found


def possible_returns(reward: np.ndarray, discount: float) -> tuple[float, float]:
    """The least and the most that a return can be, given the rewards that were seen."""
    return value_range(float(reward.min()), float(reward.max()), discount)


def discount_of(learner: Algorithm) -> float:
    """γ of the algorithm's settings, or `DISCOUNT`."""
    return float(getattr(learner.config, "discount", DISCOUNT))
