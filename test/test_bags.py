"""Bags of other recorders: storages, compressions, splits, newer formats; and that nothing is loaded whole."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import START, Raw, episode_messages, small_contract
from mcap.well_known import Profile
from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as RosbagsWriter

from rl_ros.cli import main
from rl_ros.contract import Contract, Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.bags import Bag, RawMessage, find_bags, read_bag
from rl_ros.episodes.ingest import EVENTS, read_episode
from rl_ros.episodes.messages import TYPESTORE, definition
from rl_ros.episodes.record import EpisodeFile
from rl_ros.errors import UserError

TICKS = 6


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def types_of(contract: Contract) -> dict[str, str]:
    return {topic: recorded.type for topic, recorded in contract.recorded_topics().items()}


def write_foreign_mcap(
    path: Path,
    raw: list[Raw],
    types: dict[str, str],
    compression: CompressionType = CompressionType.NONE,
    chunked: bool = True,
    profiles: dict[str, str] | None = None,
) -> Path:
    """As another recorder writes it: no metadata of ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=2000, compression=compression, use_chunking=chunked)
        writer.start(profile=Profile.ROS2, library="another")
        channels = {}
        for topic, kind in types.items():
            schema = writer.register_schema(kind, "ros2msg", definition(kind)[0].encode())
            about = {"offered_qos_profiles": profiles[topic]} if profiles and topic in profiles else {}
            channels[topic] = writer.register_channel(topic, "cdr", schema, about)
        for topic, stamp, cdr in raw:
            writer.add_message(channels[topic], stamp, cdr, stamp)
        writer.finish()
    return path


def write_by_rosbags(
    path: Path, raw: list[Raw], types: dict[str, str], storage: StoragePlugin, mode: CompressionMode
) -> Path:
    writer = RosbagsWriter(path, version=9, storage_plugin=storage)
    if mode is not CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {topic: writer.add_connection(topic, kind, typestore=TYPESTORE) for topic, kind in types.items()}
        for topic, stamp, cdr in raw:
            writer.write(connections[topic], stamp, cdr)
    return path


def read(path: Path) -> list[tuple[str, str, int, bytes]]:
    return sorted(tuple(message) for message in read_bag(path))  # type: ignore[misc]


def expected(raw: list[Raw], types: dict[str, str]) -> list[tuple[str, str, int, bytes]]:
    return sorted((topic, types[topic], stamp, cdr) for topic, stamp, cdr in raw)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("compression", list(CompressionType))
def test_mcap_of_every_compression_gives_every_byte(
    tmp_path: Path, contract: Contract, compression: CompressionType, chunked: bool
) -> None:
    raw, types = episode_messages(contract, TICKS), types_of(contract)
    path = write_foreign_mcap(tmp_path / "bag" / "bag_0.mcap", raw, types, compression, chunked)
    assert read(path) == expected(raw, types)
    bag = read_bag(path.parent)
    assert (bag.damage, bag.metadata, bag.contract) == ("", {}, None)
    assert read_episode(bag, contract).has_transition.sum() == TICKS - 1


@pytest.mark.parametrize("mode", list(CompressionMode))
@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_bags_of_both_storages_and_every_compression_give_the_same_episode(
    tmp_path: Path, contract: Contract, storage: StoragePlugin, mode: CompressionMode
) -> None:
    if storage is StoragePlugin.SQLITE3 and mode is CompressionMode.STORAGE:
        pytest.skip("sqlite3 has no compression within the storage")
    raw, types = episode_messages(contract, TICKS), types_of(contract)
    path = write_by_rosbags(tmp_path / "bag", raw, types, storage, mode)
    assert find_bags(tmp_path) == [path]
    assert read(path) == expected(raw, types)
    bag = read_bag(path)
    assert bag.topics["/tool/pose"] == ("geometry_msgs/msg/PoseStamped", TICKS)
    assert bag.damage == ""
    episode = read_episode(bag, contract)
    assert episode.has_transition.sum() == TICKS - 1
    assert episode.observation["image"][:, 0, 0, 0].tolist() == list(range(TICKS))


def test_a_bag_split_into_files_is_read_as_one_in_their_order(tmp_path: Path, contract: Contract) -> None:
    raw, types = episode_messages(contract, 12), types_of(contract)
    parts = np.array_split(np.arange(len(raw)), 11)
    for number, part in enumerate(parts):  # 10 comes after 9, not after 1
        write_foreign_mcap(tmp_path / "bag" / f"bag_{number}.mcap", [raw[i] for i in part], types)
    assert find_bags(tmp_path) == [tmp_path / "bag"]
    bag = read_bag(tmp_path / "bag")
    assert [message.cdr for message in bag] == [cdr for _, _, cdr in raw]
    assert read_episode(bag, contract).has_transition.sum() == 11


def test_files_that_are_no_parts_of_one_bag_are_bags_of_their_own(tmp_path: Path, contract: Contract) -> None:
    raw, types = episode_messages(contract, 2), types_of(contract)
    files = [write_foreign_mcap(tmp_path / f"{name}.mcap", raw, types) for name in ("first", "second")]
    assert find_bags(tmp_path) == files
    with pytest.raises(UserError, match="found 2 that are no parts of one bag; name one of them"):
        read_bag(tmp_path)


def test_a_bag_is_a_stream_that_can_be_read_again_and_by_topic(tmp_path: Path, contract: Contract) -> None:
    raw, types = episode_messages(contract, TICKS), types_of(contract)
    bag = read_bag(write_foreign_mcap(tmp_path / "a.mcap", raw, types))
    assert next(iter(bag)).topic == raw[0][0]
    assert len(list(bag)) == len(list(bag)) == len(raw)
    poses = list(bag.read(["/tool/pose"]))
    assert {message.topic for message in poses} == {"/tool/pose"}
    assert len(poses) == TICKS
    assert sum(count for _, count in bag.topics.values()) == len(raw)


def large_bag(directory: Path) -> Path:
    """40 MB in chunks of half a megabyte."""
    path = directory / "large.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=1 << 19, compression=CompressionType.NONE)
        writer.start(profile=Profile.ROS2, library="another")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/large", "cdr", schema)
        for number in range(400):
            writer.add_message(channel, number, bytes(100_000), number)
        writer.finish()
    return path


def test_reading_a_bag_needs_the_memory_of_a_chunk(tmp_path: Path) -> None:
    path = large_bag(tmp_path)
    tracemalloc.start()
    count = sum(1 for _ in read_bag(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < path.stat().st_size / 8


def test_an_episode_too_large_for_memory_is_the_same_from_a_file(
    tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, types = episode_messages(contract, 250), types_of(contract)
    bag = read_bag(write_foreign_mcap(tmp_path / "a.mcap", raw, types))
    within = read_episode(bag, contract)
    monkeypatch.setattr("rl_ros.episodes.ingest.IN_MEMORY", 1000)
    monkeypatch.setattr("rl_ros.episodes.ingest.BLOCK", 40)
    without = read_episode(bag, contract)
    assert len(without.stamps) == 250
    np.testing.assert_array_equal(without.observation["image"], within.observation["image"])
    np.testing.assert_array_equal(without.action, within.action)


def metadata_of_version(version: int) -> str:
    return json.dumps({"rosbag2_bagfile_information": {"version": version, "topics_with_message_count": []}})


def test_bags_of_newer_formats_are_refused_with_both_versions(tmp_path: Path, contract: Contract) -> None:
    raw, types = episode_messages(contract, 1), types_of(contract)
    file = write_foreign_mcap(tmp_path / "bag" / "bag_0.mcap", raw, types)
    (file.parent / "metadata.yaml").write_text(metadata_of_version(10))
    with pytest.raises(UserError, match=r"bag: a bag of rosbag2 format 10; this version of rl_ros reads up to 9\.$"):
        read_bag(file.parent)
    (file.parent / "metadata.yaml").write_text(metadata_of_version(9))
    assert len(read_bag(file.parent).messages) == len(raw)
    content = bytearray(file.read_bytes())
    content[5:6] = b"1"
    file.write_bytes(content)
    with pytest.raises(UserError, match="MCAP of version 1; this version of rl_ros reads version 0"):
        read_bag(file)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: bytes(len(content))],
)
def test_a_damaged_database_is_one_sentence_or_gives_what_is_left(
    tmp_path: Path, contract: Contract, damage: Callable[[bytes], bytes]
) -> None:
    raw, types = episode_messages(contract, 50), types_of(contract)
    path = write_by_rosbags(tmp_path / "bag", raw, types, StoragePlugin.SQLITE3, CompressionMode.NONE)
    file = next(path.glob("*.db3"))
    file.write_bytes(damage(file.read_bytes()))
    try:
        bag = read_bag(path)
        found = list(bag)
    except UserError as error:
        assert str(file) in str(error) or str(path) in str(error)
        return
    assert bag.damage
    assert {message.cdr for message in found} <= {cdr for _, _, cdr in raw}


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What `rl_ros info` says of a bag, by the name of the row."""
    assert main(["info", str(path)]) == 0
    rows = (line.split("\u2502") for line in capsys.readouterr().out.splitlines() if line.startswith("\u2502"))
    return {row[1].strip(): row[-2].strip() for row in rows}


def test_info_of_a_bag_of_one_episode_and_of_several(
    tmp_path: Path, contract: Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = {"contract": contract.to_yaml()}
    one = EpisodeFile(tmp_path, "one", contract.recorded_topics(), metadata)
    several = EpisodeFile(tmp_path, "several", types_with_events(contract), metadata)
    for number in range(3):
        start = START + number * 10**10
        values = {"episode": str(number), "seed": "0", "outcome": "success"}
        several.write(EVENTS, start, messages.status_cdr(start - 1, "start", "", values))
        for topic, stamp, cdr in episode_messages(contract, TICKS, start):
            several.write(topic, stamp, cdr)
            if not number:
                one.write(topic, stamp, cdr)
        several.write(EVENTS, stamp, messages.status_cdr(stamp, "end", "", values))
    one.close({})
    several.close({})
    said = info(tmp_path / "one", capsys)
    assert "episodes" not in said
    assert (said["ticks"], said["transitions"], said["return"], said["duration"]) == ("6", "5", "7.5", "0.50 s")
    said = info(tmp_path / "several", capsys)
    assert (said["episodes"], said["ticks"], said["transitions"], said["return"]) == ("3", "18", "15", "22.5")
    assert (said["duration"], said["/tool/pose"]) == ("20.50 s", "18")


def types_with_events(contract: Contract) -> dict[str, Recorded]:
    return contract.recorded_topics() | {EVENTS: Recorded("diagnostic_msgs/msg/DiagnosticArray")}


def test_info_needs_the_memory_of_a_chunk(tmp_path: Path) -> None:
    path = large_bag(tmp_path)
    tracemalloc.start()
    assert main(["info", str(path)]) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_two_publishers_on_one_topic_are_named_where_the_recorder_wrote_it_down(
    tmp_path: Path, contract: Contract
) -> None:
    raw, types = episode_messages(contract, TICKS), types_of(contract)
    profile = "- history: 1\n  depth: 10\n"
    profiles = {"/joint_states": profile * 2, "/tool/pose": profile}
    bag = read_bag(write_foreign_mcap(tmp_path / "a.mcap", raw, types, profiles=profiles))
    episode = read_episode(bag, contract)
    assert episode.problems == ("/joint_states has 2 publishers, whose messages are mixed",)


def test_messages_in_memory_are_a_bag_too() -> None:
    message = RawMessage("/a", "std_msgs/msg/Bool", START, messages.encode("std_msgs/msg/Bool", _bool()))
    bag = Bag(Path("here"), [message])
    assert bag.messages == [message]
    assert bag.topics == {"/a": ("std_msgs/msg/Bool", 1)}


def _bool() -> object:
    return messages.message("std_msgs/msg/Bool", data=True)
