"""Raw CDR into one MCAP bag per episode, on a writer thread; nothing is decoded.

A message belongs to the episode whose stamps enclose its own, whenever it arrives: messages that come
before their episode is announced wait, and an episode is closed once every topic has passed its end.

Two threads, so that a slow disk never keeps data in memory: one hands chunks to the operating system,
where they outlive this process, the other waits for the disk and gives complete bags their names.
"""

import fcntl
import json
import math
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import rl_ros
from rl_ros.contract import Contract, Recorded
from rl_ros.episodes.health import EpisodeHealth, LossCounter, disk_fault
from rl_ros.episodes.mcap_writer import McapWriter
from rl_ros.episodes.messages import definition
from rl_ros.errors import UserError
from rl_ros.graph import Qos, offered_profiles, qos

WRITE_SECONDS = 0.02
"""How often the writer thread wakes; waking it for each message costs several times as much as writing it."""
FLUSH_SECONDS = 0.05
"""How often what has arrived is written out as a chunk; with the wait above, far less than 0.2 s are ever at risk."""
SYNC_SECONDS = 1.0
"""How often what was written is forced to the disk, against a loss of power."""
CHECK_SECONDS = 0.2
"""How often the episode's health is checked; two checks are needed to raise a fault."""
BACKLOG_BYTES = 1 << 30
"""Received and not yet written; beyond it messages are dropped, which is then counted as loss."""
UNFINISHED = ".unfinished"
"""Suffix of a bag's directory until it is complete."""
AFTERMATH = 500_000_000
"""ns after an episode that ended as a fault in which what is said of it still belongs into its bag."""
EVENTS, STATUS = "/episode/event", "diagnostic_msgs/msg/DiagnosticArray"
DISK = "disk"
"""Kind of the fault that the disk is all but full; nothing goes on unrecorded, so it ends the episode."""
METADATA = "rl_ros"
"""Name of the MCAP metadata record written when an episode begins."""
OUTCOME = "rl_ros/outcome"
"""Name of the MCAP metadata record written when it ends."""
_BUFFER_BYTES = 1 << 16


class EpisodeFile:
    """One episode's bag while it is written: an MCAP file and, at the end, the metadata.yaml of rosbag2.

    The file is locked as long as it is open, which tells an unfinished bag from an abandoned one.

    Args:
        directory: where the bag goes.
        name: of the bag.
        topics: what is recorded.
        metadata: what is known when the episode begins.
        profiles: what the publishers of topics offer, as far as it is known; `ros2 bag play` offers the same.

    Raises:
        UserError: there is such a bag already.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        topics: Mapping[str, Recorded],
        metadata: Mapping[str, str],
        profiles: Mapping[str, Qos] | None = None,
    ) -> None:
        self.final = directory / name
        if self.final.exists():
            raise UserError(f"{self.final}: there is such a bag already; record into another directory or number.")
        # One of that name is there only if it could not be recovered.
        self.directory = unused(directory / (name + UNFINISHED))
        self.directory.mkdir(parents=True)
        self.path = self.directory / f"{name}_0.mcap"
        self._stream = self.path.open("wb", buffering=_BUFFER_BYTES)
        fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._writer = McapWriter(self._stream, f"rl_ros {rl_ros.__version__}")
        self._writer.add_metadata(METADATA, dict(metadata))
        self._topics = topics
        known = profiles or {}
        self._profiles = {topic: [known[topic]] if topic in known else [] for topic in topics}
        self._channels = {}
        for topic, recorded in topics.items():
            text, type_hash = definition(recorded.type)
            about = {"offered_qos_profiles": profiles_text(*self._profiles[topic]), "topic_type_hash": type_hash}
            self._channels[topic] = self._writer.add_topic(topic, recorded.type, text, about)
        self._stream.flush()
        self._counts = dict.fromkeys(topics, 0)
        self._first: int | None = None
        self._last = 0
        self._outcome: dict[str, str] = {}

    def write(self, topic: str, log_time: int, cdr: bytes, sequence: int | None = None) -> None:
        """Add one message.

        Args:
            topic: one of those announced.
            log_time: nanoseconds.
            cdr: the message.
            sequence: the publisher's number of it; None: its number in the bag.
        """
        number = self._counts[topic] if sequence is None else sequence & 0xFFFFFFFF
        self._writer.add_message(self._channels[topic], log_time, number, cdr)
        self._counts[topic] += 1
        self._first = log_time if self._first is None else min(self._first, log_time)
        self._last = max(self._last, log_time)

    def flush(self) -> None:
        """Hand everything written so far to the operating system as a complete chunk."""
        self._writer.end_chunk()
        self._stream.flush()

    def sync(self) -> None:
        """Wait until the disk has what was handed to the operating system."""
        os.fdatasync(self._stream.fileno())

    def finish(self, outcome: Mapping[str, str]) -> None:
        """Write all that belongs into the file; `seal` remains to be done."""
        self._outcome = dict(outcome)
        self._writer.add_metadata(OUTCOME, self._outcome)
        self._writer.finish()
        self._stream.flush()

    def seal(self) -> Path:
        """Wait for the disk, and give the finished bag its final name; returns its directory."""
        os.fsync(self._stream.fileno())
        start = self._first or 0
        span: dict[str, Any] = {
            "duration": {"nanoseconds": self._last - start},
            "starting_time": {"nanoseconds_since_epoch": start},
            "message_count": sum(self._counts.values()),
        }
        information = {
            "version": 9,
            "storage_identifier": "mcap",
            **span,
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": topic,
                        "type": recorded.type,
                        "serialization_format": "cdr",
                        "offered_qos_profiles": [rosbag2_profile(each) for each in self._profiles[topic]],
                        "type_description_hash": definition(recorded.type)[1],
                    },
                    "message_count": self._counts[topic],
                }
                for topic, recorded in self._topics.items()
            ],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.path.name],
            "files": [{"path": self.path.name, **span}],
            "custom_data": {k: v for k, v in self._outcome.items() if k in ("outcome", "episode", "seed")},
            "ros_distro": "kilted",
        }
        # JSON is YAML, and a hundred times faster to write.
        text = json.dumps({"rosbag2_bagfile_information": information}, indent=1)
        (self.directory / "metadata.yaml").write_text(text + "\n")
        self.directory.rename(self.final)
        self._stream.close()
        return self.final

    def close(self, outcome: Mapping[str, str]) -> Path:
        """Complete the bag and give it its final name; returns its directory."""
        self.finish(outcome)
        return self.seal()

    def discard(self) -> None:
        """Remove the bag."""
        self._stream.close()
        shutil.rmtree(self.directory)


def rosbag2_profile(offered: Qos) -> dict[str, Any]:
    """A profile as version 9 of rosbag2's metadata writes it; what rl_ros leaves to the middleware has its default."""
    without_end = {"sec": 9_223_372_036, "nsec": 854_775_807}
    return {
        "history": "keep_last",
        "depth": offered.depth,
        "reliability": "reliable" if offered.reliable else "best_effort",
        "durability": "transient_local" if offered.transient_local else "volatile",
        "deadline": without_end,
        "lifespan": without_end,
        "liveliness": "automatic",
        "liveliness_lease_duration": without_end,
        "avoid_ros_namespace_conventions": False,
    }


@cache
def profiles_text(*offered: Qos) -> str:
    """Profiles as rosbag2 writes them beside an MCAP channel: block YAML, an item for each publisher."""
    profiles = [rosbag2_profile(each) for each in offered]
    # Through JSON, as YAML would write what occurs twice once and refer to it.
    return yaml.safe_dump(json.loads(json.dumps(profiles)), sort_keys=False) if profiles else ""


def unused(path: Path) -> Path:
    """The path, or the first of `NAME_2`, `NAME_3` and so on that does not exist."""
    stem, suffix = path.name.removesuffix(UNFINISHED), UNFINISHED if path.name.endswith(UNFINISHED) else ""
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}_{number}{suffix}")
    return path


class _Received(NamedTuple):
    topic: str
    stamp: int
    log_time: int
    cdr: bytes
    publisher: bytes
    sequence: int | None
    lost: int
    """Messages of the topic that are missing before this one."""


@dataclass
class _OpenEpisode:
    number: int
    start: int
    metadata: dict[str, str]
    file: EpisodeFile
    health: EpisodeHealth
    topics: Mapping[str, Recorded]
    end: int | None = None
    outcome: str = ""
    deadline: float = 0.0
    oldest: dict[str, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    """The oldest and newest stamp seen on each topic since the episode began, in this episode or after it."""

    def last_stamp(self, topic: str) -> float:
        """The newest stamp of a topic that belongs into the episode, ns: states of the nodes may explain its end."""
        if self.end is None:
            return math.inf
        status = self.topics[topic].type == STATUS and topic != EVENTS
        explains = status and self.outcome == "fault"
        return self.end + AFTERMATH if explains else self.end

    def see(self, message: _Received) -> None:
        """Note that something came on a topic."""
        topic, stamp = message.topic, message.stamp
        if stamp < self.start:
            return
        if message.lost and (self.end is None or self.newest.get(topic, self.start) <= self.end):
            self.health.lose(topic, message.lost)
        self.oldest[topic] = min(stamp, self.oldest.get(topic, stamp))
        self.newest[topic] = max(stamp, self.newest.get(topic, stamp))


@dataclass(frozen=True)
class FinishedEpisode:
    """What the recorder says of an episode it has closed."""

    number: int
    path: Path
    missing: tuple[str, ...]
    """Topics that began late, or had not passed the end of the episode when patience ran out."""
    topics: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)
    """Count, rate (Hz), worst gap (s) and loss by topic."""
    faults: tuple[str, ...] = ()
    """What else is wrong with it, each in a sentence."""

    @property
    def lost(self) -> dict[str, int]:
        """Messages lost, by topic; only topics that lost any."""
        return {topic: told["lost"] for topic, told in self.topics.items() if told["lost"]}


class EpisodeRecorder:
    """Sorts raw messages into episodes by stamp and writes them from a thread of its own.

    Args:
        directory: where the bags go.
        contract: embedded in every bag; names the topics.
        patience: seconds to wait, after an episode's end was announced, for topics that lag behind.
        waiting_bytes: bound on what is kept for an episode not announced yet; the oldest is dropped beyond it.
        disk_reserve: bytes that should stay free on the disk.
        real_time: whether silence on all topics is a fault; a simulation in lockstep may pause.
    """

    def __init__(
        self,
        directory: Path,
        contract: Contract,
        patience: float = 2.0,
        waiting_bytes: int = 64 << 20,
        disk_reserve: int = 1 << 30,
        real_time: bool = False,
    ) -> None:
        self.topics = contract.recorded_topics()
        self._directory, self._contract = directory, contract
        self._contract_text = contract.to_yaml()
        self._profiles = {topic: qos(name, not real_time) for topic, name in offered_profiles(contract).items()}
        self._patience, self._disk_reserve, self._real_time = patience, disk_reserve, real_time
        directory.mkdir(parents=True, exist_ok=True)
        self._ticking = [topic for topic, recorded in self.topics.items() if recorded.every_tick]
        self._loss = {topic: LossCounter() for topic in self.topics}
        self._waiting: deque[_Received] = deque()
        self._waiting_limit, self._waiting_size = waiting_bytes, 0
        self._open: list[_OpenEpisode] = []
        self._faults: dict[str, str] = {}
        self._sealing: queue.SimpleQueue[tuple[EpisodeFile, FinishedEpisode] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[FinishedEpisode] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._queue: deque[tuple[str, tuple]] = deque()
        self._bytes_in, self._bytes_out = 0, 0  # each written by one thread
        self._wake = threading.Event()
        self._writer = threading.Thread(target=self._guarded, args=(self._write_all,), name="bag writer", daemon=True)
        self._syncer = threading.Thread(target=self._guarded, args=(self._sync_all,), name="bag sync", daemon=True)
        self._writer.start()
        self._syncer.start()

    def receive(
        self, topic: str, stamp: int, log_time: int, cdr: bytes, publisher: bytes = b"", sequence: int | None = None
    ) -> None:
        """Take one message. Returns at once.

        Args:
            topic: one of `topics`.
            stamp: nanoseconds; says which episode it belongs to.
            log_time: nanoseconds.
            cdr: the message.
            publisher: who sent it.
            sequence: the publisher's number of it; None if there is none, and loss is told by gaps between stamps.
        """
        # What is dropped here is missed by its sequence number when the next one comes through.
        if self._failure is None and self._bytes_in - self._bytes_out < BACKLOG_BYTES:
            self._bytes_in += len(cdr)
            self._queue.append(("receive", (topic, stamp, log_time, cdr, publisher, sequence)))

    def begin(self, number: int, start: int, metadata: dict[str, str]) -> None:
        """An episode begins at stamp `start`; its messages may be here already."""
        self._queue.append(("begin", (number, start, metadata)))

    def end(self, number: int, end: int, outcome: str) -> None:
        """The episode's last observation has the stamp `end`."""
        self._queue.append(("end", (number, end, outcome)))

    @property
    def faults(self) -> dict[str, str]:
        """What is wrong with the episodes being recorded, a sentence by kind and topic; renewed 5 times a second."""
        return self._faults

    @property
    def recording(self) -> bool:
        """Whether an episode is open."""
        return bool(self._open)

    def disk_fault(self) -> str | None:
        """A sentence if the disk has less free than should stay free."""
        return disk_fault(self._directory, self._disk_reserve)

    def finished(self) -> list[FinishedEpisode]:
        """Episodes closed since the last call.

        Raises:
            UserError: an episode of that number exists already.
            OSError: a thread could not write; nothing more is recorded.
        """
        if self._failure is not None:
            raise self._failure
        done = []
        while not self._finished.empty():
            done.append(self._finished.get())
        return done

    def close(self, outcome: str = "operator") -> list[FinishedEpisode]:
        """Close open episodes with `outcome`, stop the threads, and return what was closed."""
        self._queue.append(("stop", (outcome,)))
        self._wake.set()
        self._writer.join()
        self._sealing.put(None)
        self._syncer.join()
        return self.finished()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (handed to the caller by finished())
            self._failure = error

    # What follows runs on the thread that waits for the disk.

    def _sync_all(self) -> None:
        while True:
            try:
                sealed = self._sealing.get(timeout=SYNC_SECONDS)
            except queue.Empty:
                for episode in list(self._open):
                    episode.file.sync()
                continue
            if sealed is None:
                return
            file, finished = sealed
            file.seal()
            self._finished.put(finished)

    # What follows runs on the writer thread.

    def _write_all(self) -> None:
        next_flush = next_check = 0.0
        while True:
            self._wake.wait(WRITE_SECONDS)
            while self._queue:
                kind, arguments = self._queue.popleft()
                if kind == "stop":
                    self._stop(*arguments)
                    return
                getattr(self, f"_{kind}")(*arguments)
                # A backlog is written out as it is worked off, not all at its end.
                if time.monotonic() >= next_flush:
                    next_flush = self._flush()
            self._close_complete()
            now = time.monotonic()
            if now >= next_flush:
                next_flush = self._flush()
            if now >= next_check:
                self._check(now)
                next_check = now + CHECK_SECONDS

    def _flush(self) -> float:
        for episode in self._open:
            episode.file.flush()
        return time.monotonic() + FLUSH_SECONDS

    def _check(self, now: float) -> None:
        faults: dict[str, str] = {}
        for episode in self._open:
            if episode.end is None:
                faults |= episode.health.check(now)
        full = self.disk_fault() if self._open else None
        self._faults = faults | ({DISK: full} if full else {})

    def _receive(
        self, topic: str, stamp: int, log_time: int, cdr: bytes, publisher: bytes, sequence: int | None
    ) -> None:
        self._bytes_out += len(cdr)
        lost = 0 if sequence is None else self._loss[topic].lost_before(publisher, sequence)
        message = _Received(topic, stamp, log_time, cdr, publisher, sequence, lost)
        for episode in self._open:
            episode.see(message)
        if not self._write(message):
            self._waiting.append(message)
            self._waiting_size += len(cdr)
            while self._waiting_size > self._waiting_limit:
                self._waiting_size -= len(self._waiting.popleft().cdr)

    def _write(self, message: _Received) -> bool:
        for episode in reversed(self._open):
            if message.stamp < episode.start or message.stamp > episode.last_stamp(message.topic):
                continue
            episode.file.write(message.topic, message.log_time, message.cdr, message.sequence)
            episode.health.receive(message.topic, message.stamp, message.publisher, message.sequence is not None)
            return True
        return False

    def _begin(self, number: int, start: int, metadata: dict[str, str]) -> None:
        everything = {"contract": self._contract_text, "rl_ros": rl_ros.__version__, **metadata}
        everything |= {"episode": str(number), "start": str(start), "lossless": str(not self._real_time).lower()}
        file = EpisodeFile(self._directory, f"episode_{number:06d}", self.topics, everything, self._profiles)
        health = EpisodeHealth(self.topics, self._contract.control_rate, start, self._real_time)
        episode = _OpenEpisode(number, start, everything, file, health, self.topics)
        self._open.append(episode)
        for message in self._waiting:
            episode.see(message)
        self._claim()

    def _end(self, number: int, end: int, outcome: str) -> None:
        for episode in self._open:
            if episode.number == number:
                episode.end, episode.outcome = end, outcome
                episode.deadline = time.monotonic() + self._patience
        self._claim()

    def _claim(self) -> None:
        waiting, self._waiting, self._waiting_size = self._waiting, deque(), 0
        oldest = min((episode.start for episode in self._open), default=0)
        for message in waiting:
            if not self._write(message) and message.stamp >= oldest:
                self._waiting.append(message)
                self._waiting_size += len(message.cdr)

    def _lagging(self, episode: _OpenEpisode) -> tuple[str, ...]:
        return tuple(t for t in self._ticking if episode.newest.get(t, -1) < (episode.end or 0))

    def _close_complete(self) -> None:
        for episode in list(self._open):
            if episode.end is None:
                continue
            lagging = self._lagging(episode)
            if not lagging or time.monotonic() > episode.deadline:
                self._close(episode, lagging, episode.end)

    def _close(self, episode: _OpenEpisode, missing: tuple[str, ...], last_tick: int) -> None:
        self._open.remove(episode)
        episode.health.finish(last_tick)
        late = episode.start + self._contract.period_ns
        missing += tuple(t for t in self._ticking if t not in missing and episode.oldest.get(t, late + 1) > late)
        topics, faults = episode.health.summary(), tuple(episode.health.damage().values())
        outcome = {
            "outcome": episode.outcome,
            "end": str(episode.end),
            "missing": json.dumps(missing),
            "topics": json.dumps(topics),
            "faults": json.dumps(faults),
            "seed": episode.metadata.get("seed", ""),
            "episode": str(episode.number),
        }
        episode.file.finish(outcome)
        finished = FinishedEpisode(episode.number, episode.file.final, missing, topics, faults)
        self._sealing.put((episode.file, finished))

    def _stop(self, outcome: str) -> None:
        for episode in list(self._open):
            last_tick = episode.end
            if last_tick is None:
                # By what every tick has: a goal, or another node's word, may have been stamped by any clock.
                ticks = [episode.newest[topic] for topic in self._ticking if topic in episode.newest]
                episode.end = max(ticks, default=episode.start)
                episode.outcome = outcome
                # The tick that was going on is cut short, which is no loss.
                last_tick = episode.end - self._contract.period_ns
                self._claim()
            self._close(episode, self._lagging(episode), last_tick)
