"""Reads bags of any recorder: what a bag says of itself, and its raw messages as a stream.

MCAP is read here, front to back and without its index, so that a bag that was cut off gives all it has and one of
any size needs the memory of one chunk. sqlite3 and compressed files go through the rosbags library.
"""

import json
import re
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import apsw
import lz4.frame
import yaml
import zstandard
from backports import zstd
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Metadata, Schema
from rosbags.rosbag2 import Reader, ReaderError

from rl_ros.contract import Contract
from rl_ros.episodes.record import METADATA, OUTCOME, UNFINISHED
from rl_ros.errors import UserError
from rl_ros.schema import plain_yaml

RECORD_SIZE_LIMIT = 1 << 30
"""Bytes of one record or one decompressed chunk; a damaged length would ask for any number."""
UNPACKED_LIMIT = 1 << 28
"""Bytes that anything compressed may become, or `UNPACKED_TIMES` its size where that is more: a few kilobytes can
be made to unpack to terabytes."""
UNPACKED_TIMES = 64
METADATA_LIMIT = 1 << 24
"""Bytes of a metadata.yaml."""
NEWEST_ROSBAG2 = 9
"""The newest version of rosbag2's metadata.yaml that is read."""

_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<BQHIQQ")
_CHUNK = struct.Struct("<QQQII")
_DAMAGES = (
    McapError,
    EOFError,
    struct.error,
    KeyError,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
    ReaderError,
    apsw.Error,
    zstandard.ZstdError,
    zstd.ZstdError,
)
"""What reading damaged bytes can raise."""


class RawMessage(NamedTuple):
    """One message as it travelled."""

    topic: str
    type: str
    log_time: int
    """Nanoseconds."""
    cdr: bytes


@dataclass
class Contents:
    """What one pass over a bag has found beside its messages."""

    metadata: dict[str, str] = field(default_factory=dict)
    outcome: dict[str, str] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Messages by topic and type."""
    publishers: dict[str, int] = field(default_factory=dict)
    """Publishers by topic, where the recorder has written it down."""


class Storage(Protocol):
    """Where the messages of a bag come from."""

    def read(self, contents: Contents, topics: Collection[str] | None) -> Iterator[RawMessage]:
        """One pass over the messages of these topics (None: of all); notes in `contents` what else it finds."""


class Bag:
    """One bag: its messages as a stream, and what was written about it.

    `for message in bag` reads the messages in file order without keeping them, as often as asked for; `messages` is
    the list of all of them, for bags that are known to be small. A damaged bag gives every complete chunk, and says
    so in `damage`.

    Args:
        path: names the bag in sentences.
        source: where the messages come from; a plain sequence is a bag that lives in memory.
        listed: its messages by topic, as metadata.yaml lists them, where it does.
    """

    def __init__(
        self, path: Path, source: "Storage | Sequence[RawMessage]", listed: Mapping[str, int] | None = None
    ) -> None:
        self.path, self.listed = path, listed
        self._storage: Storage = _InMemory(source) if isinstance(source, Sequence) else source
        self._whole: Contents | None = None

    def __iter__(self) -> Iterator[RawMessage]:
        return self.read()

    def read(self, topics: Collection[str] | None = None) -> Iterator[RawMessage]:
        """The messages of these topics (None: of all) in file order, one at a time."""
        contents = Contents()
        yield from self._storage.read(contents, topics)
        self._whole = contents

    @cached_property
    def messages(self) -> list[RawMessage]:
        """All messages at once; for small bags."""
        return list(self)

    @property
    def contents(self) -> Contents:
        """What a whole pass finds; makes one if there was none yet."""
        if self._whole is None:
            for _ in self.read(()):
                pass
        assert self._whole is not None
        return self._whole

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The contract, seed and versions it was recorded with; empty for bags of other recorders."""
        # Ours is the first record of a bag, so that what comes before the first message tells.
        contents = Contents()
        for _ in self._storage.read(contents, None):
            break
        return contents.metadata

    @property
    def outcome(self) -> dict[str, str]:
        """How the episode ended; empty if the recorder never got so far."""
        return self.contents.outcome

    @property
    def damage(self) -> str:
        """What is wrong with the bag, empty if nothing is."""
        return "; ".join(self.contents.damage)

    @property
    def contract(self) -> Contract | None:
        """The contract embedded in the bag, if there is one."""
        text = self.metadata.get("contract")
        return Contract.from_yaml(text, f"the contract in {self.path}") if text else None

    @property
    def topics(self) -> dict[str, tuple[str, int]]:
        """Type and number of messages by topic."""
        return {topic: (kind, count) for (topic, kind), count in self.contents.counts.items()}

    @property
    def missing(self) -> list[str]:
        """Topics that the recorder knew to be incomplete."""
        try:
            return [str(topic) for topic in json.loads(self.outcome.get("missing", "[]"))]
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self.path}: what the bag says of missing topics is damaged.") from error

    @property
    def seed(self) -> int:
        """Of the episode; 0 where nothing is told."""
        return self._number(self.metadata, "seed", 0)

    @property
    def end(self) -> int | None:
        """Stamp of the episode's last observation, ns; None where nothing is told."""
        return self._number(self.outcome, "end", -1) if "end" in self.outcome else None

    def _number(self, told: Mapping[str, str], name: str, otherwise: int) -> int:
        text = told.get(name, str(otherwise))
        if not re.fullmatch(r"-?\d{1,19}", text):
            raise UserError(f"{self.path}: the bag's {name} is '{text[:40]}', which is no number.")
        return int(text)


def mcap_file(path: Path) -> Path:
    """The MCAP file of a bag given as a directory or as the file itself.

    Raises:
        UserError: there is none, or there are several.
    """
    files = [file for file in storage_files(path) if file.suffix == ".mcap"]
    if len(files) != 1:
        raise UserError(f"{path}: expected one .mcap file in it, found {len(files)}.")
    return files[0]


def storage_files(path: Path) -> list[Path]:
    """The files of a bag given as a directory or as a file, in the order in which they were recorded.

    Raises:
        UserError: there is none, or there are several that are no parts of one bag.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"{path}: no such bag; give a directory that holds one .mcap file, or the file.")
    files = _files_in(path)
    if not files:
        raise UserError(f"{path}: expected one .mcap file in it, found 0.")
    if not _are_one_bag(path, files):
        raise UserError(
            f"{path}: expected one .mcap file in it, found {len(files)} that are no parts of one bag; name one of them."
        )
    return files


def find_bags(directory: Path) -> list[Path]:
    """The complete bags under a directory, sorted by name; a bag itself counts as one.

    Raises:
        UserError: the directory does not exist or holds no bag.
    """
    if not directory.exists():
        raise UserError(f"{directory}: no such directory; record bags with `rl_ros collect`.")
    if directory.is_file():
        return [directory]
    parents = {file.parent for suffix in _SUFFIXES for file in directory.rglob(f"*{suffix}")}
    above = {directory for parent in parents for directory in parent.parents}
    found: list[Path] = []
    for parent in sorted(parents):
        if not parent.name.endswith(UNFINISHED):
            files = _files_in(parent)
            found += [parent] if _are_one_bag(parent, files) and parent not in above else files
    if not found:
        raise UserError(f"{directory}: holds no bag (a directory with an .mcap file); record with `rl_ros collect`.")
    return found


def read_bag(path: Path) -> Bag:
    """Open a bag, a directory or a file. Its messages are read when they are asked for.

    Raises:
        UserError: there is no such bag, a file of it is empty or no bag at all, or it is of a newer format.
    """
    files = storage_files(path)
    for file in files:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the file is empty; delete the bag.")
    information = _information(files[0].parent)
    listed = None
    if "topics_with_message_count" in information:
        listed = {
            each["topic_metadata"]["name"]: each.get("message_count", 0)
            for each in information["topics_with_message_count"]
        }
    storage: Storage
    if any(file.suffix == ".zstd" for file in files):
        storage = _Compressed(files)
    elif any(file.suffix != ".mcap" for file in files):
        whole = (files[0].parent / "metadata.yaml").exists() and path.is_dir()
        storage = _Rosbags([path] if whole else files)
    else:
        storage = _Mcap(files)
    if str(information.get("compression_mode", "")).lower() == "message":
        storage = _CompressedMessages(storage)
    bag = Bag(path, storage, listed)
    if isinstance(storage, _Mcap):
        _ = bag.metadata  # refuses what is no MCAP at all
    return bag


def _files_in(directory: Path) -> list[Path]:
    files = [file for file in directory.iterdir() if file.name.endswith(_SUFFIXES)]
    return sorted(files, key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)])


def _are_one_bag(directory: Path, files: Sequence[Path]) -> bool:
    """rosbag2 calls the parts of a bag NAME_0, NAME_1 and so on, and lists them in metadata.yaml."""
    stems = {re.sub(r"_\d+$", "", file.name.removesuffix(".zstd").rsplit(".", 1)[0]) for file in files}
    return len(files) == 1 or (directory / "metadata.yaml").exists() or len(stems) == 1


def _information(directory: Path) -> dict[str, Any]:
    """The metadata.yaml of rosbag2, empty if there is none."""
    try:
        if (directory / "metadata.yaml").stat().st_size > METADATA_LIMIT:
            raise UserError(f"{directory / 'metadata.yaml'}: larger than {METADATA_LIMIT >> 20} MB, so it is none.")
        text = (directory / "metadata.yaml").read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    try:
        # Ours is JSON, which is YAML and a hundred times faster to read.
        found = json.loads(text) if text.startswith("{") else plain_yaml(text)
        information = dict(found["rosbag2_bagfile_information"])
        version = int(information["version"])
        listed = [each["topic_metadata"]["name"] for each in information.get("topics_with_message_count", ())]
        if not all(isinstance(name, str) for name in listed):
            raise ValueError("names of topics")
    except (yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # the messages are in the other files, which say themselves whether they are whole
    if version > NEWEST_ROSBAG2:
        raise UserError(
            f"{directory}: a bag of rosbag2 format {version}; this version of rl_ros reads up to {NEWEST_ROSBAG2}."
        )
    return information


class _InMemory:
    def __init__(self, messages: Sequence[RawMessage]) -> None:
        self._messages = messages

    def read(self, contents: Contents, topics: Collection[str] | None) -> Iterator[RawMessage]:
        for message in self._messages:
            contents.counts[message.topic, message.type] += 1
            if topics is None or message.topic in topics:
                yield message


class _Rosbags:
    """Bags that the rosbags library opens: sqlite3, and files or messages compressed with zstd."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def read(self, contents: Contents, topics: Collection[str] | None) -> Iterator[RawMessage]:
        count = 0
        for path in self._paths:
            try:
                reader = Reader(path)
                reader.open()
            except _DAMAGES as error:
                raise UserError(f"{path}: cannot be opened: {' '.join(str(error).split()).rstrip('.')}.") from error
            try:
                # Messages that are compressed one by one are left to _CompressedMessages, which knows a limit.
                reader.storage.metadata = reader.storage.metadata._replace(compression_mode=None)
                for connection in reader.connections:
                    contents.counts[connection.topic, connection.msgtype] += connection.msgcount
                    offered = len(getattr(connection.ext, "offered_qos_profiles", ()))
                    contents.publishers[connection.topic] = max(offered, contents.publishers.get(connection.topic, 0))
                wanted = [c for c in reader.connections if topics is None or c.topic in topics]
                for connection, log_time, cdr in reader.messages(wanted) if wanted else ():
                    yield RawMessage(connection.topic, connection.msgtype, log_time, bytes(cdr))
                    count += 1
            except _DAMAGES:
                contents.damage.append(f"cut off or damaged after {count} messages")
            finally:
                reader.close()


class _Compressed:
    """Files that are compressed as a whole; unpacked once, beside what else is temporary."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._directory = tempfile.TemporaryDirectory(prefix="rl_ros_")
        self._storage: Storage | None = None

    def read(self, contents: Contents, topics: Collection[str] | None) -> Iterator[RawMessage]:
        if self._storage is None:
            unpacked = [self._unpack(file) for file in self._files]
            self._storage = (_Mcap if all(file.suffix == ".mcap" for file in unpacked) else _Rosbags)(unpacked)
        yield from self._storage.read(contents, topics)

    def _unpack(self, file: Path) -> Path:
        if file.suffix != ".zstd":
            return file
        unpacked = Path(self._directory.name) / file.stem
        limit = max(UNPACKED_LIMIT, UNPACKED_TIMES * file.stat().st_size)
        size = 0
        try:
            with file.open("rb") as packed, unpacked.open("wb") as out:
                for piece in zstandard.ZstdDecompressor().read_to_iter(packed):
                    size += len(piece)
                    if size > limit:
                        raise UserError(f"{file}: unpacks to more than {limit >> 20} MB, so it is no bag.")
                    out.write(piece)
        except zstandard.ZstdError as error:
            raise UserError(f"{file}: cannot be opened: {' '.join(str(error).split())}.") from error
        return unpacked


class _CompressedMessages:
    """A bag whose messages are compressed one by one."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, contents: Contents, topics: Collection[str] | None) -> Iterator[RawMessage]:
        for count, message in enumerate(self._storage.read(contents, topics)):
            limit = max(UNPACKED_LIMIT, UNPACKED_TIMES * len(message.cdr))
            try:
                cdr = _unpacked(b"zstd", message.cdr, limit)
            except _DAMAGES:
                contents.damage.append(f"cut off or damaged after {count} messages")
                return
            yield message._replace(cdr=cdr)


class _Mcap:
    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def read(self, contents: Contents, topics: Collection[str] | None) -> Iterator[RawMessage]:
        for file in self._files:
            yield from _McapFile(file, contents, topics).read()


class _McapFile:
    """One pass over one file."""

    def __init__(self, file: Path, contents: Contents, topics: Collection[str] | None) -> None:
        self._file, self._contents, self._topics = file, contents, topics
        self._types: dict[int, str] = {}
        self._channels: dict[int, tuple[str, str]] = {}
        self._wanted: dict[int, tuple[str, str]] = {}
        self._counts: Counter[int] = Counter()

    def read(self) -> Iterator[RawMessage]:
        complete = False
        with self._file.open("rb") as stream:
            try:
                checksum = self._magic(stream)
                for opcode, header, body in _records(stream):
                    if opcode == Opcode.CHUNK:
                        yield from self._messages(_chunk(body))
                    elif opcode == Opcode.MESSAGE:
                        yield from self._messages(header + body)
                    elif opcode == Opcode.DATA_END:
                        (expected,) = struct.unpack_from("<I", body)
                        if expected and expected != checksum:
                            raise ValueError("checksum of the data")
                        # What follows repeats what came before, in another order.
                        complete = _is_whole_summary(stream)
                        break
                    else:
                        self._note(opcode, body)
                    checksum = zlib.crc32(body, zlib.crc32(header, checksum))
            except _DAMAGES:
                self._damaged("cut off or damaged")
            else:
                if not complete:
                    self._damaged("cut off")
        for channel, count in self._counts.items():
            self._contents.counts[self._channels[channel]] += count

    def _damaged(self, how: str) -> None:
        if not self._channels and not self._contents.metadata:
            raise UserError(f"{self._file}: not an MCAP file, or cut off before its first record.")
        self._contents.damage.append(f"{how} after {sum(self._counts.values())} messages")

    def _magic(self, stream: BinaryIO) -> int:
        found = stream.read(len(_MAGIC))
        if found != _MAGIC and found[:5] == _MAGIC[:5] and found[6:] == _MAGIC[6:]:
            raise UserError(f"{self._file}: MCAP of version {chr(found[5])}; this version of rl_ros reads version 0.")
        if found != _MAGIC:
            raise ValueError("no magic")
        return zlib.crc32(found)

    def _messages(self, records: bytes) -> Iterator[RawMessage]:
        """The messages in consecutive records; the other records among them are noted."""
        offset, end = 0, len(records)
        unpack, counts = _MESSAGE.unpack_from, self._counts
        while offset < end:
            if records[offset] == Opcode.MESSAGE:
                _, length, channel, _, log_time, _ = unpack(records, offset)
                start, offset = offset + 31, offset + 9 + length
                if offset > end:
                    raise EOFError
                counts[channel] += 1
                found = self._wanted.get(channel)
                if found is not None:
                    yield RawMessage(found[0], found[1], log_time, records[start:offset])
                elif channel not in self._channels:
                    del counts[channel]
                    raise KeyError(channel)
            else:
                opcode, length = _RECORD.unpack_from(records, offset)
                self._note(opcode, records[offset + 9 : offset + 9 + length])
                offset += 9 + length

    def _note(self, opcode: int, body: bytes) -> None:
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(ReadDataStream(BytesIO(body)))
            self._types[schema.id] = schema.name
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(ReadDataStream(BytesIO(body)))
            self._channels[channel.id] = (channel.topic, self._types.get(channel.schema_id, ""))
            if self._topics is None or channel.topic in self._topics:
                self._wanted[channel.id] = self._channels[channel.id]
            profiles = channel.metadata.get("offered_qos_profiles")
            if profiles:
                # A list with an entry for each publisher that was there.
                self._contents.publishers[channel.topic] = len(re.findall(r"^- ", profiles, re.MULTILINE))
        elif opcode == Opcode.METADATA:
            metadata = Metadata.read(ReadDataStream(BytesIO(body)))
            if metadata.name == METADATA:
                self._contents.metadata = metadata.metadata
            elif metadata.name == OUTCOME:
                self._contents.outcome = metadata.metadata


def _records(stream: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
    """Opcode, header and body of each record."""
    while header := stream.read(_RECORD.size):
        opcode, length = _RECORD.unpack(header)
        if length > RECORD_SIZE_LIMIT:
            raise ValueError("a record of impossible size")
        body = stream.read(length)
        if len(body) < length:
            raise EOFError
        yield opcode, header, body


def _is_whole_summary(stream: BinaryIO) -> bool:
    """Whether the records after the data lead to a footer and the closing magic."""
    for opcode, _, _ in _records(stream):
        if opcode == Opcode.FOOTER:
            return stream.read(len(_MAGIC)) == _MAGIC
    return False


def _chunk(body: bytes) -> bytes:
    """The records in a chunk, decompressed and checked."""
    _, _, size, checksum, length = _CHUNK.unpack_from(body)
    begin = _CHUNK.size + length + 8
    compression, content = body[_CHUNK.size : _CHUNK.size + length], body[begin:]
    if size > min(RECORD_SIZE_LIMIT, max(UNPACKED_LIMIT, UNPACKED_TIMES * len(content))):
        raise ValueError("a chunk of impossible size")
    if compression:
        content = _unpacked(compression, content, size)
    if len(content) != size:
        raise ValueError("size of a chunk")
    if checksum and zlib.crc32(content) != checksum:
        raise ValueError("checksum of a chunk")
    return content


def _unpacked(compression: bytes, content: bytes, limit: int) -> bytes:
    """What was compressed; never more than `limit` bytes of it are made.

    Raises:
        ValueError: it would be more, or the compression is unknown.
    """
    if compression == b"zstd":
        # What the frame says of its size is believed only as far as it fits: the decompressor would allocate it.
        declared = zstandard.get_frame_parameters(content).content_size
        if declared in (0, zstandard.CONTENTSIZE_UNKNOWN):
            with zstandard.ZstdDecompressor().stream_reader(content) as stream:
                unpacked = stream.read(limit + 1)
        elif declared <= limit:
            unpacked = zstandard.decompress(content)
        else:
            raise ValueError("a compressed piece of impossible size")
    elif compression == b"lz4":
        unpacked = lz4.frame.LZ4FrameDecompressor().decompress(content, max_length=limit + 1)
    else:
        raise ValueError("an unknown compression")
    if len(unpacked) > limit:
        raise ValueError("a compressed piece that unpacks to too much")
    return unpacked
