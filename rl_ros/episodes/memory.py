"""Replay memory: a record for each tick, the next observation by index, sampling by one vectorised take.

A transition joins the rows k and k + 1, so no observation is ever stored twice. What is small in a tick lies side by
side in one record: a batch of transitions then costs two accesses to memory for each of them, not two for each of its
columns. What is large, such as images, stays in the column it came in and may be memory-mapped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rl_ros.errors import UserError

RECORD_BYTES = 1024
"""Columns of at most so many bytes a row are packed into the records."""
JUDGED_AT_ONCE = 4096
"""Transitions whose images are in memory at once while rewards are recomputed."""

Judge = Callable[[Mapping[str, np.ndarray], np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Reward float32 (n,) and terminated bool (n,) of arriving at rows: from their observation and auxiliary values by
key, each (n, *shape), and the desired goals (n, G)."""


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
    actor: np.ndarray | None = None
    """uint8 (T,): who chose the action of each tick, 1 for the first of `contract.ACTORS` and so on; 0 where the
    recording does not tell, None where it never does."""

    @property
    def success(self) -> bool:
        """Whether the episode ended in success."""
        return self.outcome == "success"

    def value(self, key: str) -> np.ndarray:
        """An observation or auxiliary key, (T, *shape)."""
        return self.observation[key] if key in self.observation else self.auxiliary[key]


@dataclass(frozen=True)
class Columns:
    """Episodes one after the other, an array a column and a row a tick; the arrays may be memory-mapped.

    The rows mean what they mean in `Episode`.
    """

    observation: Mapping[str, np.ndarray]
    """Each (rows, *shape)."""
    auxiliary: Mapping[str, np.ndarray]
    """Each (rows, *shape)."""
    desired_goal: np.ndarray
    """float32 (rows, G)."""
    action: np.ndarray
    """float32 (rows, A)."""
    reward: np.ndarray
    """float32 (rows,)."""
    terminated: np.ndarray
    """bool (rows,)."""
    truncated: np.ndarray
    """bool (rows,)."""
    has_transition: np.ndarray
    """bool (rows,)."""
    lengths: np.ndarray
    """int64 (episodes,), the ticks of each."""

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> "Columns":
        """At least one episode, copied into columns."""
        return cls(
            observation=_stack([e.observation for e in episodes]),
            auxiliary=_stack([e.auxiliary for e in episodes]),
            desired_goal=np.concatenate([e.desired_goal for e in episodes]),
            action=np.concatenate([e.action for e in episodes]),
            reward=np.concatenate([e.reward for e in episodes]),
            terminated=np.concatenate([e.terminated for e in episodes]),
            truncated=np.concatenate([e.truncated for e in episodes]),
            has_transition=np.concatenate([e.has_transition for e in episodes]),
            lengths=np.array([len(e.stamps) for e in episodes], np.int64),
        )


def ends_of_episodes(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last row of each row's episode, int64 (rows,), for episodes one after the other."""
    last = np.cumsum(lengths) - 1
    return np.repeat(last - lengths + 1, lengths), np.repeat(last, lengths)


@dataclass(slots=True)
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
    next_auxiliary: dict[str, np.ndarray] = field(default_factory=dict)
    steps: np.ndarray | None = None
    """int64 (batch,), where `reward` is a return of several ticks: how many, and how far ahead the next one is."""
    demonstration: np.ndarray | None = None
    """bool (batch,), where some transitions are a demonstrator's."""
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    """What else an algorithm's own `batches` looked up for it, each (batch, *shape)."""

    def __getitem__(self, index: int) -> "Batch":
        """One of the batches of a block that was taken at once: views of it."""
        return Batch(
            {name: array[index] for name, array in self.observation.items()},
            {name: array[index] for name, array in self.next_observation.items()},
            {name: array[index] for name, array in self.auxiliary.items()},
            self.desired_goal[index],
            self.action[index],
            self.reward[index],
            self.terminated[index],
            self.truncated[index],
            {name: array[index] for name, array in self.next_auxiliary.items()},
            None if self.steps is None else self.steps[index],
            None if self.demonstration is None else self.demonstration[index],
            {name: array[index] for name, array in self.extra.items()},
        )


B = TypeVar("B", bound=Batch)


class ReplayMemory:
    """Every tick of every episode, as records and large columns.

    Args:
        episodes: copied into the memory, or columns that already hold them, whose large arrays are used as they are.
        capacity: ticks that the memory can hold, for `append`: whole episodes are forgotten, the oldest first. Without
            it the memory holds the episodes given and never changes.
        achieved_goal: the observation or auxiliary key that says which goal a tick has achieved, for relabelling.
        kept: auxiliary keys that no batch brings, such as images of which only a code is learned from; they are here,
            row by row, in `auxiliary`.

    Raises:
        UserError: there is no transition at all, they do not fit, or there is no such key.
    """

    observation: dict[str, np.ndarray]
    """Each (rows, *shape)."""
    auxiliary: dict[str, np.ndarray]
    """Each (rows, *shape)."""
    desired_goal: np.ndarray
    """float32 (rows, G)."""
    action: np.ndarray
    """float32 (rows, A)."""
    reward: np.ndarray
    """float32 (rows,)."""
    terminated: np.ndarray
    """bool (rows,)."""
    truncated: np.ndarray
    """bool (rows,)."""

    def __init__(
        self,
        episodes: Sequence[Episode] | Columns,
        *,
        capacity: int | None = None,
        achieved_goal: str | None = None,
        kept: Sequence[str] = (),
    ) -> None:
        self.capacity, self.achieved_goal_key, self.kept = capacity, achieved_goal, tuple(kept)
        self._achieved_goal: np.ndarray | None = None
        self.transitions = np.zeros(0, np.int64)
        """Rows that begin a transition, int64 (transitions,)."""
        if capacity is not None:
            self._appended, self._next_row = 0, 0
            for episode in _separate(episodes) if isinstance(episodes, Columns) else episodes:
                self.append(episode)
            return
        columns = episodes if isinstance(episodes, Columns) else Columns.of(episodes) if episodes else None
        count = len(columns.lengths) if columns else 0
        if columns is None or not columns.has_transition.any():
            raise UserError(
                f"{count} episodes hold no complete transition; record some with `rl_ros collect`, "
                "or look at one with `rl_ros info BAG`."
            )
        arrays = _named(columns)
        self._use(_pack(arrays), {name: np.asarray(a) for name, a in arrays.items() if not _is_small(a)})
        self.first_row, self.last_row = ends_of_episodes(columns.lengths)
        """First and last row of each row's episode, int64 (rows,)."""
        self.episode = np.repeat(np.arange(count), columns.lengths)
        """Number of the episode each row belongs to, int64 (rows,); -1 where a row of the capacity is free."""
        self._has_transition = np.asarray(columns.has_transition)
        self.transitions = np.flatnonzero(self._has_transition)

    def __len__(self) -> int:
        return len(self.transitions)

    @property
    def has_transition(self) -> np.ndarray:
        """Whether a transition begins at each row, bool (rows,)."""
        return self._has_transition

    @property
    def achieved_goal(self) -> np.ndarray:
        """What each row has achieved, (rows, G).

        Raises:
            UserError: no key was named to say it.
        """
        if self._achieved_goal is None:
            raise UserError(
                "relabelling needs to know what each tick achieved: name a key as goal.achieved_goal in the contract."
            )
        return self._achieved_goal

    def sample(self, rng: np.random.Generator, size: int | tuple[int, ...]) -> np.ndarray:
        """Rows of transitions, uniformly with replacement, int64 (size,) or of the shape `size`.

        Drawing the rows of many updates at once, (updates, batch), costs much less than a draw for each.

        Raises:
            UserError: the memory is empty.
        """
        if not len(self.transitions):
            raise UserError("the replay memory is empty: append an episode before sampling.")
        # Half the time of rng.integers, and no less uniform: 2^53 numbers share themselves among the transitions.
        return self.transitions.take((rng.random(size) * len(self.transitions)).astype(np.int64))

    def take(self, rows: np.ndarray) -> Batch:
        """The transitions that begin at `rows`, int64 (batch,); copies, never views of the memory.

        Rows of (updates, batch) give a block of so many batches, for less than taking them one by one.
        """
        following = rows + 1
        here, there = self._records.take(rows), self._records.take(following)
        others = _gather(self._other_fields, here, rows)
        return Batch(
            observation=_gather(self._observation_fields, here, rows),
            next_observation=_gather(self._observation_fields, there, following),
            auxiliary=_gather(self._auxiliary_fields, here, rows),
            next_auxiliary=_gather(self._auxiliary_fields, there, following),
            desired_goal=others["desired_goal"],
            action=others["action"],
            reward=others["reward"],
            terminated=others["terminated"],
            truncated=others["truncated"],
        )

    def append(self, episode: Episode) -> None:
        """Add one episode; the oldest ones make room, each forgotten whole.

        Raises:
            UserError: the memory was made without a capacity, or the episode is longer than it.
        """
        if self.capacity is None:
            raise UserError("this replay memory has no capacity to append to; make it with capacity=TICKS.")
        count = len(episode.stamps)
        if count > self.capacity:
            raise UserError(f"an episode of {count} ticks does not fit a replay memory of {self.capacity}.")
        arrays = _named(Columns.of([episode]))
        if not self._appended:
            self._allocate(arrays, self.capacity)
        # Episodes stay in one piece, so that the next observation is always in the next row.
        start = self._next_row if self._next_row + count <= self.capacity else 0
        rows = slice(start, start + count)
        for number in np.unique(self.episode[rows]):
            if number >= 0:
                forgotten = self.episode == number
                self.episode[forgotten] = -1
                self._has_transition[forgotten] = False
        for name, array in arrays.items():
            (self._large[name] if name in self._large else self._records[name])[rows] = array
        if self.achieved_goal_key is not None:
            self.achieved_goal[rows] = episode.value(self.achieved_goal_key)
        self.episode[rows] = self._appended
        self.first_row[rows], self.last_row[rows] = start, start + count - 1
        self._has_transition[rows] = episode.has_transition
        self.transitions = np.flatnonzero(self._has_transition)
        self._appended, self._next_row = self._appended + 1, start + count

    def replace(self, key: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Give rows (n,) other values (n, *shape) of an observation, such as what another encoder makes of an image."""
        self.observation[key][rows] = values
        if key == self.achieved_goal_key:
            self.achieved_goal[rows] = values

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a memory with a capacity holds, as arrays to be saved; views of the memory, not copies."""
        if not getattr(self, "_appended", 0):
            return {"counters": np.zeros(3, np.int64)}
        used = max(self._next_row, int(self.last_row.max()) + 1)
        rows = {"records": self._records, "episode": self.episode, "has_transition": self._has_transition}
        rows |= {"first_row": self.first_row, "last_row": self.last_row}
        rows |= {f"large/{name}": column for name, column in self._large.items()}
        counters = np.array([self._appended, self._next_row, len(self._records)])
        return {"counters": counters} | {name: array[:used] for name, array in rows.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Hold what `state` of a memory of the same capacity and keys gave, and go on from there bit for bit.

        Raises:
            UserError: the memory that the state is of has another capacity.
        """
        appended, next_row, capacity = (int(number) for number in state["counters"])
        if not appended:
            return
        if capacity != self.capacity:
            raise UserError(f"a replay memory of {capacity} ticks cannot be restored as one of {self.capacity}.")
        records = np.zeros(capacity, state["records"].dtype)
        large = {name.removeprefix("large/"): array for name, array in state.items() if name.startswith("large/")}
        self._use(records, {n: np.zeros((capacity, *a.shape[1:]), a.dtype) for n, a in large.items()})
        self._track(capacity)
        used = len(state["records"])
        records[:used] = state["records"]
        for name, array in large.items():
            self._large[name][:used] = array
        self.episode[:used], self._has_transition[:used] = state["episode"], state["has_transition"]
        self.first_row[:used], self.last_row[:used] = state["first_row"], state["last_row"]
        if self.achieved_goal_key is not None:
            self.achieved_goal[:used] = (self.observation | self.auxiliary)[self.achieved_goal_key][:used]
        self.transitions = np.flatnonzero(self._has_transition)
        self._appended, self._next_row = appended, next_row

    def judged_by(self, judge: Judge) -> "ReplayMemory":
        """The same transitions with the rewards and terminations of another task; large columns are shared.

        Where the other task terminates earlier than the episode did, what follows stays in the memory, as transitions
        of their own.
        """
        other: ReplayMemory = object.__new__(ReplayMemory)
        other.__dict__.update(self.__dict__)
        other._use(self._records.copy(), self._large)
        other.capacity = None
        for start in range(0, len(self.transitions), JUDGED_AT_ONCE):
            rows = self.transitions[start : start + JUDGED_AT_ONCE]
            values = {name: column[rows + 1] for name, column in (self.observation | self.auxiliary).items()}
            other.reward[rows], other.terminated[rows] = judge(values, self.desired_goal[rows])
            other.truncated[rows] &= ~other.terminated[rows]
        return other

    def _allocate(self, arrays: Mapping[str, np.ndarray], rows: int) -> None:
        small = {name: array for name, array in arrays.items() if _is_small(array)}
        large = {n: np.zeros((rows, *a.shape[1:]), a.dtype) for n, a in arrays.items() if n not in small}
        self._use(np.zeros(rows, _record_type(small)), large)
        self._track(rows)

    def _track(self, rows: int) -> None:
        """Begin to keep track of episodes in so many free rows."""
        self.episode = np.full(rows, -1)
        self.first_row, self.last_row = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self._has_transition = np.zeros(rows, bool)

    def _use(self, records: np.ndarray, large: dict[str, np.ndarray]) -> None:
        """Take these as the storage; the public columns become views of them."""
        self._records, self._large = records, large
        everything = {name: records[name] for name in records.dtype.names or ()} | large
        fields = [_Field(name.partition("/")[2] or name, name, large.get(name)) for name in everything]
        self._observation_fields = [field for field in fields if field.name.startswith("observation/")]
        auxiliary = [field for field in fields if field.name.startswith("auxiliary/")]
        self._auxiliary_fields = [field for field in auxiliary if field.key not in self.kept]
        self._other_fields = [field for field in fields if "/" not in field.name]
        self.observation = {key: everything[name] for key, name, _ in self._observation_fields}
        self.auxiliary = {key: everything[name] for key, name, _ in auxiliary}
        self.desired_goal, self.action = everything["desired_goal"], everything["action"]
        self.reward = everything["reward"]
        self.terminated, self.truncated = everything["terminated"], everything["truncated"]
        key, self._achieved_goal = self.achieved_goal_key, None
        if key is not None:
            offered = self.observation | self.auxiliary
            if key not in offered:
                raise UserError(f"achieved_goal: expected one of {', '.join(offered)}, got '{key}'.")
            if offered[key].shape[1:] != self.desired_goal.shape[1:]:
                raise UserError(
                    f"achieved_goal: {key} has shape {list(offered[key].shape[1:])}, but the desired goal has "
                    f"{list(self.desired_goal.shape[1:])}; relabelling needs them to be the same."
                )
            # On its own as well, as relabelling looks it up at rows that it needs nothing else of.
            self._achieved_goal = np.ascontiguousarray(offered[key])


class TaskMemories:
    """A replay memory for each task, sampled in fixed shares so that no task is drowned by another's data.

    Args:
        memories: by task; all of the same keys, shapes and dtypes.
        shares: of a batch, by task; equal ones by default.
    """

    def __init__(self, memories: Mapping[str, ReplayMemory], shares: Mapping[str, float] | None = None) -> None:
        self.memories = dict(memories)
        shares = shares or {name: 1.0 for name in memories}
        if shares.keys() != self.memories.keys() or min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise UserError(f"shares: expected a positive number for each of {', '.join(memories)}, got {shares}.")
        total = sum(shares.values())
        self.shares = {name: shares[name] / total for name in self.memories}

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
        """Rows of `size` transitions by task; the counts are the shares, rounded so that they add up to `size`."""
        bounds = np.round(size * np.cumsum([0.0, *self.shares.values()])).astype(np.int64)
        return {
            name: memory.sample(rng, int(count))
            for (name, memory), count in zip(self.memories.items(), np.diff(bounds), strict=True)
            if count
        }

    def take(self, rows: Mapping[str, np.ndarray]) -> tuple[Batch, np.ndarray]:
        """The transitions, task after task, and the index of each one's task in `memories`, int64 (batch,)."""
        names = list(self.memories)
        batches = [self.memories[name].take(indices) for name, indices in rows.items()]
        task = np.repeat([names.index(name) for name in rows], [len(indices) for indices in rows.values()])
        return join(batches), task


def join(batches: Sequence[B]) -> B:
    """Batches of one type and of the same columns as one, in their order."""

    def joined(columns: list[Any]) -> Any:
        if any(column is None for column in columns):
            return None
        return _stack(columns) if isinstance(columns[0], dict) else np.concatenate(columns)

    kind = type(batches[0])
    return kind(**{each.name: joined([getattr(batch, each.name) for batch in batches]) for each in fields(kind)})


def _stack(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}


class _Field(NamedTuple):
    key: str
    name: str
    """In the records, or of the large column."""
    column: np.ndarray | None
    """The large column, if it is none of the records' fields."""


def _gather(fields: Iterable[_Field], records: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Fields by key: of the records that were taken, or taken from large columns at `rows`."""
    return {key: records[name] if column is None else column.take(rows, axis=0) for key, name, column in fields}


def _separate(columns: Columns) -> list[Episode]:
    """Columns as episodes again; what columns do not hold, such as stamps, is left empty."""
    last = np.cumsum(columns.lengths)
    return [
        Episode(
            stamps=np.zeros(stop - start, np.int64),
            observation={name: array[start:stop] for name, array in columns.observation.items()},
            auxiliary={name: array[start:stop] for name, array in columns.auxiliary.items()},
            desired_goal=columns.desired_goal[start:stop],
            action=columns.action[start:stop],
            reward=columns.reward[start:stop],
            terminated=columns.terminated[start:stop],
            truncated=columns.truncated[start:stop],
            has_transition=columns.has_transition[start:stop],
            outcome="",
            seed=0,
            source="",
        )
        for start, stop in zip(last - columns.lengths, last, strict=True)
    ]


def _named(columns: Columns) -> dict[str, np.ndarray]:
    """Every column by the name of its field in a record."""
    return {
        **{f"observation/{name}": array for name, array in columns.observation.items()},
        **{f"auxiliary/{name}": array for name, array in columns.auxiliary.items()},
        "desired_goal": columns.desired_goal,
        "action": columns.action,
        "reward": columns.reward,
        "terminated": columns.terminated,
        "truncated": columns.truncated,
    }


def _is_small(array: np.ndarray) -> bool:
    return array.dtype.itemsize * int(np.prod(array.shape[1:])) <= RECORD_BYTES


def _record_type(small: Mapping[str, np.ndarray]) -> np.dtype:
    # Aligned, because torch takes no array whose strides are not whole elements.
    return np.dtype([(name, array.dtype, array.shape[1:]) for name, array in small.items()], align=True)


def _pack(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    small = {name: array for name, array in arrays.items() if _is_small(array)}
    records = np.zeros(len(arrays["reward"]), _record_type(small))
    for name, array in small.items():
        records[name] = array
    return records
