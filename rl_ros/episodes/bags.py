"""Reads one episode's bag: what it says of itself, and its raw messages."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mcap.exceptions import McapError
from mcap.records import Channel, Footer, Message, Metadata, Schema
from mcap.stream_reader import StreamReader

from rl_ros.contract import Contract
from rl_ros.episodes.record import METADATA, OUTCOME, UNFINISHED
from rl_ros.errors import UserError

RECORD_SIZE_LIMIT = 1 << 30


class RawMessage(NamedTuple):
    """One message as it travelled."""

    topic: str
    type: str
    log_time: int
    """Nanoseconds."""
    cdr: bytes


@dataclass
class Bag:
    """One bag, read whole: its messages in file order and what was written about it.

    A truncated bag gives every complete chunk, and says so in `damage`.
    """

    path: Path
    messages: list[RawMessage] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    """The contract, seed and versions it was recorded with; empty for bags of other recorders."""
    outcome: dict[str, str] = field(default_factory=dict)
    """How the episode ended; empty if the recorder never got so far."""
    damage: str = ""
    """What is wrong with the file, empty if nothing is."""

    @property
    def contract(self) -> Contract | None:
        """The contract embedded in the bag, if there is one."""
        text = self.metadata.get("contract")
        return Contract.from_yaml(text, f"the contract in {self.path}") if text else None

    @property
    def topics(self) -> dict[str, tuple[str, int]]:
        """Type and number of messages by topic."""
        topics: dict[str, tuple[str, int]] = {}
        for message in self.messages:
            topics[message.topic] = (message.type, topics.get(message.topic, ("", 0))[1] + 1)
        return topics

    @property
    def missing(self) -> list[str]:
        """Topics that the recorder knew to be incomplete."""
        return list(json.loads(self.outcome.get("missing", "[]")))


def mcap_file(path: Path) -> Path:
    """The MCAP file of a bag given as a directory or as the file itself.

    Raises:
        UserError: there is none, or there are several.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{path}: no such bag; give a directory that holds one .mcap file, or the file.")
    files = sorted(path.glob("*.mcap"))
    if len(files) != 1:
        raise UserError(f"{path}: expected one .mcap file in it, found {len(files)}.")
    return files[0]


def find_bags(directory: Path) -> list[Path]:
    """The complete bags under a directory, sorted by name; a bag itself counts as one.

    Raises:
        UserError: the directory does not exist or holds no bag.
    """
    if not directory.exists():
        raise UserError(f"{directory}: no such directory; record bags with `rl_ros collect`.")
    if directory.is_file() or any(directory.glob("*.mcap")):
        return [directory]
    found = sorted({p.parent for p in directory.rglob("*.mcap") if not p.parent.name.endswith(UNFINISHED)})
    if not found:
        raise UserError(f"{directory}: holds no bag (a directory with an .mcap file); record with `rl_ros collect`.")
    return found


def read_bag(path: Path) -> Bag:
    """Read a bag as far as it is whole.

    Raises:
        UserError: the file is empty or no MCAP at all.
    """
    file = mcap_file(path)
    bag = Bag(path)
    if file.stat().st_size == 0:
        raise UserError(f"{file}: the file is empty; delete the bag.")
    channels: dict[int, tuple[str, str]] = {}
    schemas: dict[int, str] = {}
    footer = False
    with file.open("rb") as stream:
        try:
            reader = StreamReader(stream, validate_crcs=True, record_size_limit=RECORD_SIZE_LIMIT)
            for record in reader.records:
                if isinstance(record, Message):
                    topic, message_type = channels[record.channel_id]
                    bag.messages.append(RawMessage(topic, message_type, record.log_time, record.data))
                elif isinstance(record, Schema):
                    schemas[record.id] = record.name
                elif isinstance(record, Channel):
                    channels[record.id] = (record.topic, schemas.get(record.schema_id, ""))
                elif isinstance(record, Metadata) and record.name == METADATA:
                    bag.metadata = record.metadata
                elif isinstance(record, Metadata) and record.name == OUTCOME:
                    bag.outcome = record.metadata
                elif isinstance(record, Footer):
                    footer = True
        except (McapError, EOFError, struct.error, KeyError, ValueError, OverflowError, MemoryError) as error:
            if not channels and not bag.metadata:
                raise UserError(f"{file}: not an MCAP file, or cut off before its first record.") from error
            bag.damage = f"cut off or damaged after {len(bag.messages)} messages"
    if not footer and not bag.damage:
        bag.damage = f"cut off after {len(bag.messages)} messages"
    return bag
