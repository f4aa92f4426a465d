"""Writes MCAP without copying: a message's own bytes go to the file, and each byte is summed once.

The mcap library assembles a chunk in memory, copies it into a record and sums it twice, which for camera
images costs several times what writing them does. Its record classes are used for everything else.
"""

import struct
import zlib
from functools import cache
from typing import BinaryIO

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)
from mcap.writer import MCAP0_MAGIC

CHUNK_BYTES = 4 << 20
"""A chunk is ended beyond this size; what it holds is in memory until then."""

_MESSAGE = struct.Struct("<BQHIQQ")
"""Opcode, length, channel, sequence, log time, publish time; the data follow."""
_MESSAGE_FIELDS = _MESSAGE.size - 9
_CHUNK = struct.Struct("<BQQQQIIQ")
"""Opcode, length, first and last log time, size, CRC, length of the compression's name (none), size; records follow."""


class McapWriter:
    """One MCAP file of profile `ros2`, in chunks without compression, with every index and CRC.

    Args:
        stream: where it goes; buffered, and at its beginning.
        library: who wrote it, for the file's header.
    """

    _chunk_crc: int

    def __init__(self, stream: BinaryIO, library: str) -> None:
        self._stream = stream
        self._offset = 0
        self._crc = 0
        self._schemas: dict[str, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: dict[int, int] = {}
        self._metadata: list[MetadataIndex] = []
        self._chunks: list[ChunkIndex] = []
        self._pieces: list[bytes] = []
        self._reset_chunk()
        self._write(MCAP0_MAGIC)
        self._write_record(Header("ros2", library))

    def add_metadata(self, name: str, values: dict[str, str]) -> None:
        """Add a metadata record; ends the chunk that is open."""
        self.end_chunk()
        offset = self._offset
        self._write_record(Metadata(name=name, metadata=values))
        self._metadata.append(MetadataIndex(offset=offset, length=self._offset - offset, name=name))

    def add_topic(self, topic: str, message_type: str, definition: str, metadata: dict[str, str] | None = None) -> int:
        """Announce a topic of CDR messages with the `.msg` text of its type; returns its channel.

        Args:
            topic: its name.
            message_type: `package/msg/Name`.
            definition: the `.msg` text with all it contains.
            metadata: what else is known of the topic.
        """
        schema = self._schemas.get(message_type)
        if schema is None:
            schema = Schema(id=len(self._schemas) + 1, name=message_type, encoding="ros2msg", data=definition.encode())
            self._schemas[message_type] = schema
            self._write_record(schema)
        channel = Channel(len(self._channels) + 1, topic, "cdr", metadata or {}, schema.id)
        self._channels[channel.id] = channel
        self._counts[channel.id] = 0
        self._write_record(channel)
        return channel.id

    def add_message(self, channel: int, log_time: int, sequence: int, cdr: bytes) -> None:
        """Add one message to the open chunk; `log_time` in nanoseconds."""
        length = len(cdr)
        head = _MESSAGE.pack(Opcode.MESSAGE, _MESSAGE_FIELDS + length, channel, sequence, log_time, log_time)
        self._index.setdefault(channel, []).append((log_time, self._size))
        self._pieces += (head, cdr)
        self._size += _MESSAGE.size + length
        self._chunk_crc = zlib.crc32(cdr, zlib.crc32(head, self._chunk_crc))
        self._counts[channel] += 1
        if self._size > CHUNK_BYTES:
            self.end_chunk()

    def end_chunk(self) -> None:
        """Write the open chunk, if it holds anything."""
        if not self._pieces:
            return
        times = [entry[0] for entries in self._index.values() for entry in entries]
        first, last, size, start = min(times), max(times), self._size, self._offset
        self._write(_CHUNK.pack(Opcode.CHUNK, _CHUNK.size - 9 + size, first, last, size, self._chunk_crc, 0, size))
        self._stream.writelines(self._pieces)
        self._crc = joined_crc(self._crc, self._chunk_crc, size)
        self._offset += size
        chunk = ChunkIndex(self._offset - start, start, "", size, last, 0, {}, first, size)
        indexed = self._offset
        for channel, entries in self._index.items():
            chunk.message_index_offsets[channel] = self._offset
            self._write_record(MessageIndex(channel, entries))
        chunk.message_index_length = self._offset - indexed
        self._chunks.append(chunk)
        self._reset_chunk()

    def finish(self) -> None:
        """Write what makes the file complete. Does not close the stream."""
        self.end_chunk()
        self._write_record(DataEnd(self._crc))
        statistics = Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts={channel: count for channel, count in self._counts.items() if count},
            chunk_count=len(self._chunks),
            message_count=sum(self._counts.values()),
            message_end_time=max((chunk.message_end_time for chunk in self._chunks), default=0),
            message_start_time=min((chunk.message_start_time for chunk in self._chunks), default=0),
            metadata_count=len(self._metadata),
            schema_count=len(self._schemas),
        )
        groups: list[tuple[Opcode, list[McapRecord]]] = [
            (Opcode.SCHEMA, [*self._schemas.values()]),
            (Opcode.CHANNEL, [*self._channels.values()]),
            (Opcode.STATISTICS, [statistics]),
            (Opcode.CHUNK_INDEX, [*self._chunks]),
            (Opcode.METADATA_INDEX, [*self._metadata]),
        ]
        start = self._offset
        self._crc = 0  # from here on of the summary
        offsets = []
        for opcode, records in groups:
            group = self._offset
            for record in records:
                self._write_record(record)
            if records:
                offsets.append(SummaryOffset(opcode, group, self._offset - group))
        offsets_start = self._offset
        for offset in offsets:
            self._write_record(offset)
        # The summary's CRC includes the footer up to the CRC itself.
        footer = _bytes(Footer(start, offsets_start, 0))
        self._write_record(Footer(start, offsets_start, zlib.crc32(footer[:-4], self._crc)))
        self._write(MCAP0_MAGIC)

    def _reset_chunk(self) -> None:
        self._pieces.clear()
        self._size = 0
        self._chunk_crc = 0
        self._index: dict[int, list[tuple[int, int]]] = {}

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self._offset += len(data)

    def _write_record(self, record: McapRecord) -> None:
        self._write(_bytes(record))


def _bytes(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return builder.end()


def joined_crc(first: int, second: int, length: int) -> int:
    """The CRC-32 of two runs of bytes from the CRC-32 of each and the length of the second (as in zlib)."""
    power, shift = 3, 1 << 31  # x^0; lengths are in bytes, so begin at x^(2^3)
    while length:
        if length & 1:
            shift = _product(_power_of_two(power % 32), shift)
        length >>= 1
        power += 1
    return _product(shift, first) ^ second


def _product(a: int, b: int) -> int:
    """Of two polynomials over GF(2) modulo that of CRC-32, the highest bit being x^0."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (0xEDB88320 if b & 1 else 0)
    return product


@cache
def _power_of_two(n: int) -> int:
    """x^(2^n)."""
    return 1 << 30 if n == 0 else _product(_power_of_two(n - 1), _power_of_two(n - 1))
