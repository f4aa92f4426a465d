"""A recording played again: which of its topics, in which order, and when each message is due. No ROS."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.episodes.bags import RawMessage
from rl_ros.episodes.ingest import EVENTS
from rl_ros.errors import UserError
from rl_ros.graph import absolute, endpoints, node_specs

EVENT_TYPE = "diagnostic_msgs/msg/DiagnosticArray"
COMMAND_TYPES = ("trajectory_msgs/msg/JointTrajectory",)
"""Types that move an arm, whatever the topic is called."""
ANSWERING = ("policy", "reward", "arm_guard")
"""Nodes whose topics answer an observation: live ones are to answer, not the recording."""


def renames(arguments: Mapping[str, str], recorded: Mapping[str, str], contract: Contract) -> dict[str, str]:
    """The name under which a topic of the bag is played, by its own, where they differ.

    Args:
        arguments: another name by topic of the bag, both beginning with a slash; or, as for `rl_ros ingest`, the topic
            of the bag that a key of the contract is taken from, by the key: it is played on the key's own topic.
        recorded: types by topic of the bag.
        contract: names the keys, and the type of each of its topics.

    Raises:
        UserError: no such key or topic, another type than the contract's, or two topics under one name.
    """
    keys = {**contract.observation, **contract.auxiliary, **contract.action, "desired_goal": contract.goal.desired_goal}
    topics = {**{name: key.topic for name, key in keys.items()}, "reward": contract.reward.topic}
    expected = {topic: entry.type for topic, entry in contract.recorded_topics().items()}
    names: dict[str, str] = {}
    for left, right in arguments.items():
        if not left.startswith("/") and left not in topics:
            raise UserError(
                f"{left}:={right}: expected a topic such as /{left}, or a key of contract {contract.name}: "
                f"{', '.join(topics)}."
            )
        topic, name = (left, right) if left.startswith("/") else (right, topics[left])
        if topic not in recorded:
            raise UserError(f"{left}:={right}: no topic '{topic}' in the bag; it holds: {', '.join(sorted(recorded))}.")
        if not name.startswith("/"):
            raise UserError(f"{left}:={right}: expected the full name of a topic, such as /{name}.")
        if recorded[topic] != expected.get(name, recorded[topic]):
            raise UserError(
                f"{left}:={right}: {topic} carries {recorded[topic]}, but {name} is {expected[name]} in contract "
                f"{contract.name}."
            )
        if name in names.values() and names.get(topic) != name:
            raise UserError(f"{left}:={right}: another topic of the bag is played as {name} already.")
        names[topic] = name
    return names


def as_played(recorded: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The topic of the bag by the name it is played under; one that is renamed takes another's place."""
    taken = {name: topic for topic, name in names.items()}
    return {topic: topic for topic in recorded if topic not in names and topic not in taken} | taken


def renamed(recording: Iterable[RawMessage], names: Mapping[str, str]) -> Iterator[RawMessage]:
    """The messages under the names they are played under."""
    for message in recording:
        yield message._replace(topic=names[message.topic]) if message.topic in names else message


def played_topics(
    recorded: Mapping[str, str], contract: Contract, only: Collection[str] = (), without: Collection[str] = ()
) -> dict[str, str]:
    """The topics to play and their types: those of the contract that answer nothing, or exactly `only`.

    Args:
        recorded: types by topic of the bag.
        contract: says what the topics mean.
        only: play these and no others, commands included.
        without: leave these out.

    Raises:
        UserError: a topic is not in the bag, or none is left.
    """
    for topic in (*only, *without):
        if topic not in recorded:
            raise UserError(f"no topic '{topic}' in the bag; it holds: {', '.join(sorted(recorded))}.")
    chosen = {topic: recorded[topic] for topic in only}
    if not only:
        named = contract.recorded_topics()
        answers = answer_topics(contract)
        chosen = {
            topic: kind
            for topic, kind in recorded.items()
            if topic in named and topic not in answers and kind not in COMMAND_TYPES
        }
    chosen = {topic: kind for topic, kind in chosen.items() if topic not in without and topic != "/clock"}
    if not chosen:
        raise UserError(f"no topic is left to play; the bag holds: {', '.join(sorted(recorded))}.")
    return chosen


def answer_topics(contract: Contract) -> set[str]:
    """Topics that answer an observation: actions, rewards, and what the guard makes of actions."""
    specs = node_specs()
    return {absolute(topic) for name in ANSWERING for topic in endpoints(specs[name].publishes, contract)}


def with_events(recording: Iterable[RawMessage], contract: Contract) -> Iterator[RawMessage]:
    """The recording as one episode, for a bag without episode events: live nodes answer only within an episode."""
    reference = contract.observation[contract.reference].topic
    last: tuple[int, int] | None = None
    for message in recording:
        if message.topic == reference:
            stamp = messages.stamp_of(message.cdr)
            if last is None:
                yield _event("start", stamp, message.log_time, {"episode": "0", "seed": "0"})
            last = stamp, message.log_time
        yield message
    if last is not None:
        yield _event("end", *last, {"episode": "0", "seed": "0", "outcome": "unfinished"})


def _event(name: str, stamp: int, log_time: int, values: Mapping[str, str]) -> RawMessage:
    return RawMessage(EVENTS, EVENT_TYPE, log_time, messages.status_cdr(stamp, name, "", values))


class _Pass(NamedTuple):
    """One way through the recording."""

    first: int
    """Recorded time at which it begins, ns."""
    began: float
    """The same on the steady clock, s; pauses move it."""


class Playback:
    """Says which messages of a recording are due, by a steady clock that the caller reads.

    Messages keep their order; one is due when recorded time has come to its log time. Recorded time runs `rate`
    times as fast as the clock, and stands still while paused.

    Args:
        recording: begins the messages anew, for each pass.
        rate: seconds of recorded time for each second of the clock.
        start: s of recorded time to skip.
        latched: topics whose last message before `start` is due at once, as for a node that joins late.

    Raises:
        ValueError: rate is not positive.
    """

    def __init__(
        self,
        recording: Callable[[], Iterator[RawMessage]],
        rate: float = 1.0,
        start: float = 0.0,
        latched: Collection[str] = (),
    ) -> None:
        if rate <= 0:
            raise ValueError(f"rate: expected a positive number, got {rate}")
        self._recording, self._rate, self._skip, self._latched = recording, rate, round(start * 1e9), frozenset(latched)
        self._pass: _Pass | None = None
        self._rest: Iterator[RawMessage] = iter(())
        self._at_once: list[RawMessage] = []
        self._next: RawMessage | None = None
        self._paused: float | None = None

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused is not None

    @property
    def finished(self) -> bool:
        """Whether every message of the pass was given out; true before the first one."""
        return self._next is None and not self._at_once

    def begin(self, now: float) -> None:
        """Begin a pass at `now`, s on the steady clock.

        Raises:
            UserError: there is nothing to play at or after `start`.
        """
        self._rest = self._recording()
        self._next = next(self._rest, None)
        if self._next is None:
            raise UserError("nothing to play: the bag holds no message on these topics.")
        first = self._next.log_time + self._skip
        before: dict[str, RawMessage] = {}
        while self._next is not None and self._next.log_time < first:
            if self._next.topic in self._latched:
                before[self._next.topic] = self._next
            self._next = next(self._rest, None)
        if self._next is None:
            raise UserError(f"nothing to play: the recording is over before {self._skip * 1e-9:g} s.")
        self._at_once = list(before.values())
        self._pass = _Pass(first, now)
        if self.paused:
            self._paused = now

    def pause(self, now: float) -> None:
        """Time stands still from now on."""
        if self._paused is None:
            self._paused = now

    def resume(self, now: float) -> None:
        """Time goes on from where it stood."""
        if self._paused is not None and self._pass is not None:
            self._pass = self._pass._replace(began=self._pass.began + now - self._paused)
        self._paused = None

    def time(self, now: float) -> int:
        """Recorded time, ns.

        Raises:
            RuntimeError: no pass has begun.
        """
        if self._pass is None:
            raise RuntimeError("no pass has begun")
        elapsed = (now if self._paused is None else self._paused) - self._pass.began
        return self._pass.first + round(elapsed * self._rate * 1e9)

    def due(self, now: float) -> list[RawMessage]:
        """The messages that have become due since the last call, in the order of the recording."""
        if self.finished or self.paused:
            return []
        time, found = self.time(now), self._at_once
        self._at_once = []
        while self._next is not None and self._next.log_time <= time:
            found.append(self._next)
            self._next = next(self._rest, None)
        return found
