"""Raw CDR into one MCAP bag per episode, on a writer thread; nothing is decoded.

A message belongs to the episode whose stamps enclose its own, whenever it arrives: messages that come
before their episode is announced wait, and an episode is closed once every topic has passed its end.
"""

import json
import os
import queue
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcap.well_known import Profile
from mcap.writer import CompressionType, Writer

import rl_ros
from rl_ros.contract import Contract, Recorded
from rl_ros.episodes.messages import definition
from rl_ros.errors import UserError

WRITE_SECONDS = 0.02
"""How often the writer thread wakes; waking it for each message costs several times as much as writing it."""
FLUSH_SECONDS = 0.1
"""How often what has arrived is written out as a chunk; with the wait above, at most 0.2 s are ever at risk."""
CHUNK_BYTES = 1 << 20
UNFINISHED = ".unfinished"
"""Suffix of a bag's directory until it is complete."""
METADATA = "rl_ros"
"""Name of the MCAP metadata record written when an episode begins."""
OUTCOME = "rl_ros/outcome"
"""Name of the MCAP metadata record written when it ends."""


class _TimedWriter(Writer):
    """The mcap writer with a chunk that can be ended by the clock, not only by its size."""

    def end_chunk(self) -> None:
        # The library ends chunks by size alone; the pinned version has this under a private name.
        self._Writer__finalize_chunk()  # type: ignore[attr-defined]


class EpisodeFile:
    """One episode's bag while it is written: an MCAP file and, at the end, the metadata.yaml of rosbag2."""

    def __init__(self, directory: Path, name: str, topics: dict[str, Recorded], metadata: dict[str, str]) -> None:
        self.final = directory / name
        self.directory = directory / (name + UNFINISHED)
        if self.final.exists():
            raise UserError(f"{self.final}: there is such a bag already; record into another directory or number.")
        self.directory.mkdir(parents=True)
        self.path = self.directory / f"{name}_0.mcap"
        self._stream = self.path.open("wb")
        self._writer = _TimedWriter(
            self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE, enable_data_crcs=True
        )
        self._writer.start(profile=Profile.ROS2, library=f"rl_ros {rl_ros.__version__}")
        self._writer.add_metadata(METADATA, metadata)
        self._topics = topics
        self._channels: dict[str, int] = {}
        schemas: dict[str, int] = {}
        for topic, recorded in topics.items():
            if recorded.type not in schemas:
                text = definition(recorded.type)[0]
                schemas[recorded.type] = self._writer.register_schema(recorded.type, "ros2msg", text.encode())
            self._channels[topic] = self._writer.register_channel(topic, "cdr", schemas[recorded.type])
        self._counts = dict.fromkeys(topics, 0)
        self._first: int | None = None
        self._last = 0
        self._dirty = True

    def write(self, topic: str, log_time: int, cdr: bytes) -> None:
        """Add one message; `log_time` in nanoseconds."""
        self._writer.add_message(self._channels[topic], log_time, cdr, log_time, sequence=self._counts[topic])
        self._counts[topic] += 1
        self._first = log_time if self._first is None else min(self._first, log_time)
        self._last = max(self._last, log_time)
        self._dirty = True

    def flush(self) -> None:
        """Hand everything written so far to the operating system as a complete chunk."""
        if self._dirty:
            self._writer.end_chunk()
            self._stream.flush()
            self._dirty = False

    def close(self, outcome: dict[str, str]) -> Path:
        """Complete the bag and give it its final name; returns its directory."""
        self._writer.add_metadata(OUTCOME, outcome | {"counts": json.dumps(self._counts)})
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
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
                        "offered_qos_profiles": [],
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
            "custom_data": {k: v for k, v in outcome.items() if k in ("outcome", "episode", "seed")},
            "ros_distro": "kilted",
        }
        # JSON is YAML, and a hundred times faster to write.
        text = json.dumps({"rosbag2_bagfile_information": information}, indent=1)
        (self.directory / "metadata.yaml").write_text(text + "\n")
        self.directory.rename(self.final)
        return self.final

    def discard(self) -> None:
        """Remove the bag."""
        self._stream.close()
        shutil.rmtree(self.directory)


@dataclass
class _OpenEpisode:
    number: int
    start: int
    metadata: dict[str, str]
    file: EpisodeFile
    end: int | None = None
    outcome: str = ""
    deadline: float = 0.0
    oldest: dict[str, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    """The oldest and newest stamp seen on each topic since the episode began, in this episode or after it."""

    def see(self, topic: str, stamp: int) -> None:
        """Note that something came on a topic."""
        if stamp >= self.start:
            self.oldest[topic] = min(stamp, self.oldest.get(topic, stamp))
            self.newest[topic] = max(stamp, self.newest.get(topic, stamp))


@dataclass(frozen=True)
class FinishedEpisode:
    """What the recorder says of an episode it has closed."""

    number: int
    path: Path
    missing: tuple[str, ...]
    """Topics that began late, or had not passed the end of the episode when patience ran out."""


class EpisodeRecorder:
    """Sorts raw messages into episodes by stamp and writes them from a thread of its own.

    Args:
        directory: where the bags go.
        contract: embedded in every bag; names the topics.
        patience: seconds to wait, after an episode's end was announced, for topics that lag behind.
        waiting_bytes: bound on what is kept for an episode not announced yet; the oldest is dropped beyond it.
    """

    def __init__(
        self,
        directory: Path,
        contract: Contract,
        patience: float = 2.0,
        waiting_bytes: int = 64 << 20,
    ) -> None:
        self.topics = contract.recorded_topics()
        self._directory, self._contract = directory, contract
        self._contract_text = contract.to_yaml()
        self._patience = patience
        directory.mkdir(parents=True, exist_ok=True)
        self._ticking = [topic for topic, recorded in self.topics.items() if recorded.every_tick]
        self._waiting: deque[tuple[str, int, int, bytes]] = deque()
        self._waiting_limit, self._waiting_size = waiting_bytes, 0
        self._open: list[_OpenEpisode] = []
        self._finished: queue.SimpleQueue[FinishedEpisode] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._queue: deque[tuple[str, tuple]] = deque()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)
        self._thread.start()

    def receive(self, topic: str, stamp: int, log_time: int, cdr: bytes) -> None:
        """Take one message; `stamp` and `log_time` in nanoseconds. Returns at once."""
        if self._failure is not None:
            return
        self._queue.append(("receive", (topic, stamp, log_time, cdr)))

    def begin(self, number: int, start: int, metadata: dict[str, str]) -> None:
        """An episode begins at stamp `start`; its messages may be here already."""
        self._queue.append(("begin", (number, start, metadata)))

    def end(self, number: int, end: int, outcome: str) -> None:
        """The episode's last observation has the stamp `end`."""
        self._queue.append(("end", (number, end, outcome)))

    def finished(self) -> list[FinishedEpisode]:
        """Episodes closed since the last call.

        Raises:
            UserError: an episode of that number exists already.
            OSError: the writer thread could not write; nothing more is recorded.
        """
        if self._failure is not None:
            raise self._failure
        done = []
        while not self._finished.empty():
            done.append(self._finished.get())
        return done

    def close(self, outcome: str = "operator") -> list[FinishedEpisode]:
        """Close open episodes with `outcome`, stop the thread, and return what was closed."""
        self._queue.append(("stop", (outcome,)))
        self._wake.set()
        self._thread.join()
        return self.finished()

    # What follows runs on the writer thread.

    def _run(self) -> None:
        try:
            next_flush = time.monotonic() + FLUSH_SECONDS
            while True:
                self._wake.wait(WRITE_SECONDS)
                while self._queue:
                    kind, arguments = self._queue.popleft()
                    if kind == "stop":
                        self._stop(*arguments)
                        return
                    getattr(self, f"_{kind}")(*arguments)
                self._close_complete()
                if time.monotonic() >= next_flush:
                    for episode in self._open:
                        episode.file.flush()
                    next_flush = time.monotonic() + FLUSH_SECONDS
        except Exception as error:  # noqa: BLE001  (handed to the caller by finished())
            self._failure = error

    def _receive(self, topic: str, stamp: int, log_time: int, cdr: bytes) -> None:
        for episode in self._open:
            episode.see(topic, stamp)
        if not self._write(topic, stamp, log_time, cdr):
            self._waiting.append((topic, stamp, log_time, cdr))
            self._waiting_size += len(cdr)
            while self._waiting_size > self._waiting_limit:
                self._waiting_size -= len(self._waiting.popleft()[3])

    def _write(self, topic: str, stamp: int, log_time: int, cdr: bytes) -> bool:
        for episode in self._open:
            if stamp < episode.start or (episode.end is not None and stamp > episode.end):
                continue
            episode.file.write(topic, log_time, cdr)
            return True
        return False

    def _begin(self, number: int, start: int, metadata: dict[str, str]) -> None:
        everything = {"contract": self._contract_text, "rl_ros": rl_ros.__version__, **metadata}
        everything |= {"episode": str(number), "start": str(start)}
        name = f"episode_{number:06d}"
        episode = _OpenEpisode(number, start, everything, EpisodeFile(self._directory, name, self.topics, everything))
        self._open.append(episode)
        for topic, stamp, _, _ in self._waiting:
            episode.see(topic, stamp)
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
        for topic, stamp, log_time, cdr in waiting:
            if not self._write(topic, stamp, log_time, cdr) and stamp >= oldest:
                self._waiting.append((topic, stamp, log_time, cdr))
                self._waiting_size += len(cdr)

    def _lagging(self, episode: _OpenEpisode) -> tuple[str, ...]:
        return tuple(t for t in self._ticking if episode.newest.get(t, -1) < (episode.end or 0))

    def _close_complete(self) -> None:
        for episode in list(self._open):
            if episode.end is None:
                continue
            lagging = self._lagging(episode)
            if not lagging or time.monotonic() > episode.deadline:
                self._close(episode, lagging)

    def _close(self, episode: _OpenEpisode, missing: tuple[str, ...]) -> None:
        self._open.remove(episode)
        late = episode.start + self._contract.period_ns
        missing += tuple(t for t in self._ticking if t not in missing and episode.oldest.get(t, late + 1) > late)
        outcome = {
            "outcome": episode.outcome,
            "end": str(episode.end),
            "missing": json.dumps(missing),
            "seed": episode.metadata.get("seed", ""),
            "episode": str(episode.number),
        }
        self._finished.put(FinishedEpisode(episode.number, episode.file.close(outcome), missing))

    def _stop(self, outcome: str) -> None:
        for episode in list(self._open):
            if episode.end is None:
                episode.end = max(episode.newest.values(), default=episode.start)
                episode.outcome = outcome
                self._claim()
            self._close(episode, self._lagging(episode))
