"""How a recording goes while it goes: what arrived on each topic, what was lost, and what is wrong. No ROS.

Everything is judged by the stamps of the messages, so that a simulation may run at any speed or stand still: a
topic has stalled when others went on without it, not when all are silent.
"""

import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rl_ros.contract import Recorded

RATE_SHARE = 0.9
"""Share of the control rate that a topic of every tick must reach."""
RATE_SECONDS = 1.0
RATE_PERIODS = 10
"""A rate is taken over at least so many seconds and control periods."""
GAP_PERIODS = 2.0
"""Control periods between two messages beyond which a tick had nothing of its own."""
LAG_SECONDS = 0.3
LAG_PERIODS = 3.0
"""How far a topic may stay behind the others, whichever is longer."""
SILENT_SECONDS = 0.5
"""How long nothing at all may arrive in real time."""
_INTERVALS = 15
_CHECKS = 256


class LossCounter:
    """Counts what the publishers of one topic sent and nobody received, by their sequence numbers."""

    def __init__(self) -> None:
        self._next: dict[bytes, int] = {}

    def lost_before(self, publisher: bytes, sequence: int) -> int:
        """How many messages of this publisher are missing between its last one and this one."""
        expected = self._next.get(publisher, sequence)
        self._next[publisher] = max(expected, sequence + 1)
        return max(0, sequence - expected)


@dataclass
class TopicHealth:
    """What arrived on one topic during one episode. Times are stamps in nanoseconds."""

    count: int = 0
    lost: int = 0
    first: int = 0
    newest: int = 0
    worst_gap: int = 0
    silent_end: int = 0
    """How long nothing came up to the episode's last tick."""
    publishers: set[bytes] = field(default_factory=set)
    _intervals: deque[int] = field(default_factory=lambda: deque(maxlen=_INTERVALS))
    _lost_before_newest: int = 0

    def receive(self, stamp: int, publisher: bytes, sequenced: bool) -> None:
        """Note one message; without sequence numbers, a gap between stamps counts as loss."""
        if self.count:
            gap = stamp - self.newest
            if not sequenced:
                self._count_by_stamps(gap)
            self.worst_gap = max(self.worst_gap, gap)
            self.newest = max(self.newest, stamp)
        else:
            self.first = self.newest = stamp
        self.publishers.add(publisher)
        self.count += 1
        self._lost_before_newest = self.lost

    def finish(self, silence: int, period: int) -> None:
        """Count what is missing between the newest message and the last tick, `silence` nanoseconds later.

        At the topic's own rate, but at least one message in each period; what sequence numbers have told of that time
        is not counted again.
        """
        ticks = round(silence / period)
        if ticks > 0:
            self.silent_end = silence
            missing = max(ticks, round(silence * 1e-9 * self.rate))
            self.lost = max(self.lost, self._lost_before_newest + missing)

    @property
    def rate(self) -> float:
        """Messages per second of their own stamps; 0 if there are fewer than two."""
        return (self.count - 1) / (self.newest - self.first) * 1e9 if self.newest > self.first else 0.0

    def summary(self) -> dict[str, Any]:
        """Count, rate (Hz), worst gap (s) and loss, as bags and `/recorder/state` carry them."""
        return {
            "count": self.count,
            "rate": round(self.rate, 3),
            "worst_gap": round(self.worst_gap * 1e-9, 6),
            "lost": self.lost,
        }

    def _count_by_stamps(self, gap: int) -> None:
        if gap <= 0:
            return
        usual = median(self._intervals) if self._intervals else gap
        self.lost += max(0, round(gap / usual) - 1)
        self._intervals.append(gap)


class EpisodeHealth:
    """Watches one episode.

    Args:
        topics: what is recorded; only topics of every tick have a rate, a gap and a lag to be judged by.
        control_rate: Hz.
        start: stamp of the episode's first observation, nanoseconds.
        real_time: whether silence on all topics is a fault; a simulation in lockstep may pause.
    """

    def __init__(self, topics: Mapping[str, Recorded], control_rate: float, start: int, real_time: bool) -> None:
        self.topics = {topic: TopicHealth() for topic in topics}
        self._ticking = [topic for topic, recorded in topics.items() if recorded.every_tick]
        self._rate, self._start, self._real_time = control_rate, start, real_time
        self._seen: dict[str, deque[tuple[int, int]]] = {topic: deque(maxlen=_CHECKS) for topic in self._ticking}
        """Count and newest stamp of each topic at the last checks, oldest first."""
        self._total = 0
        self._heard: float | None = None
        self._suspected: set[str] = set()

    def receive(self, topic: str, stamp: int, publisher: bytes = b"", sequenced: bool = True) -> None:
        """One message of the episode arrived."""
        self.topics[topic].receive(stamp, publisher, sequenced)

    def lose(self, topic: str, count: int) -> None:
        """So many messages of the episode are known not to have arrived."""
        self.topics[topic].lost += count

    def finish(self, end: int) -> None:
        """The episode's last tick is stamped `end`: what a topic of every tick has not brought by then is lost."""
        period = round(1e9 / self._rate)
        for topic in self._ticking:
            health = self.topics[topic]
            health.finish(end - (health.newest if health.count else self._start - period), period)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Count, rate, worst gap and loss by topic."""
        return {topic: health.summary() for topic, health in self.topics.items()}

    def damage(self) -> dict[str, str]:
        """What is wrong with what was received, a sentence by kind and topic; it stays until the episode ends."""
        period = 1.0 / self._rate
        faults = {}
        for topic, health in self.topics.items():
            if health.lost:
                faults[f"lost {topic}"] = f"{topic}: {health.lost} of {health.count + health.lost} messages were lost"
        for topic in self._ticking:
            health = self.topics[topic]
            if len(health.publishers) > 1:
                text = f"{topic}: {len(health.publishers)} publishers; their messages cannot be told apart"
                faults[f"publishers {topic}"] = text
            if health.silent_end:
                text = f"{topic}: nothing in the last {health.silent_end * 1e-9:.3g} s of the episode"
                faults[f"end {topic}"] = text
            if health.worst_gap * 1e-9 > GAP_PERIODS * period:
                gap = health.worst_gap * 1e-9
                text = f"{topic}: {gap:.3g} s between two messages, at a control period of {period:.3g} s"
                faults[f"gap {topic}"] = text
        return faults

    def check(self, now: float) -> dict[str, str]:
        """What is wrong at this moment, a sentence by kind and topic; to be called a few times a second.

        What depends on the order in which topics are taken must be there at two checks in a row.

        Args:
            now: a steady clock, s.
        """
        total = sum(health.count for health in self.topics.values())
        if total != self._total or self._heard is None:
            self._total, self._heard = total, now
        if now - self._heard > SILENT_SECONDS:
            # Nothing moved, so that nothing can be said of one topic that was not said before.
            silence = {"silent": f"nothing on any topic for {now - self._heard:.1f} s"} if self._real_time else {}
            return self.damage() | silence
        unsettled = self._slow() | self._apart()
        confirmed = {key: text for key, text in unsettled.items() if key in self._suspected}
        self._suspected = set(unsettled)
        return self.damage() | confirmed

    def _slow(self) -> dict[str, str]:
        found = {}
        window = max(RATE_SECONDS, RATE_PERIODS / self._rate) * 1e9
        for topic in self._ticking:
            health, seen = self.topics[topic], self._seen[topic]
            seen.append((health.count, health.newest))
            while len(seen) > 2 and health.newest - seen[1][1] >= window:
                seen.popleft()
            count, stamp = seen[0]
            if count and health.newest - stamp >= window:
                rate = (health.count - count) / (health.newest - stamp) * 1e9
                if rate < RATE_SHARE * self._rate:
                    found[f"rate {topic}"] = f"{topic}: {rate:.1f} Hz, expected at least {self._rate:g} Hz"
        return found

    def _apart(self) -> dict[str, str]:
        """Topics whose newest stamps are far from those of the others: stalled, or of another clock."""
        newest = {topic: self.topics[topic].newest or self._start for topic in self._ticking}
        if len(newest) < 2:
            return {}
        bound = max(LAG_SECONDS, LAG_PERIODS / self._rate)
        second, furthest = sorted(newest, key=newest.__getitem__)[-2:]
        ahead = (newest[furthest] - newest[second]) * 1e-9
        if ahead > bound and self._moves(second):
            return {f"lag {furthest}": f"{furthest}: stamps are {ahead:.2f} s ahead of those of every other topic"}
        found = {}
        for topic, stamp in newest.items():
            lag = (newest[furthest] - stamp) * 1e-9
            if lag > bound and self._moves(topic):
                found[f"lag {topic}"] = f"{topic}: stamps are {lag:.2f} s behind those of {furthest}"
            elif lag > bound:
                found[f"lag {topic}"] = f"{topic}: nothing for {lag:.2f} s while {furthest} went on"
        return found

    def _moves(self, topic: str) -> bool:
        """Whether messages came since the check before the last."""
        seen = self._seen[topic]
        return self.topics[topic].count > seen[max(0, len(seen) - 3)][0]


def disk_fault(directory: Path, reserve: int) -> str | None:
    """A sentence if fewer than `reserve` bytes are free where `directory` is."""
    free = shutil.disk_usage(directory).free
    if free >= reserve:
        return None
    return f"{directory}: {free / 1e9:.2f} GB left on the disk, less than {reserve / 1e9:.3g} GB"
