"""What a live node saw and said, tick by tick, to be held against what its bag gives back.

Parity is by construction: one assembler serves both sides. This is how it is checked.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rl_ros.episodes.memory import Episode, ReplayMemory


def digest(array: np.ndarray) -> str:
    """A short text that two arrays share only if they are equal bit for bit, dtype and shape included."""
    content = np.ascontiguousarray(array)
    described = f"{content.dtype.str}{content.shape}".encode()
    return hashlib.sha256(described + content.tobytes()).hexdigest()[:32]


class Trace:
    """Appends one JSON line per tick to a file: its stamp, and the digest of each array."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1 << 16)

    def note(self, stamp: int, values: Mapping[str, np.ndarray]) -> None:
        """Note one tick; `stamp` in nanoseconds."""
        self._file.write(json.dumps({"stamp": stamp, **{k: digest(v) for k, v in values.items()}}) + "\n")

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()


def read_traces(paths: Sequence[Path]) -> dict[int, dict[str, str]]:
    """The digests by stamp, those of several nodes joined."""
    found: dict[int, dict[str, str]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry.pop("stamp"), {}).update(entry)
    return found


def compare(traces: Mapping[int, Mapping[str, str]], episodes: Sequence[Episode]) -> tuple[int, list[str]]:
    """Hold transitions read from bags against what live nodes noted.

    Returns:
        The number of transitions compared, and a sentence for each entry that differs or was not noted.
    """
    memory = ReplayMemory(episodes)
    stamps = np.concatenate([episode.stamps for episode in episodes])
    mismatches = []
    for row in memory.transitions:
        batch = memory.take(np.array([row]))
        now, after = int(stamps[row]), int(stamps[row + 1])
        here = {name: column[0] for name, column in batch.observation.items()}
        here |= {"desired_goal": batch.desired_goal[0], "action": batch.action[0]}
        there = {name: column[0] for name, column in batch.next_observation.items()}
        there |= {
            "reward": batch.reward,
            "terminated": batch.terminated.astype(np.float32),
            "truncated": batch.truncated.astype(np.float32),
        }
        for stamp, values in ((now, here), (after, there)):
            noted = traces.get(stamp, {})
            mismatches += [
                f"{name} at {stamp} ns: {'differs' if name in noted else 'was not noted'}"
                for name, value in values.items()
                if noted.get(name) != digest(value)
            ]
    return len(memory), mismatches
