"""Hindsight: transitions seen again as if another goal had been asked for.

Andrychowicz et al. 2017, "Hindsight Experience Replay" (1707.01495): a goal that the episode did achieve takes the
place of the one it was given, and the reward is computed anew. Which row that goal comes from is a pure function of
indices and of uniform numbers, so goals of many updates are drawn at once, of whatever shape.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rl_ros.episodes.memory import Batch, ReplayMemory
from rl_ros.errors import UserError

OWN = -1
"""In goal rows: the transition keeps the goal it was given."""
PRIOR = -2
"""In goal rows: the goal is drawn from the prior."""

STRATEGIES = ("current", "final", "future", "geometric_future", "episode", "random", "prior")

Reward = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""What achieving goals (..., G) is worth where goals (..., G) were desired, (...). Must be vectorised."""


def relabelled_share(k: float) -> float:
    """Share of a batch that is relabelled where each transition counts once and k times in hindsight: k / (k + 1)."""
    return k / (k + 1.0)


def current(rows: np.ndarray) -> np.ndarray:
    """What the transition has already achieved where it begins: how a value function learns what being there is."""
    return rows


def final(last: np.ndarray) -> np.ndarray:
    """The goal achieved at the end of the episode: its last row."""
    return last


def future(rows: np.ndarray, last: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A goal achieved later in the episode: uniform over the rows t+1 to T, section 4.5 of the paper.

    Args:
        rows: int64, t of each transition.
        last: int64 of the same shape, T of its episode.
        uniform: of the same shape, in [0, 1).
    """
    return rows + 1 + (uniform * (last - rows)).astype(np.int64)


def geometric_future(rows: np.ndarray, last: np.ndarray, uniform: np.ndarray, discount: float) -> np.ndarray:
    """A goal achieved later in the episode, n ticks ahead with probability (1 - γ) γ^(n-1), at most at its end.

    What a discounted value function weighs states with; OGBench (Park et al. 2025, 2410.20092), appendix on goals.
    """
    ahead = 1 + np.floor(np.log1p(-uniform) / np.log(discount)).astype(np.int64)
    return np.minimum(rows + ahead, last)


def episode(first: np.ndarray, last: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A goal achieved at any time of the episode: uniform over its rows."""
    return first + (uniform * (last - first + 1)).astype(np.int64)


def random(transitions: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A goal achieved at any time of any episode: uniform over the rows where transitions arrive."""
    return transitions.take((uniform * len(transitions)).astype(np.int64)) + 1


@dataclass(frozen=True)
class Hindsight:
    """How goals are replaced.

    Raises:
        UserError: an unknown strategy, shares that are no shares, or a prior that is missing.
    """

    shares: Mapping[str, float]
    """Share of the transitions that each strategy relabels: of `current`, `final`, `future`, `geometric_future`,
    `episode`, `random` and `prior`; the others keep their goal. The paper's best: `{"future": relabelled_share(4)}`."""
    compute_reward: Reward
    """Of the goal that the transition arrives at, and the new one."""
    compute_terminated: Reward | None = None
    """The same for `terminated`. Without it a relabelled transition is no longer terminated: an end that the old goal
    brought about says nothing of the new one, and goals of hindsight are to be reached, not to end the world."""
    prior: Callable[[np.random.Generator, int], np.ndarray] | None = None
    """Draws goals (n, G) from elsewhere than the memory, such as a generative model (Nair et al. 2018, RIG)."""
    discount: float = 0.99
    """γ of `geometric_future`."""
    kept_trivial: float = 1.0
    """Share that is relabelled of the transitions whose new goal is achieved where they begin; the others keep their
    own. Where an object is seldom touched most goals of hindsight are where it already is, and teach nothing."""
    trivial_distance: float = 0.005
    """By how much, in the unit of the goal, what was achieved may differ to count as the same."""

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if name not in STRATEGIES:
                raise UserError(f"no hindsight strategy is named '{name}'; there are: {', '.join(STRATEGIES)}.")
            if not 0.0 <= share <= 1.0:
                raise UserError(f"hindsight: expected a share from 0 to 1 for {name}, got {share}.")
        if not 0.0 <= self.kept_trivial <= 1.0:
            raise UserError(f"hindsight: expected kept_trivial to be a share from 0 to 1, got {self.kept_trivial}.")
        if sum(self.shares.values()) > 1.0 + 1e-9:
            raise UserError(f"hindsight: the shares add up to {sum(self.shares.values()):g}, at most 1 is there.")
        if self.shares.get("prior") and self.prior is None:
            raise UserError("hindsight: a share of goals is to come from a prior, but no prior is given.")

    def goal_rows(self, rng: np.random.Generator, memory: ReplayMemory, rows: np.ndarray) -> np.ndarray:
        """The row whose achieved goal each transition gets, or `OWN`, or `PRIOR`; int64 of the shape of `rows`.

        Args:
            rows: int64 of any shape, such as (updates, batch).
        """
        goal_rows = draw_goal_rows(self.shares, rng, memory, rows, self.discount)
        if self.kept_trivial < 1.0:
            achieved_goal = memory.achieved_goal
            apart = np.abs(achieved_goal.take(np.maximum(goal_rows, 0), axis=0) - achieved_goal.take(rows, axis=0))
            trivial = (goal_rows >= 0) & (apart.max(-1) < self.trivial_distance)
            goal_rows[trivial & (rng.random(rows.shape) >= self.kept_trivial)] = OWN
        return goal_rows

    def relabel(self, memory: ReplayMemory, rows: np.ndarray, goal_rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """The transitions that begin at `rows`, with their new goals and what they are then worth.

        Args:
            rows: int64 (batch,), or (updates, batch) for a block of batches.
            goal_rows: int64 of the same shape, from `goal_rows`.
            rng: of goals from the prior.

        Raises:
            UserError: the memory does not know what a tick achieved.
        """
        achieved_goal = memory.achieved_goal
        batch = memory.take(rows)
        arrived = (batch.next_observation | batch.next_auxiliary)[memory.achieved_goal_key or ""]
        new = goal_rows != OWN
        goal = goals_at(achieved_goal, batch.desired_goal, rows, goal_rows)
        if self.prior is not None:
            imagined = goal_rows == PRIOR
            goal[imagined] = self.prior(rng, int(imagined.sum()))
        batch.desired_goal = goal
        batch.reward = np.where(new, self.compute_reward(arrived, goal), batch.reward).astype(np.float32, copy=False)
        terminated = self.compute_terminated(arrived, goal) if self.compute_terminated else False
        batch.terminated = np.where(new, terminated, batch.terminated)
        return batch


@dataclass(slots=True, kw_only=True)
class GoalBatch(Batch):
    """Transitions for learners whose value function and policy ask about different goals.

    `desired_goal`, `reward` and `terminated` are of the policy's goal, and the three columns here of the other one.
    """

    value_goal: np.ndarray
    """(batch, G)."""
    value_reward: np.ndarray
    """float32 (batch,)."""
    value_terminated: np.ndarray
    """bool (batch,)."""
    ahead: np.ndarray
    """int64 (batch,): ticks from the beginning of the transition to where the policy's goal was achieved."""
    sub_goal: np.ndarray | None = None
    """(batch, G): what was achieved on the way to the policy's goal, where a hierarchy asks for it."""
    sub_goal_observation: dict[str, np.ndarray] = field(default_factory=dict)
    """The observation there."""


def draw_goal_rows(
    shares: Mapping[str, float], rng: np.random.Generator, memory: ReplayMemory, rows: np.ndarray, discount: float
) -> np.ndarray:
    """The row whose achieved goal each transition gets, or `OWN`, or `PRIOR`; int64 of the shape of `rows`.

    Args:
        shares: of each strategy, as in `Hindsight`.
        rows: int64 of any shape, such as (updates, batch).
        discount: γ of `geometric_future`.
    """
    choice, uniform = rng.random(rows.shape), rng.random(rows.shape)
    goals = np.full(rows.shape, OWN)
    # From the last share to the first, so that each comparison leaves those before it to be settled.
    for name, bound in reversed([*zip(shares, np.cumsum([*shares.values()]), strict=True)]):
        goals = np.where(choice < bound, _strategy(name, memory, rows, uniform, discount), goals)
    return goals


def goals_at(
    achieved_goal: np.ndarray, desired_goal: np.ndarray, rows: np.ndarray, goal_rows: np.ndarray
) -> np.ndarray:
    """The goals (..., G) that transitions get: achieved at `goal_rows` (...), or `desired_goal` (..., G) where `OWN`.

    Args:
        achieved_goal: of every row of the memory.
        rows: where the transitions begin, (...).
    """
    # Looking up every row, also those that keep their goal, costs less than picking out the others.
    goal = achieved_goal.take(np.where(goal_rows >= 0, goal_rows, rows), axis=0)
    own = goal_rows == OWN
    np.copyto(goal, desired_goal, where=own.reshape(*own.shape, *[1] * (goal.ndim - own.ndim)))
    return goal


def _strategy(
    name: str, memory: ReplayMemory, rows: np.ndarray, uniform: np.ndarray, discount: float
) -> np.ndarray | int:
    match name:
        case "current":
            return current(rows)
        case "final":
            return final(memory.last_row.take(rows))
        case "future":
            return future(rows, memory.last_row.take(rows), uniform)
        case "geometric_future":
            return geometric_future(rows, memory.last_row.take(rows), uniform, discount)
        case "episode":
            return episode(memory.first_row.take(rows), memory.last_row.take(rows), uniform)
        case "random":
            return random(memory.transitions, uniform)
        case _:
            return PRIOR
