"""Replay memory: packed columns, the next observation by index, sampling by one vectorised take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_ros.errors import UserError


@dataclass(frozen=True)
class Episode:
    """One episode as arrays, a row per tick; T ticks hold at most T-1 transitions.

    Row k of `action`, `reward`, `terminated` and `truncated` belongs to the transition from tick k to
    tick k+1. `has_transition[k]` is False on the last row, and wherever a tick or an action is missing.
    """

    stamps: np.ndarray
    """int64 (T,) nanoseconds."""
    observation: dict[str, np.ndarray]
    """Each (T, *shape)."""
    auxiliary: dict[str, np.ndarray]
    """Each (T, *shape); never an input of a policy."""
    desired_goal: np.ndarray
    """float32 (T, G)."""
    action: np.ndarray
    """float32 (T, A), in the units of the contract."""
    reward: np.ndarray
    """float32 (T,), of arriving at the next tick."""
    terminated: np.ndarray
    """bool (T,)."""
    truncated: np.ndarray
    """bool (T,)."""
    has_transition: np.ndarray
    """bool (T,)."""
    outcome: str
    seed: int
    source: str
    problems: tuple[str, ...] = ()
    """What was cut out and why."""

    @property
    def success(self) -> bool:
        """Whether the episode ended in success."""
        return self.outcome == "success"


@dataclass(frozen=True)
class Batch:
    """Transitions, each array with the batch first. Observations keep the dtype they are stored in."""

    observation: dict[str, np.ndarray]
    next_observation: dict[str, np.ndarray]
    auxiliary: dict[str, np.ndarray]
    desired_goal: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class ReplayMemory:
    """All episodes packed into one array a column.

    Raises:
        UserError: there is no transition at all.
    """

    def __init__(self, episodes: Sequence[Episode]) -> None:
        if not any(episode.has_transition.any() for episode in episodes):
            raise UserError(
                f"{len(episodes)} episodes hold no complete transition; record some with `rl_ros collect`, "
                "or look at one with `rl_ros info BAG`."
            )
        self.observation = _stack([e.observation for e in episodes])
        self.auxiliary = _stack([e.auxiliary for e in episodes])
        self.desired_goal = np.concatenate([e.desired_goal for e in episodes])
        self.action = np.concatenate([e.action for e in episodes])
        self.reward = np.concatenate([e.reward for e in episodes])
        self.terminated = np.concatenate([e.terminated for e in episodes])
        self.truncated = np.concatenate([e.truncated for e in episodes])
        self.episode = np.repeat(np.arange(len(episodes)), [len(e.stamps) for e in episodes])
        """Index of the episode each row belongs to, int64 (rows,)."""
        self.transitions = np.flatnonzero(np.concatenate([e.has_transition for e in episodes]))
        """Rows that begin a transition, int64 (transitions,)."""

    def __len__(self) -> int:
        return len(self.transitions)

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Rows of `size` transitions, uniformly with replacement, int64 (size,)."""
        return self.transitions[rng.integers(0, len(self.transitions), size)]

    def take(self, rows: np.ndarray) -> Batch:
        """The transitions that begin at `rows`."""
        return Batch(
            observation={k: v[rows] for k, v in self.observation.items()},
            next_observation={k: v[rows + 1] for k, v in self.observation.items()},
            auxiliary={k: v[rows] for k, v in self.auxiliary.items()},
            desired_goal=self.desired_goal[rows],
            action=self.action[rows],
            reward=self.reward[rows],
            terminated=self.terminated[rows],
            truncated=self.truncated[rows],
        )


def _stack(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
