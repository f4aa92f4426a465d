"""The one assembler: a stream of stamped messages in, ticks out.

Live nodes feed it from raw subscriptions, ingestion feeds it from bags. Its answer depends only on
stamps and on the order within each topic, never on how topics interleave, so both get equal ticks.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from rl_ros.contract import Key
from rl_ros.episodes.messages import MessageError, column, stamp_of, value

MAX_PENDING = 32
"""Live ticks that may wait for a slower topic before the oldest is given up."""


@dataclass(frozen=True)
class Tick:
    """All keys at one stamp. Nothing is ever filled in: a key with nothing to take is absent, and the tick invalid."""

    stamp: int
    """Nanoseconds, of the reference message."""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why the tick is invalid, each as `key: reason`."""
    ages: dict[str, float] = field(default_factory=dict, compare=False)
    """s from the message that each key takes to the tick."""

    @property
    def valid(self) -> bool:
        """Whether every key has a value."""
        return not self.problems


MAX_HISTORY = 4096
"""Live messages kept per topic while the reference is silent."""
KEPT, KEPT_NS = 512, 2_000_000_000
"""Messages that may come before the start of their episode is announced, and by how many ns their stamps may differ
from the newest one's. A start is announced at once; half a minute of pictures would be half a gigabyte."""
MAX_SHOWN = 16
"""Numbers of an array that a sentence shows."""


class Aligned(NamedTuple):
    """The messages that one tick takes, before any of them is read."""

    stamp: int
    """Nanoseconds, of the reference message."""
    messages: dict[str, Sequence[bytes]]
    """CDR bytes by key: one message, or those of a window, the oldest first. What cannot be had is absent."""
    problems: dict[str, str]
    """Why a key is absent."""


@dataclass(frozen=True)
class Column:
    """One key's values of several ticks."""

    rows: np.ndarray
    """Which of the ticks have one, int64 (m,)."""
    values: np.ndarray
    """(m, *shape)."""
    problems: dict[int, str]
    """Why the other ticks have none."""


NEVER = -(1 << 62)
"""A stamp before any other."""


class _Entry(NamedTuple):
    stamp: int
    cdr: bytes


class _Topic:
    """What is known of one topic."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.depth = 1
        """Messages at or before a tick that some key may take."""
        self.waits = False
        """Whether a tick needs to know that nothing older can come."""
        self.history: deque[_Entry] = deque()
        self.size = 0
        """Bytes of the messages in it."""
        self.newest = NEVER

    def forget(self) -> None:
        """As if nothing had come."""
        self.history.clear()
        self.size = 0
        self.newest = NEVER

    def keep(self, stamp: int, cdr: bytes) -> None:
        """Take the newest message, in place of one of the same stamp."""
        if stamp == self.newest:
            self.size -= len(self.history.pop().cdr)
        self.newest = stamp
        self.history.append(_Entry(stamp, cdr))
        self.size += len(cdr)

    def drop(self) -> int:
        """Forget the oldest message; returns its stamp."""
        stamp, cdr = self.history.popleft()
        self.size -= len(cdr)
        return stamp

    def blocks(self, stamp: int) -> bool:
        """Whether a message that is still to come could change the tick of that stamp."""
        return self.newest < stamp if self.waits else self.newest == NEVER

    def before(self, stamp: int) -> int:
        """How many of the messages kept are at or before the stamp; forgets those that no later tick can take."""
        history, depth = self.history, self.depth
        while len(history) > depth and history[depth].stamp <= stamp:
            self.drop()
        if depth == 1:
            return int(bool(history) and history[0].stamp <= stamp)
        return sum(entry.stamp <= stamp for entry in islice(history, depth))


class Assembler:
    """Aligns the topics of `keys` to the messages of one of them, the reference.

    A tick is given out once no message that could still change it can arrive: every topic has
    delivered something at or after the tick's stamp (for `held` keys: anything at all).

    Args:
        keys: what a tick holds.
        reference: the key whose messages are the ticks.
        budget: bytes of messages that may wait for slower topics, for recordings that may be in any order of topics;
            without it as many ticks may wait as live.
        silent: topics that are known to say nothing, which no tick waits for.
    """

    def __init__(
        self, keys: Mapping[str, Key], reference: str, budget: int | None = None, silent: Collection[str] = ()
    ) -> None:
        self.keys = dict(keys)
        self.types = {key.topic: key.type for key in self.keys.values()}
        self.rejected: dict[str, int] = dict.fromkeys(self.types, 0)
        """Messages a topic that went back in time or held no stamp, by topic."""
        self.late: dict[str, int] = dict.fromkeys(self.types, 0)
        """Messages that came when what they belong to had been given up, by topic."""
        self._budget = budget
        self._reference = self.keys[reference].topic
        self._topics = {topic: _Topic(topic) for topic in self.types}
        for key in self.keys.values():
            topic = self._topics[key.topic]
            topic.depth = max(topic.depth, key.window)
            topic.waits |= key.alignment != "held" and key.topic != self._reference
        self._needed = [topic for topic in self._topics.values() if topic.name not in (self._reference, *silent)]
        # Keys that take the same messages of a topic are looked up once.
        takes: dict[tuple[_Topic, str, float, int], list[str]] = {}
        for name, key in self.keys.items():
            age = 0.0 if key.alignment in ("exact", "held") else key.max_age
            takes.setdefault((self._topics[key.topic], key.alignment, age, key.window), []).append(name)
        self._takes = [(*how, names) for how, names in takes.items()]
        self.restart()

    def restart(self, start: int = 0) -> None:
        """Forget everything, and ignore messages stamped before `start` nanoseconds from now on."""
        self._start = start
        for topic in self._topics.values():
            topic.forget()
        self._pending: deque[int] = deque()
        self._values: dict[str, tuple[bytes, np.ndarray, str | None]] = {}
        self._blocking: _Topic | None = None
        self._given_up = NEVER

    def push(self, topic: str, cdr: bytes) -> list[Tick]:
        """Take one message as it arrived; returns the ticks that are complete now, oldest first."""
        return [self.read(aligned) for aligned in self.align(topic, cdr)]

    def finish(self) -> list[Tick]:
        """The ticks still waiting when a stream has ended."""
        return [self.read(aligned) for aligned in self.align_rest()]

    def align(self, topic: str, cdr: bytes) -> list[Aligned]:
        """As `push`, without reading any message but for its stamp."""
        state = self._topics[topic]
        try:
            stamp = stamp_of(cdr)
        except MessageError:
            self.rejected[topic] += 1
            return []
        if stamp < self._start:
            return []
        pending = self._pending
        if stamp < state.newest:
            self.rejected[topic] += 1
            return []
        if topic == self._reference and stamp > state.newest:
            pending.append(stamp)
        state.keep(stamp, cdr)
        self.late[topic] += stamp <= self._given_up
        if len(state.history) > MAX_HISTORY if self._budget is None else not pending and self._full():
            self._given_up = max(self._given_up, state.drop())
        if not pending or (self._blocking not in (None, state) and not self._full()):
            return []  # what the oldest tick waits for is not this
        ticks = []
        while pending:
            if not self._complete(pending[0]):
                if not self._full():
                    break
                self._given_up = max(self._given_up, pending[0])
            ticks.append(self._align(pending.popleft()))
        return ticks

    def align_rest(self) -> list[Aligned]:
        """As `finish`, without reading any message."""
        ticks = [self._align(stamp) for stamp in self._pending]
        self._pending.clear()
        self._blocking = None
        return ticks

    def read(self, aligned: Aligned) -> Tick:
        """The values of one tick."""
        values: dict[str, np.ndarray] = {}
        ages: dict[str, float] = {}
        problems = []
        for name, key in self.keys.items():
            reason = aligned.problems.get(name)
            if reason is None:
                try:
                    taken = aligned.messages[name]
                    ages[name] = (aligned.stamp - stamp_of(taken[-1])) * 1e-9
                    if key.alignment == "window":
                        array = np.stack([value(key, cdr) for cdr in taken])
                        values[name], reason = array, _not_finite(array)
                    else:
                        values[name], reason = self._read(name, taken[0])
                except MessageError as error:
                    reason = str(error)
            if reason is not None:
                problems.append(f"{name}: {reason}")
        return Tick(aligned.stamp, values, tuple(problems), ages)

    def value(self, name: str, cdr: bytes) -> np.ndarray:
        """One key's value of one message.

        Raises:
            MessageError: as `rl_ros.episodes.messages.value`.
        """
        return self._read(name, cdr)[0]

    def read_column(self, name: str, ticks: Sequence[Aligned]) -> Column:
        """One key's values of many ticks; the same bits as from `read`, many times faster."""
        key = self.keys[name]
        problems = {row: tick.problems[name] for row, tick in enumerate(ticks) if name in tick.problems}
        rows = [row for row in range(len(ticks)) if row not in problems]
        try:
            values = _read_all(key, [ticks[row].messages[name] for row in rows])
        except MessageError:  # one at a time tells which
            kept, read = [], []
            for row in rows:
                try:
                    read.append(_read_all(key, [ticks[row].messages[name]]))
                    kept.append(row)
                except MessageError as error:
                    problems[row] = str(error)
            rows, values = kept, np.concatenate([_read_all(key, []), *read])
        if values.dtype.kind == "f":
            finite = np.isfinite(values.reshape(len(values), math.prod(key.shape))).all(axis=1)
            if not finite.all():
                for index in np.flatnonzero(~finite):
                    problems[rows[index]] = str(_not_finite(values[index]))
                rows, values = [row for row, good in zip(rows, finite, strict=True) if good], values[finite]
        return Column(np.array(rows, np.int64), values, problems)

    def missing(self) -> list[str]:
        """Topics that have delivered nothing, or nothing recent enough for the oldest waiting tick."""
        if not self._pending:
            return [name for name, topic in self._topics.items() if not topic.history]
        return [topic.name for topic in self._needed if topic.blocks(self._pending[0])]

    def newest(self, topic: str) -> int | None:
        """The newest stamp on a topic in nanoseconds; None if nothing came."""
        newest = self._topics[topic].newest
        return None if newest == NEVER else newest

    def _read(self, name: str, cdr: bytes) -> tuple[np.ndarray, str | None]:
        """The value, and why it is none; those of each key's last message are remembered: ticks take some again."""
        known = self._values.get(name)
        if known is None or known[0] is not cdr:
            array = value(self.keys[name], cdr)
            known = self._values[name] = cdr, array, _not_finite(array)
        return known[1], known[2]

    def _full(self) -> bool:
        """Whether more waits than may."""
        if self._budget is None:
            return len(self._pending) > MAX_PENDING
        return sum(topic.size for topic in self._topics.values()) > self._budget

    def _complete(self, stamp: int) -> bool:
        for topic in self._needed:
            if topic.blocks(stamp):
                self._blocking = topic
                return False
        self._blocking = None
        return True

    def _align(self, stamp: int) -> Aligned:
        found: dict[str, Sequence[bytes]] = {}
        problems: dict[str, str] = {}
        for topic, alignment, max_age, window, keys in self._takes:
            taken, reason = _take(topic, stamp, alignment, max_age, window)
            for key in keys:
                if reason is None:
                    found[key] = taken
                else:
                    problems[key] = reason
        return Aligned(stamp, found, problems)


def _take(topic: _Topic, stamp: int, alignment: str, max_age: float, window: int) -> tuple[Sequence[bytes], str | None]:
    """The messages for the tick of that stamp, and why there are none."""
    history, count = topic.history, topic.before(stamp)
    if alignment == "nearest":
        around = [history[index] for index in (count - 1, count) if 0 <= index < len(history)]
        if not around:
            return (), f"nothing on {topic.name}"
        entry = min(around, key=lambda each: abs(each.stamp - stamp))
        distance = abs(entry.stamp - stamp) * 1e-9
        if distance > max_age:
            return (), f"{distance:.3f} s away, at most {max_age:.3f} s allowed"
        return (entry.cdr,), None
    if alignment == "next":
        following = count - 1 if count and history[count - 1].stamp == stamp else count
        if following == len(history):
            return (), f"nothing on {topic.name} after this stamp"
        entry = history[following]
        late = (entry.stamp - stamp) * 1e-9
        if late > max_age:
            return (), f"{late:.3f} s later, at most {max_age:.3f} s allowed"
        return (entry.cdr,), None
    if count == 0:
        return (), f"nothing on {topic.name}"
    entry = history[count - 1]
    if alignment == "exact":
        return (entry.cdr,), None if entry.stamp == stamp else f"nothing on {topic.name} at this stamp"
    if alignment == "window":
        if count < window:
            return (), f"{count} messages on {topic.name}, a window of {window} expected"
        entry = history[count - window]
    age = (stamp - entry.stamp) * 1e-9
    if alignment != "held" and age > max_age:
        return (), f"{age:.3f} s old, at most {max_age:.3f} s allowed"
    if alignment == "window":
        return [each.cdr for each in islice(history, count - window, count)], None
    return (entry.cdr,), None


def _read_all(key: Key, taken: Sequence[Sequence[bytes]]) -> np.ndarray:
    """The values of several ticks, (n, *key.shape)."""
    if not taken:
        return np.empty((0, *key.shape), key.dtype)
    return column(key, [cdr for messages in taken for cdr in messages]).reshape(len(taken), *key.shape)


def _not_finite(array: np.ndarray) -> str | None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    return f"not finite: {array.tolist() if array.size <= MAX_SHOWN else f'{np.sum(~np.isfinite(array))} numbers'}"


class _Early(NamedTuple):
    topic: str
    stamp: int
    cdr: bytes


class EpisodeGate:
    """Shows an assembler only the messages of the running episode.

    Between episodes messages are kept, so that those of the next one may come before its start is
    announced; nothing is answered with what was known of the episode before.
    """

    def __init__(self, assembler: Assembler) -> None:
        self.assembler = assembler
        self.running = False
        self._kept: deque[_Early] = deque(maxlen=KEPT)

    def push(self, topic: str, cdr: bytes) -> list[Tick]:
        """Take one message; returns the ticks of the running episode that are complete now."""
        if self.running:
            return self.assembler.push(topic, cdr)
        try:
            stamp = stamp_of(cdr)
        except MessageError:
            return self.assembler.push(topic, cdr)  # which counts it
        # Each topic by its own newest: one that is quiet keeps its last message. Where a clock went back, what is
        # stamped later is what is old.
        near = (early for early in self._kept if early.topic != topic or abs(early.stamp - stamp) <= KEPT_NS)
        self._kept = deque([*near, _Early(topic, stamp, cdr)], maxlen=KEPT)
        return []

    def prepare(self) -> None:
        """The running episode is over; give out no tick until the next one starts."""
        self.running = False

    def begin(self, start: int) -> list[Tick]:
        """An episode starts at stamp `start`; returns its ticks that are complete already."""
        self.running = True
        self.assembler.restart(start)
        kept, self._kept = self._kept, deque(maxlen=KEPT)
        return [tick for early in kept for tick in self.assembler.push(early.topic, early.cdr)]
