"""The one assembler: a stream of stamped messages in, ticks out.

Live nodes feed it from raw subscriptions, ingestion feeds it from bags. Its answer depends only on
stamps and on the order within each topic, never on how topics interleave, so both get equal ticks.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rl_ros.contract import Key
from rl_ros.episodes.messages import MessageError, stamp_of, value

MAX_PENDING = 32
"""Ticks that may wait for a slower topic before the oldest is given up."""


@dataclass(frozen=True)
class Tick:
    """All keys at one stamp. Nothing is ever filled in: a key with nothing to take is absent, and the tick invalid."""

    stamp: int
    """Nanoseconds, of the reference message."""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why the tick is invalid, each as `key: reason`."""

    @property
    def valid(self) -> bool:
        """Whether every key has a value."""
        return not self.problems


MAX_HISTORY = 4096
"""Messages kept per topic while the reference is silent."""


class _Entry(NamedTuple):
    stamp: int
    cdr: bytes


class Assembler:
    """Aligns the topics of `keys` to the messages of one of them, the reference.

    A tick is given out once no message that could still change it can arrive: every topic has
    delivered something at or after the tick's stamp (for `held` keys: anything at all).

    Args:
        keys: what a tick holds.
        reference: the key whose messages are the ticks.
    """

    def __init__(self, keys: Mapping[str, Key], reference: str) -> None:
        self.keys = dict(keys)
        self.types = {key.topic: key.type for key in self.keys.values()}
        self.rejected: dict[str, int] = dict.fromkeys(self.types, 0)
        """Messages a topic that went back in time or held no stamp, by topic."""
        self._reference_topic = self.keys[reference].topic
        self._waits = {
            key.topic for key in self.keys.values() if key.topic != self._reference_topic and key.alignment != "held"
        }
        self._held = {key.topic for key in self.keys.values()} - self._waits - {self._reference_topic}
        self.restart()

    def restart(self, start: int = 0) -> None:
        """Forget everything, and ignore messages stamped before `start` nanoseconds from now on."""
        self._start = start
        self._history: dict[str, deque[_Entry]] = {topic: deque(maxlen=MAX_HISTORY) for topic in self.types}
        self._pending: deque[int] = deque()

    def push(self, topic: str, cdr: bytes) -> list[Tick]:
        """Take one message as it arrived; returns the ticks that are complete now, oldest first."""
        history = self._history[topic]
        try:
            stamp = stamp_of(cdr)
        except MessageError:
            self.rejected[topic] += 1
            return []
        if stamp < self._start:
            return []
        if history and stamp <= history[-1].stamp:
            if stamp < history[-1].stamp:
                self.rejected[topic] += 1
                return []
            history.pop()
        elif topic == self._reference_topic:
            self._pending.append(stamp)
        history.append(_Entry(stamp, cdr))
        ticks = []
        while self._pending and (self._complete(self._pending[0]) or len(self._pending) > MAX_PENDING):
            ticks.append(self._assemble(self._pending.popleft()))
        return ticks

    def finish(self) -> list[Tick]:
        """The ticks still waiting when a stream has ended."""
        ticks = [self._assemble(stamp) for stamp in self._pending]
        self._pending.clear()
        return ticks

    def missing(self) -> list[str]:
        """Topics that have delivered nothing, or nothing recent enough for the oldest waiting tick."""
        if not self._pending:
            return [topic for topic, history in self._history.items() if not history]
        oldest = self._pending[0]
        return [
            topic
            for topic, history in self._history.items()
            if not history or (topic in self._waits and history[-1].stamp < oldest)
        ]

    def _complete(self, stamp: int) -> bool:
        for topic in self._waits:
            history = self._history[topic]
            if not history or history[-1].stamp < stamp:
                return False
        return all(self._history[topic] for topic in self._held)

    def _assemble(self, stamp: int) -> Tick:
        for history in self._history.values():
            while len(history) > 1 and history[1].stamp <= stamp:
                history.popleft()
        values: dict[str, np.ndarray] = {}
        problems = []
        for name, key in self.keys.items():
            entry = next(iter(self._history[key.topic]), None)
            if entry is None or entry.stamp > stamp:
                problems.append(f"{name}: nothing on {key.topic}")
                continue
            age = (stamp - entry.stamp) * 1e-9
            if key.alignment == "exact" and entry.stamp != stamp:
                problems.append(f"{name}: nothing on {key.topic} at this stamp")
            elif key.alignment == "latest" and age > key.max_age:
                problems.append(f"{name}: {age:.3f} s old, at most {key.max_age:.3f} s allowed")
            else:
                try:
                    array = value(key, entry.cdr)
                except MessageError as error:
                    problems.append(f"{name}: {error}")
                    continue
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    problems.append(f"{name}: not finite: {array.tolist()}")
                values[name] = array
        return Tick(stamp, values, tuple(problems))


class EpisodeGate:
    """Shows an assembler only the messages of the running episode.

    Between episodes messages are kept, so that those of the next one may come before its start is
    announced; nothing is answered with what was known of the episode before.
    """

    KEPT = 512

    def __init__(self, assembler: Assembler) -> None:
        self.assembler = assembler
        self.running = False
        self._kept: deque[tuple[str, bytes]] = deque(maxlen=self.KEPT)

    def push(self, topic: str, cdr: bytes) -> list[Tick]:
        """Take one message; returns the ticks of the running episode that are complete now."""
        if self.running:
            return self.assembler.push(topic, cdr)
        self._kept.append((topic, cdr))
        return []

    def prepare(self) -> None:
        """The running episode is over; give out no tick until the next one starts."""
        self.running = False

    def begin(self, start: int) -> list[Tick]:
        """An episode starts at stamp `start`; returns its ticks that are complete already."""
        self.running = True
        self.assembler.restart(start)
        kept, self._kept = self._kept, deque(maxlen=self.KEPT)
        return [tick for topic, cdr in kept for tick in self.assembler.push(topic, cdr)]
