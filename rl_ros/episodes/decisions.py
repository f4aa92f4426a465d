"""What the rows of a grasping episode mean for a learner that decides when a grasp is over.

An episode of bin grasping goes on after the policy has said `terminate`, with the check of the grasp. `decisions` makes
of it what the policy decided, and what came of it; `held_up` finds the picture of what was grasped.
"""

from typing import NamedTuple

import numpy as np

from rl_ros.episodes.distance import same_thing
from rl_ros.episodes.memory import ReplayMemory
from rl_ros.errors import UserError

FALL = 3
"""Ticks at the end of a check that what is let go has to fall and to come to rest. So many before an episode's last
tick is the one at which the camera sees what was grasped."""


class Decisions(NamedTuple):
    """What a memory holds for a learner that decides when an episode ends; each (rows,)."""

    nearest: np.ndarray
    """int64: the row of a decision for each row of a transition: itself, or one of its episode."""
    reward: np.ndarray
    """float32; that of the last decision is what the check of the grasp brought."""
    last: np.ndarray
    """bool: the episode's last decision, after which nothing follows."""
    success: np.ndarray
    """bool: whether the episode succeeded."""
    seen_return: np.ndarray
    """float32: the discounted sum of the rewards from each decision to its episode's last one."""


class HeldUp(NamedTuple):
    """What the grasps of a memory have held up."""

    latent: np.ndarray
    """float32 (grasps, Z): of the picture of it, of each grasp that succeeded."""
    of_row: np.ndarray
    """int64 (rows,): which of them is that of a row's episode; -1 where its grasp failed."""
    thing: np.ndarray
    """int64 (rows,): which thing it was, where recordings say where things are; else -1, as where a grasp failed."""

    def draw(self, rows: np.ndarray, own: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A goal for each row, float32 (n, Z), and whether its grasp would be the right one for it, bool (n,).

        Args:
            rows: of the memory, (n,).
            own: share of the grasps that succeeded which get what they have held up; all others get any.
            rng: for drawing them.
        """
        mine = self.of_row[rows]
        drawn = rng.integers(0, len(self.latent), len(rows))
        goal = self.latent[np.where((mine >= 0) & (rng.random(len(rows)) < own), mine, drawn)]
        # A grasp that failed is as wrong for one thing as for another.
        return goal, (mine < 0) | same_thing(self.latent[mine], goal)


def held_up(memory: ReplayMemory) -> HeldUp:
    """Find what each grasp has held up: the latent of the picture `FALL` ticks before its episode's end.

    Raises:
        UserError: no grasp in the memory has succeeded.
    """
    rows = memory.transitions
    ends = rows[np.append(np.diff(memory.episode[rows]) != 0, True)]
    good = ends[memory.reward[ends] > 0.5]
    if not len(good):
        raise UserError("no grasp in these recordings has succeeded: there is no picture to ask for.")
    of_episode = np.full(memory.episode.max() + 1, -1)
    of_episode[memory.episode[good]] = np.arange(len(good))
    shown = good + 1 - FALL
    of_row = np.where(memory.episode >= 0, of_episode[memory.episode], -1)
    things = np.full(len(good), -1)
    if "objects_position" in memory.auxiliary:
        things = memory.auxiliary["objects_position"][shown, 2::3].argmax(axis=1)
    return HeldUp(memory.achieved_goal[shown], of_row, np.where(of_row >= 0, things[of_row], -1))


def decisions(memory: ReplayMemory, terminate: int, discount: float) -> Decisions:
    """Take the check of the grasp out of each episode, and give what it brought to the decision that it judged.

    Args:
        memory: of whole episodes.
        terminate: which entry of the action says that the grasp is over; -1 where there is none, so that every
            transition is a decision.
        discount: γ.
    """
    rows = memory.transitions
    episode = memory.episode
    action = memory.action
    count = len(episode)
    reward, last = memory.reward.astype(np.float32).copy(), np.array(memory.terminated | memory.truncated)
    success, seen_return = np.zeros(count, bool), np.zeros(count, np.float32)
    nearest = np.arange(count)
    starts = np.flatnonzero(np.diff(episode[rows], prepend=-1))
    for start, end in zip(starts, np.append(starts[1:], len(rows)), strict=True):
        own = rows[start:end]
        said = np.flatnonzero(action[own, terminate] > 0.5) if terminate >= 0 else np.empty(0, np.int64)
        decided = own[: said[0] + 1] if len(said) else own
        final = reward[own[-1]]
        if len(said):
            last[decided[-1]], reward[decided[-1]] = True, max(final, 0.0)
        success[own] = final > 0.5
        following = 0.0
        for row in decided[::-1]:
            following = seen_return[row] = reward[row] + discount * following
        # Rows of the check stand for a decision each, so that every episode counts by its length alone.
        beyond = own[len(decided) :]
        nearest[beyond] = decided[np.arange(len(beyond)) % len(decided)]
    return Decisions(nearest, reward, last, success, seen_return)
