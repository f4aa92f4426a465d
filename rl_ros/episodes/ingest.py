"""Bags to training arrays, through the same assembler as the live nodes."""

import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from rl_ros.contract import ACTOR_TOPIC, ActionChannel, Contract, difference
from rl_ros.episodes.assemble import Aligned, Assembler
from rl_ros.episodes.bags import Bag, RawMessage, read_bag
from rl_ros.episodes.cadence import Cadence
from rl_ros.episodes.memory import Episode
from rl_ros.episodes.messages import (
    IN_SPACE,
    MessageError,
    frame_of,
    is_stamped,
    service_event_of,
    stamp_of,
    status_of,
)
from rl_ros.errors import UserError

EVENTS = "/episode/event"
"""Where the episode manager says when episodes begin and end."""
BLOCK = 256
"""Ticks that are read at once."""
STEPS_BACK = 3
"""Reference messages in a row that must be older than those before, for a clock that went back: one alone was late."""
HELD_BACK = 1000
"""Messages that may wait for that; a reference that has stopped would let them be ever more."""
FASTER = 0.67
"""Of the control period: where somebody else's reference comes more often than that, ticks are picked out of it."""
OFF_PACE = 0.2
"""Share of the control period by which ticks may be closer or further apart (median) before an episode says so."""
NO_GOAL = "desired_goal: taken as zeros, which no policy of this contract sees"
"""How the problem begins that an episode of a bag without goals has."""
IN_MEMORY = 256 << 20
"""Bytes of a column beyond which it grows in a file instead."""
WAITING = 256 << 20
"""Bytes of an episode's messages that may wait for other topics, in a bag that is not in the order of time."""
SORT_IT = "sort the bag by time with `ros2 bag convert`"


@dataclass(frozen=True)
class Cuts:
    """Where the episodes of a bag are cut apart, if the bag does not say so itself."""

    topic: str = ""
    """Each message on it begins an episode. Events of a service end one with the request, begin one with the answer."""
    seconds: tuple[float, ...] = ()
    """Each begins an episode; counted from the first tick of the bag."""


@dataclass(frozen=True)
class Segment:
    """The part of a bag that is one episode."""

    start: int = 0
    """Nanoseconds, inclusive."""
    end: int = 1 << 62
    """Nanoseconds, inclusive."""
    outcome: str = "unfinished"
    seed: int = 0


def read_episodes(
    bags: Sequence[Path], contract: Contract, progress: Callable[[], None] = lambda: None, cuts: Cuts | None = None
) -> tuple[list[Episode], list[str]]:
    """The episodes in `bags`, and one sentence for each bag or part of it that could not be used.

    Args:
        bags: directories or files.
        contract: what to take from them.
        progress: called after each bag.
        cuts: for bags of several episodes.
    """
    episodes: list[Episode] = []
    refused: list[str] = []
    for path in bags:
        try:
            episodes += episodes_of(read_bag(path), contract, refused, cuts)
        except UserError as error:
            refused.append(str(error))
        progress()
    return episodes, refused


def read_episode(bag: Bag, contract: Contract) -> Episode:
    """One bag as one episode.

    A transition joins two consecutive valid ticks whose action and judgement are both there; anything
    less is cut out, and `problems` says what and why.

    Raises:
        UserError: the bag was recorded under another contract, holds no tick, or holds several episodes.
    """
    refused: list[str] = []
    episodes = list(episodes_of(bag, contract, refused))
    if refused and not episodes:
        raise UserError(refused[0])
    if len(episodes) != 1:
        raise UserError(f"{bag.path}: holds {len(episodes)} episodes; read it with `rl_ros ingest`.")
    return episodes[0]


def episodes_of(
    bag: Bag, contract: Contract, refused: list[str], cuts: Cuts | None = None, scratch: Path | None = None
) -> Iterator[Episode]:
    """The episodes of a bag, one after the other, in one pass over its messages.

    Where the clock went back, an episode is cut in two: no transition joins what was before to what came after.

    Args:
        bag: of any recorder.
        contract: what to take from it.
        refused: gets one sentence for each episode that cannot be used.
        cuts: where to cut it, if it does not say so itself.
        scratch: a directory for columns that are too large for memory; the system's by default.

    Raises:
        UserError: the bag cannot be used at all.
    """
    recorded = bag.contract
    if recorded is not None and recorded.goal.image and not contract.goal.image:
        recorded = recorded.without_latent()  # only its images are taken, not what they were encoded as
    if recorded is not None:
        discrete = {name for name, channel in contract.action.items() if channel.discrete}
        if found := difference(recorded.with_discrete(discrete), contract):
            raise UserError(f"{bag.path}: recorded under another contract: {found}.")
    segments = _segments(bag, contract, cuts or Cuts())
    if not segments:
        raise UserError(f"{bag.path}: {EVENTS} tells of no episode in it.")
    starts = [segment.start for segment in segments]
    held = _HeldMessages(contract) if cuts and (cuts.topic or cuts.seconds) else None
    builders: dict[int, _Builder] = {}
    done: set[int] = set()
    late: set[str] = set()
    jumped, begins = False, ""

    def finish(number: int, *, cut: bool = False) -> Iterator[Episode]:
        builder = builders.pop(number, None) or _Builder(bag, contract, segments[number], silent, scratch, begins)
        done.add(number)
        try:
            yield builder.finish(cut)
        except UserError as error:
            refused.append(str(error) if len(segments) == 1 else f"{str(error)[:-1]} (episode {number}).")

    types = {topic: recorded.type for topic, recorded in contract.recorded_topics().items()}
    used = _Builder(bag, contract, segments[0], frozenset(), scratch).topics
    silent = _silent(bag, {topic: types[topic] for topic in used})
    reference = contract.observation[contract.reference].topic
    for message in _with_jumps(bag.read(used), reference):
        if isinstance(message, _Jump):
            for number in sorted(builders):
                yield from finish(number, cut=True)
            if len(segments) == 1:
                done.clear()
            jumped, begins = True, f"begins where the clock went back by {message.seconds:.2f} s"
            continue
        if message.type != types[message.topic]:
            continue
        number = 0
        if len(segments) > 1:
            stamp = _stamp(message)
            number = bisect_right(starts, stamp) - 1
            if held is not None:
                held.see(message, stamp)
            if number < 0 or number in done or stamp > segments[number].end:
                if number in done and not jumped:
                    late.add(message.topic)
                continue
        builder = builders.get(number)
        if builder is None:
            # Topics interleave at the border of two episodes, and not beyond.
            for earlier_number in sorted(each for each in builders if each < number - 1):
                yield from finish(earlier_number)
            builder = builders[number] = _Builder(bag, contract, segments[number], silent, scratch, begins)
            begins = ""
            for earlier in held.before(segments[number].start) if held else ():
                builder.push(earlier)
        builder.push(message)
        if held and held.knows(message):
            for later in (each for each in builders if each > number):
                builders[later].push(message)
    if not bag.contents.counts.total():
        raise UserError(f"{bag.path}: holds no message.")
    for number in range(len(segments)):
        if number not in done:
            yield from finish(number)
    if late and bag.contract is None:
        refused.append(
            f"{bag.path}: {', '.join(sorted(late))} came too long after the topics that it belongs to, and "
            f"episodes were left without it; {SORT_IT}."
        )


def _silent(bag: Bag, types: Mapping[str, str]) -> frozenset[str]:
    """Those of the topics without a message in somebody else's bag; counted unless its metadata.yaml has them all."""
    if bag.contract is not None or (bag.listed is not None and all(bag.listed.get(topic) for topic in types)):
        return frozenset()
    return frozenset(topic for topic, kind in types.items() if not bag.contents.counts[topic, kind])


class _Jump(NamedTuple):
    """Between two messages the clock went back."""

    seconds: float


def _with_jumps(recording: Iterable[RawMessage], reference: str) -> Iterator[RawMessage | _Jump]:
    """The messages, and between them where the clock that stamps the reference topic went back.

    Messages are held back until it is known whether one was late or the clock went back. What is still on its way
    when that happens is told by its stamp and comes before the jump.
    """
    newest: dict[str, int] = {}
    waiting: list[tuple[int, RawMessage]] = []
    """Stamps and messages since one was older than another of its topic."""
    back: list[int] = []
    """Stamps of reference messages among them that are older than the newest, as long as they follow one another."""
    for message in recording:
        topic, stamp = message.topic, _stamp(message)
        if not waiting and stamp >= newest.get(topic, stamp):
            newest[topic] = stamp
            yield message
            continue
        waiting.append((stamp, message))
        if topic == reference:
            back = [*back, stamp] if back and stamp > back[-1] else [stamp]
        goes_on = topic == reference and stamp >= newest.get(topic, stamp)
        if goes_on or len(waiting) > HELD_BACK:
            for stamp, message in waiting:
                newest[message.topic] = max(stamp, newest.get(message.topic, stamp))
                yield message
            waiting, back = [], []
        elif len(back) == STEPS_BACK:
            middle = (newest[reference] + back[0]) // 2
            yield from (message for stamp, message in waiting if stamp > middle)
            yield _Jump((newest[reference] - back[0]) * 1e-9)
            newest = {}
            for stamp, message in waiting:
                if stamp <= middle:
                    newest[message.topic] = max(stamp, newest.get(message.topic, stamp))
                    yield message
            waiting, back = [], []
    yield from (message for _, message in waiting)


class _HeldMessages:
    """What the keys that are held know when an episode is cut off from the one before."""

    def __init__(self, contract: Contract) -> None:
        keys = (*contract.observation.values(), *contract.auxiliary.values(), contract.goal.desired_goal)
        self._newest: dict[str, list[tuple[int, RawMessage]]] = {k.topic: [] for k in keys if k.alignment == "held"}

    def knows(self, message: RawMessage) -> bool:
        return message.topic in self._newest

    def see(self, message: RawMessage, stamp: int) -> None:
        if self.knows(message):
            self._newest[message.topic].append((stamp, message))

    def before(self, stamp: int) -> list[RawMessage]:
        return [
            max(earlier, key=lambda each: each[0])[1]
            for seen in self._newest.values()
            if (earlier := [each for each in seen if each[0] < stamp])
        ]


def _segments(bag: Bag, contract: Contract, cuts: Cuts) -> list[Segment]:
    if cuts.topic:
        marks = _marks(bag, cuts.topic)
        if not marks:
            raise UserError(f"{bag.path}: no message on {cuts.topic}, so there is nothing to cut it at.")
        return _between(marks)
    if cuts.seconds:
        reference = contract.observation[contract.reference].topic
        first = next((_stamp(message) for message in bag.read((reference,))), None)
        if first is None:
            raise UserError(f"{bag.path}: no message on {reference}, so there is no time to count from.")
        return _between([(first + round(second * 1e9), True) for second in sorted(cuts.seconds)])
    if "start" not in bag.metadata and (bag.listed is None or EVENTS in bag.listed):
        events = [status_of(m.cdr) for m in bag.read((EVENTS,)) if m.type == "diagnostic_msgs/msg/DiagnosticArray"]
        ends = {event.values.get("episode"): event for event in events if event.name == "end"}
        segments = []
        for event in events:
            if event.name == "start":
                end, seed = ends.get(event.values.get("episode")), int(event.values.get("seed", "0"))
                known = (end.stamp, end.values.get("outcome", "unfinished")) if end else (1 << 62, "unfinished")
                segments.append(Segment(event.stamp, *known, seed))
        if events:
            return sorted(segments, key=lambda segment: segment.start)
    return [Segment(seed=bag.seed)]


def _marks(bag: Bag, topic: str) -> list[tuple[int, bool]]:
    """Stamp of each mark, and whether an episode begins there or ends."""
    marks = []
    for message in bag.read((topic,)):
        if message.type.endswith("_Event") and "/srv/" in message.type:
            stamp, answered = service_event_of(message.cdr)
            marks.append((stamp, answered))
        else:
            marks.append((_stamp(message), True))
    return sorted(marks)


def _between(marks: Sequence[tuple[int, bool]]) -> list[Segment]:
    """The segments that marks bound; what comes before the first mark is an episode as well."""
    segments, start = [], 0
    begun = True
    for stamp, begins in marks:
        if begun and stamp > start:
            segments.append(Segment(start, stamp - 1))
        begun, start = begins, stamp
    return [*segments, Segment(start)] if begun else segments


def _stamp(message: RawMessage) -> int:
    """The header's stamp, or the time of its recording for messages without a header."""
    try:
        return stamp_of(message.cdr) if is_stamped(message.type) else message.log_time
    except MessageError:
        return message.log_time


class _GrowingColumn:
    """Rows of one key, appended in blocks; a large column lives in a file that has no name."""

    def __init__(self, scratch: Path | None) -> None:
        self._blocks: list[np.ndarray] = []
        self._size = 0
        self._scratch = scratch
        self._file: IO[bytes] | None = None

    def append(self, block: np.ndarray) -> None:
        self._blocks.append(block)
        self._size += block.nbytes
        if self._size > IN_MEMORY:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115  (lives as long as its rows)
            for each in self._blocks:
                np.ascontiguousarray(each).tofile(self._file)
            # The last block tells shape and type.
            self._blocks = [block[:0]]

    def rows(self, count: int) -> np.ndarray:
        """The first `count` rows, (count, *shape)."""
        if self._file is None:
            return np.concatenate(self._blocks)[:count]
        for each in self._blocks:
            np.ascontiguousarray(each).tofile(self._file)
        self._file.flush()
        shape = (count, *self._blocks[0].shape[1:])
        return np.asarray(np.memmap(self._file, self._blocks[0].dtype, "r", shape=shape))


def _require_limits(bag: Bag, name: str, channel: ActionChannel, values: np.ndarray) -> None:
    """Refuse values (ticks, n) of a discrete channel that are neither of its limits.

    Raises:
        UserError: there are such values.
    """
    low, high = np.array(channel.low), np.array(channel.high)
    slack = 1e-3 * (high - low)
    neither = (np.abs(values - low) > slack) & (np.abs(values - high) > slack)
    if neither.any():
        entry = int(np.flatnonzero(neither.any(axis=0))[0])
        seen = values[:, entry]
        raise UserError(
            f"{bag.path}: action.{name} was {seen[neither[:, entry]][0]:.4g} at one of its ticks ({seen.min():.4g} to "
            f"{seen.max():.4g} in all), which is neither of its limits {low[entry]:.4g} and {high[entry]:.4g}, but "
            "this contract has it discrete; give it the two values of the recording as its limits, or train it with "
            "`discrete: false`."
        )


def _beyond_limits(name: str, channel: ActionChannel, values: np.ndarray) -> list[str]:
    """What is told of values (ticks, n) of a continuous channel that are beyond its limits, where some are."""
    low, high = np.array(channel.low), np.array(channel.high)
    slack = 1e-3 * (high - low)
    beyond = (values < low - slack) | (values > high + slack)
    if not beyond.any():
        return []
    entry = int(np.flatnonzero(beyond.any(axis=0))[0])
    return [
        f"action.{name} is beyond its limits {low[entry]:.4g} and {high[entry]:.4g} at some ticks, "
        f"{values[:, entry].min():.4g} to {values[:, entry].max():.4g}, which no policy can repeat; is it in the "
        f"contract's units? ({int(beyond.any(axis=1).sum())} times)"
    ]


class _Builder:
    """One episode while its messages come in."""

    def __init__(
        self,
        bag: Bag,
        contract: Contract,
        segment: Segment,
        silent: frozenset[str],
        scratch: Path | None,
        begins: str = "",
    ) -> None:
        self._bag, self._contract, self._segment, self._begins = bag, contract, segment, begins
        self._observed = {
            **{f"observation/{name}": key for name, key in contract.observation.items()},
            **{f"auxiliary/{name}": key for name, key in contract.auxiliary.items()},
        }
        goal = contract.goal.desired_goal
        self._goal_is_unknown = not contract.goal.policy_input and goal.topic in silent
        if not self._goal_is_unknown:
            self._observed["desired_goal"] = goal
        self._action = {f"action/{name}": key for name, key in contract.action.items()}
        self._judgement = {f"judgement/{name}": key for name, key in contract.reward_keys.items()}
        told = ACTOR_TOPIC in contract.record and (bag.listed is None or ACTOR_TOPIC in bag.listed)
        self._actor = {"actor": contract.actor_key} if told else {}
        was = {} if bag.contract is None else bag.contract.action
        self._at_limits = {
            n: c for n, c in contract.action.items() if c.discrete and not (n in was and was[n].discrete)
        }
        """Discrete channels that may have been anywhere when they were recorded."""
        self._assembler = Assembler(
            self._observed | self._action | self._judgement | self._actor,
            f"observation/{contract.reference}",
            WAITING,
            silent,
        )
        self.topics = frozenset(self._assembler.types)
        self._frames: dict[str, str] = {}
        """Of the first message of each topic whose numbers are in space."""
        self._waiting: list[Aligned] = []
        self._columns = {name: _GrowingColumn(scratch) for name in self._assembler.keys}
        self._stamps: list[int] = []
        self._has: dict[str, list[np.ndarray]] = {"action": [], "judgement": [], "actor": []}
        self._problems: list[tuple[int, str]] = []
        self._cadence: Cadence | None = None
        """Picks the ticks, where the reference is faster than the control rate."""

    def push(self, message: RawMessage) -> None:
        if message.type in IN_SPACE and message.topic not in self._frames:
            with suppress(MessageError):  # the assembler says so
                self._frames[message.topic] = frame_of(message.cdr)
        self._waiting += self._assembler.align(message.topic, message.cdr)
        if len(self._waiting) >= BLOCK:
            self._read()

    def _read(self) -> None:
        ticks, self._waiting = self._waiting, []
        if not self._stamps and self._bag.contract is None:  # ours have a tick for each message, whatever the clock did
            apart = np.diff([tick.stamp for tick in ticks])
            if len(apart) and np.median(apart) < FASTER * self._contract.period_ns:
                self._cadence = Cadence(self._contract.period_ns)
        if self._cadence:
            ticks = [tick for tick in ticks if self._cadence.picks(tick.stamp)]
        columns = {name: self._assembler.read_column(name, ticks) for name in self._assembler.keys}
        present = np.zeros(len(ticks), np.int64)
        for name in self._observed:
            present[columns[name].rows] += 1
            key = name.rpartition("/")[2]
            self._problems += [(ticks[r].stamp, f"{key}: {why}") for r, why in sorted(columns[name].problems.items())]
        valid = present == len(self._observed)
        self._stamps += [tick.stamp for tick, good in zip(ticks, valid, strict=True) if good]
        for name in self._observed:
            found = columns[name]
            self._columns[name].append(found.values if valid.all() else found.values[valid[found.rows]])
        for group, names in (
            ("action", self._action),
            ("judgement", self._judgement),
            ("actor", self._actor),
        ):
            whole = np.zeros(len(ticks), np.int64)
            for name in names:
                found = columns[name]
                whole[found.rows] += 1
                # Rows without a value are never read: `has` says which these are.
                values = np.zeros((len(ticks), *found.values.shape[1:]), found.values.dtype)
                values[found.rows] = found.values
                self._columns[name].append(values[valid])
            self._has[group].append((whole == len(names))[valid])

    def finish(self, cut: bool) -> Episode:
        """The episode.

        Args:
            cut: whether it ends where the clock went back: what the bag says of its end is of another part.

        Raises:
            UserError: it holds no complete observation, or stamps that nothing can be made of.
        """
        self._waiting += self._assembler.align_rest()
        self._read()
        bag, contract = self._bag, self._contract
        # In real time the camera goes on while the end is announced.
        last = bag.end if bag.end is not None and not cut else 1 << 62
        end, is_last = min(self._segment.end, last), last <= self._segment.end
        stamps = np.array(self._stamps, np.int64)
        count = int(np.searchsorted(stamps, end, side="right"))
        problems = Counter(text for stamp, text in self._problems if stamp <= end)
        notes = self._notes()
        if not count:
            common = [text for text, _ in problems.most_common(3)] + notes
            reference = contract.observation[contract.reference].topic
            raise UserError(
                f"{bag.path}: not one complete observation: {'; '.join(common) or f'no message on {reference}'}."
            )
        stamps = stamps[:count]
        rows = {name: column.rows(count) for name, column in self._columns.items()}
        if self._goal_is_unknown:
            goal = contract.goal.desired_goal
            rows["desired_goal"] = np.zeros((count, *goal.shape), goal.dtype)
            notes.append(f"{NO_GOAL}, as there is nothing on {goal.topic}")
        acted, judged = (np.concatenate(self._has[group])[:count] for group in ("action", "judgement"))
        if contract.reward.unjudged == "zero" and not judged.any():
            judged = np.ones(count, bool)
        gap = np.diff(stamps)
        notes += self._pace(gap)
        apart = gap > 1.5 * contract.period_ns
        has_transition = np.zeros(count, bool)
        has_transition[:-1] = ~apart & acted[:-1] & judged[1:]
        problems.update(f"ticks {each * 1e-9:.2f} s apart" for each in gap[apart])
        problems["no action"] = int((~apart & ~acted[:-1]).sum())
        problems["no judgement"] = int((~apart & acted[:-1] & ~judged[1:]).sum())

        def arrived(name: str) -> np.ndarray:
            """What arriving at the next tick was judged to be."""
            column = np.zeros(count, np.float32)
            column[:-1] = rows[f"judgement/{name}"][1:, 0]
            return np.where(has_transition, column, np.float32(0))

        outcome = bag.outcome.get("outcome", self._segment.outcome) if is_last else self._segment.outcome
        if cut:
            outcome = "unfinished"
        for name, channel in self._at_limits.items():
            _require_limits(bag, name, channel, rows[f"action/{name}"][has_transition])
        for name, channel in contract.action.items() if bag.contract is None else ():
            if not channel.discrete:
                notes += _beyond_limits(name, channel, rows[f"action/{name}"][has_transition])
        action = np.concatenate([rows[name].astype(np.float32) for name in self._action], axis=1)
        terminated, truncated = arrived("terminated") > 0, arrived("truncated") > 0
        if not (terminated | truncated).any() and count > 1:
            truncated[count - 2] = True  # stopped from outside: by a person, a fault, or the end of the recording
        return Episode(
            stamps=stamps,
            observation={name: rows[f"observation/{name}"] for name in contract.observation},
            auxiliary={name: rows[f"auxiliary/{name}"] for name in contract.auxiliary},
            desired_goal=rows["desired_goal"],
            action=np.where(has_transition[:, None], action, np.float32(0)),
            reward=arrived("reward"),
            terminated=terminated,
            truncated=truncated,
            has_transition=has_transition,
            outcome=outcome,
            seed=self._segment.seed,
            source=str(bag.path),
            actor=_actors(rows["actor"]) if self._actor else None,
            problems=(*(f"{text} ({times} times)" for text, times in sorted(problems.items()) if times), *notes),
        )

    def _pace(self, gap: np.ndarray) -> list[str]:
        """How ticks of somebody else's bag keep to the control rate.

        Args:
            gap: from each tick to the next, int64 (T - 1,) ns.
        """
        reference, rate = self._contract.observation[self._contract.reference].topic, self._contract.control_rate
        notes = []
        if self._cadence:
            notes.append(f"{reference} is faster than control_rate, so ticks were picked out of it at {rate:g} Hz")
        median = float(np.median(gap)) * 1e-9 if len(gap) else self._contract.period
        if self._bag.contract is None and abs(median / self._contract.period - 1.0) > OFF_PACE:
            notes.append(
                f"ticks are {median:.3f} s apart (median), and {self._contract.period:.3f} s by the contract; "
                f"set its control_rate to {1.0 / median:.3g}"
            )
        return notes

    def _notes(self) -> list[str]:
        """What is wrong with whole topics."""
        notes = [self._begins] if self._begins else []
        contents = self._bag.contents
        for topic, expected in self._assembler.types.items():
            for (name, found), times in contents.counts.items():
                if name == topic and found != expected and times:
                    notes.append(f"{topic} carries {found}, expected {expected}")
            if (frame := self._frames.get(topic, "")) not in ("", self._contract.frame):
                notes.append(f"{topic} is in frame '{frame}', not in {self._contract.frame}, and nothing transforms it")
            publishers = contents.publishers.get(topic, 1)
            if publishers > 1:
                notes.append(f"{topic} has {publishers} publishers, whose messages are mixed")
            if self._assembler.newest(topic) == 0 and contents.counts[topic, expected] > 1:
                raise UserError(
                    f"{self._bag.path}: every message on {topic} is stamped 0, so nothing can be aligned with it; "
                    "let its driver set the stamp."
                )
            if times := self._assembler.rejected[topic]:
                notes.append(f"{topic} went back in time (two publishers, or a clock that was set) ({times} times)")
            if times := self._assembler.late[topic]:
                notes.append(f"{topic} comes too long after the topics that it belongs to; {SORT_IT} ({times} times)")
        return notes


def _actors(told: np.ndarray) -> np.ndarray:
    """Who acted at each tick, uint8 (T,) as in `Episode.actor`, from what was told, (T, len(ACTORS))."""
    return np.where(told.any(axis=1), told.argmax(axis=1) + 1, 0).astype(np.uint8)
