"""What bags decode to, kept beside them: packed columns that are memory-mapped, not read.

    CACHE/<hash of contract, cuts and format>/<generation>/index.json and one .npy file a column

All episodes of all bags follow one another in each column, so that a trainer starts without copying anything. A bag
is known by size, time of change and a hash of its head and tail, where its contents' checksums are. Where bags were
added, changed or removed, a new generation is written: rows of bags that are as they were are copied, only the others
are decoded, and the order is always that of the bags, so that training does not depend on how a cache came about.
A generation gets its name when it is complete. Its columns are used if they are as they were written, by size and time
of change or else by checksum; otherwise everything is decoded again.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import numpy as np

from rl_ros.contract import ACTORS, Contract, Key
from rl_ros.episodes.bags import read_bag, storage_files
from rl_ros.episodes.ingest import Cuts, episodes_of
from rl_ros.episodes.memory import Columns, Episode
from rl_ros.errors import UserError

FORMAT = 4
"""Of the files, and of how bags are decoded: a change of either makes every cache old."""
DIRECTORY = ".rl_ros_cache"
"""Where the cache of a directory of bags is, in that directory."""
INDEX = "index.json"
_HASHED = 1 << 16
"""Bytes of a file's head and of its tail that are hashed."""
_READ = 1 << 24


def cache_beside(bags: Path, found: Sequence[Path]) -> Path:
    """Where what the bags decode to is kept: in their directory.

    Args:
        bags: what was named, a directory of bags or a bag.
        found: the bags that `find_bags` found there.
    """
    return (bags if bags.is_dir() and bags not in found else bags.parent) / DIRECTORY


@dataclass(frozen=True)
class EpisodeRecord:
    """What is known of an episode beside its columns."""

    ticks: int
    transitions: int
    outcome: str
    seed: int
    source: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """The episodes of many bags."""

    columns: Columns
    """Memory-mapped."""
    stamps: np.ndarray
    """int64 (rows,) nanoseconds."""
    actor: np.ndarray
    """uint8 (rows,), as in `Episode.actor`."""
    episodes: list[EpisodeRecord]
    refused: list[str]
    """One sentence for each bag, or episode of one, that could not be used."""
    decoded: int
    """Bags that were decoded just now; the others were in the cache."""
    directory: Path
    """Of this generation."""

    def of_actors(self, actors: Collection[str]) -> "Dataset":
        """With only the transitions whose actions these have chosen.

        Raises:
            UserError: one is no actor, or none of them acted.
        """
        unknown = [actor for actor in actors if actor not in ACTORS]
        if unknown:
            raise UserError(f"'{unknown[0]}' is nobody who acts; expected some of: {', '.join(ACTORS)}.")
        theirs = np.isin(self.actor, [1 + ACTORS.index(actor) for actor in actors])
        kept = np.asarray(self.columns.has_transition) & theirs
        if not kept.any():
            raise UserError(f"no transition was acted by {' or '.join(actors)}, as far as the bags tell.")
        return dataclasses.replace(self, columns=dataclasses.replace(self.columns, has_transition=kept))

    @property
    def human(self) -> np.ndarray:
        """Where a person acted, bool (rows,)."""
        human: np.ndarray = self.actor == 1 + ACTORS.index("human")
        return human


@dataclass
class _Bag:
    """A bag in the index."""

    path: str
    identity: str
    episodes: list[EpisodeRecord]
    refused: list[str]

    @property
    def rows(self) -> int:
        return sum(episode.ticks for episode in self.episodes)


def load_columns(
    bags: Sequence[Path],
    contract: Contract,
    cache: Path,
    cuts: Cuts | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Dataset:
    """The episodes in `bags`, from the cache as far as they are in it.

    Args:
        bags: directories or files, in the order wanted.
        contract: what to take from them.
        cache: a directory, made if there is none.
        cuts: for bags of several episodes.
        progress: called after each bag.

    Raises:
        UserError: none of the bags can be used, or the cache cannot be written.
    """
    # In the contract's order, which is that of the channels in the action's column.
    key = json.dumps([FORMAT, contract.to_dict(), dataclasses.asdict(cuts or Cuts())])
    directory = cache / hashlib.sha256(key.encode()).hexdigest()[:16]
    identities = {path: identity for path in bags if (identity := _identity(path))}
    refused = [_why_not(path) for path in bags if path not in identities]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            old = _newest_generation(directory, contract)
            decoded = 0
            if old is None or [bag.identity for bag in old[1]] != list(identities.values()):
                decoded = _write_generation(directory, contract, cuts, identities, old, progress)
                old = _newest_generation(directory, contract)
            else:
                for _ in identities:
                    progress()
    except OSError as error:
        raise UserError(
            f"{cache}: the cache cannot be written: {error.strerror}; name another place with --cache."
        ) from error
    assert old is not None
    generation, known = old
    episodes = [
        dataclasses.replace(episode, source=str(path))
        for path, bag in zip(identities, known, strict=True)
        for episode in bag.episodes
    ]
    refused += [sentence for bag in known for sentence in bag.refused]
    if not episodes:
        raise UserError(f"none of {len(bags)} bags can be used: {' '.join(refused[:3])}")
    arrays = {name: _mapped(_file(generation, name)) for name in _layout(contract)}
    columns = Columns(
        observation={name: arrays[f"observation/{name}"] for name in contract.observation},
        auxiliary={name: arrays[f"auxiliary/{name}"] for name in contract.auxiliary},
        lengths=np.array([episode.ticks for episode in episodes], np.int64),
        **{name: arrays[name] for name in _PLAIN},
    )
    return Dataset(columns, arrays["stamps"], arrays["actor"], episodes, refused, decoded, generation)


_PLAIN = ("desired_goal", "action", "reward", "terminated", "truncated", "has_transition")


def _layout(contract: Contract) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of a row of each column."""

    def of(key: Key) -> tuple[str, tuple[int, ...]]:
        return key.dtype, key.shape

    return {
        "stamps": ("int64", ()),
        "actor": ("uint8", ()),
        **{f"observation/{name}": of(key) for name, key in contract.observation.items()},
        **{f"auxiliary/{name}": of(key) for name, key in contract.auxiliary.items()},
        "desired_goal": of(contract.goal.desired_goal),
        "action": ("float32", (len(contract.action_low),)),
        "reward": ("float32", ()),
        **{name: ("bool", ()) for name in ("terminated", "truncated", "has_transition")},
    }


def _column_of(episode: Episode, name: str) -> np.ndarray:
    if name == "actor" and episode.actor is None:
        return np.zeros(len(episode.stamps), np.uint8)
    group, _, key = name.rpartition("/")
    array: np.ndarray = getattr(episode, group)[key] if group else getattr(episode, name)
    return array


def _file(generation: Path, name: str) -> Path:
    return generation / f"{quote(name, safe='')}.npy"


def _mapped(file: Path) -> np.ndarray:
    # As a plain array: the subclass of memory maps costs time in each access.
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


def _identity(path: Path) -> str:
    """What changes when a bag does; empty if it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for file in storage_files(path):
            about = file.stat()
            digest.update(f"{file.name} {about.st_size} {about.st_mtime_ns} ".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(_HASHED))
                stream.seek(max(0, about.st_size - _HASHED))
                digest.update(stream.read(_HASHED))
    except (UserError, OSError):
        return ""
    return digest.hexdigest()


def _why_not(path: Path) -> str:
    try:
        read_bag(path)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}."
    return f"{path}: changed while it was read."


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two trainers that start together decode once."""
    with (directory / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _newest_generation(directory: Path, contract: Contract) -> tuple[Path, list[_Bag]] | None:
    """The newest generation that is whole, and the bags in it."""
    for generation in sorted((d for d in directory.iterdir() if d.name.isdigit()), reverse=True):
        bags = _read_index(generation, contract)
        if bags is not None:
            return generation, bags
    return None


def _read_index(generation: Path, contract: Contract) -> list[_Bag] | None:
    try:
        text = (generation / INDEX).read_text()
        checksum, _, content = text.partition("\n")
        if int(checksum) != zlib.crc32(content.encode()):
            return None
        index = json.loads(content)
        for name in _layout(contract):
            if not _is_as_written(_file(generation, name), index["columns"][name]):
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    bags = []
    for bag in index["bags"]:
        episodes = [EpisodeRecord(**(e | {"problems": tuple(e["problems"])})) for e in bag["episodes"]]
        bags.append(_Bag(bag["path"], bag["identity"], episodes, bag["refused"]))
    return bags


def _is_as_written(file: Path, written: dict[str, int]) -> bool:
    about = file.stat()
    if about.st_size != written["size"]:
        return False
    if about.st_mtime_ns == written["changed"]:
        return True
    checksum = 0
    with file.open("rb") as stream:
        header = stream.read(written["begin"])
        while block := stream.read(_READ):
            checksum = zlib.crc32(block, checksum)
    return zlib.crc32(header) == written["header"] and checksum == written["checksum"]


class _ColumnFile:
    """A .npy file while rows are appended to it."""

    def __init__(self, file: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = np.dtype(dtype), shape
        self._rows, self._checksum = 0, 0
        self._stream: BinaryIO = file.open("w+b")
        self._file = file
        self._header()
        self._begin = self._stream.tell()

    def append(self, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, self._dtype)
        self._stream.write(rows.data if rows.size else b"")
        self._checksum = zlib.crc32(rows.data if rows.size else b"", self._checksum)
        self._rows += len(rows)

    def _header(self) -> None:
        # numpy leaves room for the number of rows to grow, so the length of the header stays.
        self._stream.seek(0)
        description = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, description)

    def close(self) -> dict[str, int]:
        """Complete the file; returns what to know it by."""
        self._header()
        assert self._stream.tell() == self._begin
        self._stream.seek(0)
        header = zlib.crc32(self._stream.read(self._begin))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        about = self._file.stat()
        return {
            "size": about.st_size,
            "changed": about.st_mtime_ns,
            "begin": self._begin,
            "header": header,
            "checksum": self._checksum,
        }


def _write_generation(
    directory: Path,
    contract: Contract,
    cuts: Cuts | None,
    identities: dict[Path, str],
    old: tuple[Path, list[_Bag]] | None,
    progress: Callable[[], None],
) -> int:
    """Write a new generation and remove the others; returns how many bags were decoded."""
    layout = _layout(contract)
    known: dict[str, tuple[_Bag, int]] = {}
    arrays: dict[str, np.ndarray] = {}
    if old is not None:
        arrays = {name: _mapped(_file(old[0], name)) for name in layout}
        row = 0
        for bag in old[1]:
            known[bag.identity] = (bag, row)
            row += bag.rows
    building = directory / "building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    files = {name: _ColumnFile(_file(building, name), *kind) for name, kind in layout.items()}
    bags: list[_Bag] = []
    decoded = 0
    for path, identity in identities.items():
        found = known.get(identity)
        if found is not None:
            bag, start = found
            for name, file in files.items():
                file.append(arrays[name][start : start + bag.rows])
        else:
            bag = _Bag(str(path), identity, [], [])
            decoded += 1
            try:
                for episode in episodes_of(read_bag(path), contract, bag.refused, cuts, scratch=building):
                    for name, file in files.items():
                        file.append(_column_of(episode, name))
                    bag.episodes.append(_record(episode))
            except UserError as error:
                bag.refused.append(str(error))
        bags.append(bag)
        progress()
    index = {
        "columns": {name: file.close() for name, file in files.items()},
        "bags": [dataclasses.asdict(bag) for bag in bags],
    }
    content = json.dumps(index)
    (building / INDEX).write_text(f"{zlib.crc32(content.encode())}\n{content}")
    others = [other for other in directory.iterdir() if other.name.isdigit()]
    number = max((int(other.name) for other in others), default=0) + 1
    building.rename(directory / f"{number:06d}")
    for other in others:  # who has it mapped keeps it
        shutil.rmtree(other, ignore_errors=True)
    return decoded


def _record(episode: Episode) -> EpisodeRecord:
    return EpisodeRecord(
        ticks=len(episode.stamps),
        transitions=int(episode.has_transition.sum()),
        outcome=episode.outcome,
        seed=episode.seed,
        source=episode.source,
        problems=episode.problems,
    )
