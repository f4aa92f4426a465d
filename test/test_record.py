"""Bags: what the recorder writes, when it is on disk, who can read it, and what is left of a damaged one."""

import dataclasses
import io
import json
import os
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import PERIOD, START, Raw, episode_messages, goal_message, small_contract, tick_messages, wait_for
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.records import Chunk, Message
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.highlevel import AnyReader

from rl_ros.contract import Contract, Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.bags import Bag, find_bags, mcap_file, read_bag
from rl_ros.episodes.record import EpisodeFile, EpisodeRecorder, FinishedEpisode
from rl_ros.errors import UserError

TICKS = 5
END = START + (TICKS - 1) * PERIOD


@pytest.fixture
def contract() -> Contract:
    return small_contract()


def receive_all(recorder: EpisodeRecorder, raw: list[Raw]) -> None:
    for topic, stamp, cdr in raw:
        recorder.receive(topic, stamp, stamp, cdr)


def await_finished(recorder: EpisodeRecorder, count: int = 1) -> list[FinishedEpisode]:
    done: list[FinishedEpisode] = []
    assert wait_for(lambda: done.extend(recorder.finished()) or len(done) >= count)
    return done


def sent(raw: list[Raw]) -> Counter[tuple[str, bytes]]:
    return Counter((topic, cdr) for topic, _, cdr in raw)


def held(bag: Bag) -> Counter[tuple[str, bytes]]:
    return Counter((message.topic, message.cdr) for message in bag.messages)


def whole_episode(contract: Contract, start: int = START) -> list[Raw]:
    """As it reaches a recorder: the goal is stamped within the episode."""
    topic, _, cdr = goal_message(contract, start + 1)
    return [(topic, start, cdr), *episode_messages(contract, TICKS, start)[1:]]


def stopped_in_the_middle(directory: Path, contract: Contract, *late: Raw) -> FinishedEpisode:
    """An episode that is going on when the recorder is closed; what is late comes at its last tick."""
    recorder = EpisodeRecorder(directory, contract)
    recorder.begin(0, START, {})
    receive_all(recorder, whole_episode(contract)[:-3])
    for topic, stamp, cdr in late:
        recorder.receive(topic, stamp, END, cdr)
    [finished] = recorder.close()
    return finished


def record_one(directory: Path, contract: Contract, raw: list[Raw], patience: float = 2.0) -> FinishedEpisode:
    recorder = EpisodeRecorder(directory, contract, patience=patience)
    recorder.begin(3, START, {"seed": "17"})
    receive_all(recorder, raw)
    recorder.end(3, END, "success")
    finished = await_finished(recorder)[0]
    assert recorder.close() == []
    return finished


def test_a_bag_holds_every_byte_of_its_episode_and_what_is_known_of_it(tmp_path: Path, contract: Contract) -> None:
    raw = whole_episode(contract)
    finished = record_one(tmp_path, contract, raw)
    assert finished == FinishedEpisode(3, tmp_path / "episode_000003", ())
    bag = read_bag(finished.path)
    assert held(bag) == sent(raw)
    assert bag.damage == ""
    assert bag.contract == contract
    assert bag.metadata["seed"] == "17"
    assert (bag.metadata["start"], bag.outcome["end"]) == (str(START), str(END))
    assert (bag.outcome["outcome"], bag.outcome["episode"], bag.outcome["seed"]) == ("success", "3", "17")
    assert bag.missing == []
    counts = {topic: count for topic, (_, count) in bag.topics.items()}
    told = json.loads(bag.outcome["topics"])
    assert {topic: each["count"] for topic, each in told.items() if each["count"]} == counts
    assert told["/tool/pose"] == {"count": TICKS, "rate": 10.0, "worst_gap": 0.1, "lost": 0}
    assert json.loads(bag.outcome["faults"]) == []
    assert {message.type for message in bag.messages} == {r.type for r in contract.recorded_topics().values()}
    assert [path.name for path in tmp_path.iterdir()] == ["episode_000003"]


def test_messages_that_come_before_their_episode_is_announced_are_kept(tmp_path: Path, contract: Contract) -> None:
    raw = whole_episode(contract)
    recorder = EpisodeRecorder(tmp_path, contract)
    receive_all(recorder, raw[:20])
    recorder.begin(0, START, {})
    receive_all(recorder, raw[20:])
    recorder.end(0, END, "success")
    assert held(read_bag(await_finished(recorder)[0].path)) == sent(raw)
    recorder.close()


def test_messages_of_before_the_episode_and_of_after_it_stay_out(tmp_path: Path, contract: Contract) -> None:
    raw = whole_episode(contract)
    before = episode_messages(contract, 2, START - 5 * PERIOD)
    after = tick_messages(contract, 0, 9, END + PERIOD)
    recorder = EpisodeRecorder(tmp_path, contract)
    receive_all(recorder, before)
    recorder.begin(0, START, {})
    receive_all(recorder, [*before, *raw[:-1]])
    recorder.end(0, END, "success")
    receive_all(recorder, [*after, raw[-1]])
    assert held(read_bag(await_finished(recorder)[0].path)) == sent(raw)
    recorder.close()


@pytest.mark.parametrize(("outcome", "explained"), [("fault", True), ("success", False)])
def test_what_explains_a_fault_is_in_its_bag_although_it_comes_after_the_last_observation(
    tmp_path: Path, contract: Contract, outcome: str, explained: bool
) -> None:
    status = Recorded("diagnostic_msgs/msg/DiagnosticArray")
    contract = dataclasses.replace(contract, record={"/arm_guard/state": status, "/episode/event": status})
    *most, last = whole_episode(contract)
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(0, START, {})
    receive_all(recorder, most)
    recorder.end(0, END, outcome)
    later = END + 2 * PERIOD
    state = ("/arm_guard/state", later, messages.status_cdr(later, "watchdog", "", {}))
    event = ("/episode/event", later, messages.status_cdr(later, "start", "", {}))  # of the next episode
    receive_all(recorder, [state, event, last])
    found = {message.topic for message in read_bag(await_finished(recorder)[0].path)}
    assert ("/arm_guard/state" in found) == explained
    assert "/episode/event" not in found
    recorder.close()


def test_messages_that_arrive_after_the_end_was_announced_are_kept(tmp_path: Path, contract: Contract) -> None:
    raw = whole_episode(contract)
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(0, START, {})
    recorder.end(0, END, "success")
    receive_all(recorder, raw)
    finished = await_finished(recorder)[0]
    assert finished.missing == ()
    assert held(read_bag(finished.path)) == sent(raw)
    recorder.close()


def test_an_episode_is_not_closed_before_every_topic_has_passed_its_end(tmp_path: Path, contract: Contract) -> None:
    *most, last = whole_episode(contract)
    recorder = EpisodeRecorder(tmp_path, contract, patience=1000.0)
    recorder.begin(0, START, {})
    receive_all(recorder, most)
    recorder.end(0, END, "success")
    # The next episode's chunk on disk says that the writer has been past the end of this one.
    recorder.begin(1, END + PERIOD, {})
    assert wait_for(lambda: (tmp_path / "episode_000001.unfinished").exists())
    assert recorder.finished() == []
    assert (tmp_path / "episode_000000.unfinished").exists()
    receive_all(recorder, [last])
    assert await_finished(recorder)[0].missing == ()
    recorder.close()


def test_a_topic_that_lags_too_long_is_named_and_the_rest_is_kept(tmp_path: Path, contract: Contract) -> None:
    raw = [r for r in whole_episode(contract) if r[0] != "/tool/pose" or r[1] < END]
    finished = record_one(tmp_path, contract, raw, patience=0.05)
    assert finished.missing == ("/tool/pose",)
    bag = read_bag(finished.path)
    assert bag.missing == ["/tool/pose"]
    assert held(bag) == sent(raw)


def test_a_topic_that_is_silent_at_the_end_is_named_and_what_it_lacks_is_counted(
    tmp_path: Path, contract: Contract
) -> None:
    raw = [r for r in whole_episode(contract) if r[0] != "/tool/pose" or r[1] < END - PERIOD]
    finished = record_one(tmp_path, contract, raw, patience=0.05)
    assert finished.lost == {"/tool/pose": 2}
    told = json.loads(read_bag(finished.path).outcome["faults"])
    assert told == [
        "/tool/pose: 2 of 5 messages were lost",
        "/tool/pose: nothing in the last 0.2 s of the episode",
    ]


def test_a_topic_that_goes_on_after_the_end_has_lost_what_it_lacks_before(tmp_path: Path, contract: Contract) -> None:
    raw = [r for r in whole_episode(contract) if r[0] != "/tool/pose" or r[1] < END - PERIOD]
    recorder = EpisodeRecorder(tmp_path, contract, patience=1000.0)
    recorder.begin(0, START, {})
    receive_all(recorder, raw)
    recorder.end(0, END, "success")
    receive_all(recorder, tick_messages(contract, 0, 9, END + PERIOD))
    finished = await_finished(recorder)[0]
    assert (finished.missing, finished.lost) == ((), {"/tool/pose": 2})
    recorder.close()


def test_a_topic_that_never_began_has_lost_every_tick(tmp_path: Path, contract: Contract) -> None:
    raw = [r for r in whole_episode(contract) if r[0] != "/tool/pose"]
    assert record_one(tmp_path, contract, raw, patience=0.05).lost == {"/tool/pose": TICKS}


def test_a_topic_that_began_late_is_named(tmp_path: Path, contract: Contract) -> None:
    raw = [r for r in whole_episode(contract) if r[0] != "/tool/pose" or r[1] > START + PERIOD]
    assert record_one(tmp_path, contract, raw, patience=1000.0).missing == ("/tool/pose",)


def test_a_topic_without_a_message_for_every_tick_is_not_waited_for(tmp_path: Path, contract: Contract) -> None:
    raw = [r for r in whole_episode(contract) if r[0] != contract.goal.desired_goal.topic]
    assert record_one(tmp_path, contract, raw, patience=1000.0).missing == ()


def test_episodes_that_overlap_in_arrival_are_told_apart_by_stamp(tmp_path: Path, contract: Contract) -> None:
    second_start = END + PERIOD
    first, second = whole_episode(contract), whole_episode(contract, second_start)
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(0, START, {})
    receive_all(recorder, first[:-10])
    recorder.end(0, END, "success")
    receive_all(recorder, second[:10])
    recorder.begin(1, second_start, {})
    mixed = [raw for pair in zip(first[-10:], second[10:20], strict=True) for raw in pair]
    receive_all(recorder, mixed + second[20:])
    recorder.end(1, second_start + (TICKS - 1) * PERIOD, "timeout")
    finished = await_finished(recorder, 2)
    assert [(each.number, each.missing) for each in finished] == [(0, ()), (1, ())]
    bags = [read_bag(each.path) for each in finished]
    assert [held(bag) for bag in bags] == [sent(first), sent(second)]
    assert [bag.outcome["outcome"] for bag in bags] == ["success", "timeout"]
    recorder.close()


def test_closing_in_the_middle_of_an_episode_keeps_it_as_ended_by_the_operator(
    tmp_path: Path, contract: Contract
) -> None:
    finished = stopped_in_the_middle(tmp_path, contract)
    assert finished.number == 0
    assert finished.lost == {}
    bag = read_bag(finished.path)
    assert bag.outcome["outcome"] == "operator"
    assert bag.outcome["end"] == str(END)
    assert held(bag) == sent(whole_episode(contract)[:-3])
    assert bag.damage == ""


def test_a_goal_by_another_clock_does_not_move_the_end_of_an_episode_that_is_stopped(
    tmp_path: Path, contract: Contract
) -> None:
    other_clock = 1_795_000_000_000_000_000
    topic, _, cdr = goal_message(contract, other_clock)
    finished = stopped_in_the_middle(tmp_path, contract, (topic, other_clock, cdr))
    assert finished.lost == {}
    assert read_bag(finished.path).outcome["end"] == str(END)


def test_what_waits_for_an_episode_is_bounded_and_the_newest_is_kept(tmp_path: Path, contract: Contract) -> None:
    raw = [("/object/pose", START + number, bytes(1000)) for number in range(100)]
    recorder = EpisodeRecorder(tmp_path, contract, waiting_bytes=10_000)
    receive_all(recorder, raw)
    recorder.begin(0, START, {})
    finished = recorder.close()
    assert [message.log_time for message in read_bag(finished[0].path).messages] == [START + n for n in range(90, 100)]


def test_what_cannot_be_written_is_told(tmp_path: Path, contract: Contract) -> None:
    recorder = EpisodeRecorder(tmp_path / "bags", contract)
    (tmp_path / "bags").rmdir()
    (tmp_path / "bags").touch()
    recorder.begin(0, START, {})

    def failed() -> bool:
        try:
            recorder.finished()
        except OSError:
            return True
        return False

    assert wait_for(failed)


def complete_messages(file: Path) -> int:
    """Messages in the complete chunks of a file, as the mcap library alone reads them."""
    count = 0
    try:
        for record in StreamReader(io.BytesIO(file.read_bytes()), emit_chunks=True).records:
            if isinstance(record, Chunk):
                count += sum(isinstance(each, Message) for each in breakup_chunk(record))
    except (McapError, struct.error):
        return count  # the end of a file that is not whole
    return count


def test_within_200_ms_a_message_is_on_disk_and_can_be_read(tmp_path: Path, contract: Contract) -> None:
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(0, START, {})
    file = tmp_path / "episode_000000.unfinished" / "episode_000000_0.mcap"
    waited = []
    for number, (topic, stamp, cdr) in enumerate(whole_episode(contract)[:8], start=1):
        began = time.monotonic()
        recorder.receive(topic, stamp, stamp, cdr)
        assert wait_for(lambda number=number: file.exists() and complete_messages(file) == number)  # type: ignore[misc]
        waited.append(time.monotonic() - began)
    # The best of several: a busy machine delays some, but no machine makes it faster.
    assert min(waited) < 0.2
    bag = read_bag(file)
    assert len(bag.messages) == 8
    assert bag.damage == "cut off after 8 messages" or bag.damage.startswith("cut off or damaged after 8")
    assert bag.contract == contract
    assert bag.outcome == {}
    recorder.close()


def test_an_unfinished_bag_is_not_found_among_the_complete_ones(tmp_path: Path, contract: Contract) -> None:
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(0, START, {})
    assert wait_for(lambda: list(tmp_path.rglob("*.mcap")))
    with pytest.raises(UserError, match="holds no bag"):
        find_bags(tmp_path)
    recorder.close()
    assert find_bags(tmp_path) == [tmp_path / "episode_000000"]


def test_rosbags_reads_a_bag_with_all_its_types(tmp_path: Path, contract: Contract) -> None:
    raw = whole_episode(contract)
    path = record_one(tmp_path, contract, raw).path
    with AnyReader([path]) as reader:
        read = Counter((connection.topic, bytes(cdr)) for connection, _, cdr in reader.messages())
        assert read == sent(raw)
        assert {c.topic: c.msgtype for c in reader.connections} == {
            topic: recorded.type for topic, recorded in contract.recorded_topics().items()
        }
        assert reader.message_count == len(raw)
        assert (reader.start_time, reader.end_time) == (START, END + 1)
        images = [
            reader.deserialize(cdr, connection.msgtype).data[0]
            for connection, _, cdr in reader.messages()
            if connection.topic == "/camera/image_raw"
        ]
    assert images == list(range(TICKS))


def test_the_mcap_library_reads_a_bag_through_its_index(tmp_path: Path, contract: Contract) -> None:
    raw = whole_episode(contract)
    path = record_one(tmp_path, contract, raw).path
    with mcap_file(path).open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == len(raw)
        assert summary.chunk_indexes
        assert reader.get_header().profile == "ros2"
        poses = [message.log_time for _, _, message in reader.iter_messages(["/tool/pose"])]
        assert poses == [START + tick * PERIOD for tick in range(TICKS)]
        assert {metadata.name for metadata in reader.iter_metadata()} == {"rl_ros", "rl_ros/outcome"}


def test_the_metadata_beside_the_bag_is_that_of_rosbag2(tmp_path: Path, contract: Contract) -> None:
    raw = whole_episode(contract)
    path = record_one(tmp_path, contract, raw).path
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["storage_identifier"] == "mcap"
    assert information["message_count"] == len(raw)
    assert information["duration"]["nanoseconds"] == END - START
    assert information["starting_time"]["nanoseconds_since_epoch"] == START
    assert information["relative_file_paths"] == [mcap_file(path).name]
    counts = {
        each["topic_metadata"]["name"]: each["message_count"] for each in information["topics_with_message_count"]
    }
    assert counts == Counter({topic: 0 for topic in contract.recorded_topics()}) + Counter(r[0] for r in raw)
    assert information["custom_data"] == {"outcome": "success", "episode": "3", "seed": "17"}


def test_the_metadata_has_the_fields_that_rosbag2_reads_in_version_9(tmp_path: Path, contract: Contract) -> None:
    path = record_one(tmp_path, contract, whole_episode(contract)).path
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert {name: type(value) for name, value in information.items()} == {
        "version": int,
        "storage_identifier": str,
        "duration": dict,
        "starting_time": dict,
        "message_count": int,
        "topics_with_message_count": list,
        "compression_format": str,
        "compression_mode": str,
        "relative_file_paths": list,
        "files": list,
        "custom_data": dict,
        "ros_distro": str,
    }
    assert information["version"] == 9
    (file,) = information["files"]
    assert set(file) == {"path", "starting_time", "duration", "message_count"}
    assert {type(value) for value in information["custom_data"].values()} == {str}
    without_end = {"sec": 9223372036, "nsec": 854775807}  # rmw's infinite duration
    for each in information["topics_with_message_count"]:
        told = each["topic_metadata"]
        assert set(told) == {
            "name",
            "type",
            "serialization_format",
            "offered_qos_profiles",
            "type_description_hash",
        }
        assert told["serialization_format"] == "cdr"
        assert told["type_description_hash"] == messages.definition(told["type"])[1]
        (profile,) = told["offered_qos_profiles"]
        assert (
            profile.items()
            >= {
                "history": "keep_last",
                "deadline": without_end,
                "lifespan": without_end,
                "liveliness": "automatic",
                "liveliness_lease_duration": without_end,
                "avoid_ros_namespace_conventions": False,
            }.items()
        )
        assert set(profile) - {"depth", "reliability", "durability"} == {
            "history",
            "deadline",
            "lifespan",
            "liveliness",
            "liveliness_lease_duration",
            "avoid_ros_namespace_conventions",
        }


def profiles_of(path: Path) -> dict[str, tuple[str, str, int]]:
    """Reliability, durability and depth by topic, as rosbags reads them."""
    with AnyReader([path]) as reader:
        return {
            connection.topic: (offered.reliability.name, offered.durability.name, offered.depth)
            for connection in reader.connections
            for offered in connection.ext.offered_qos_profiles  # type: ignore[union-attr]
        }


@pytest.mark.parametrize("real_time", [True, False])
def test_a_bag_says_how_its_topics_were_offered_so_that_they_are_replayed_so(
    tmp_path: Path, contract: Contract, real_time: bool
) -> None:
    contract = dataclasses.replace(contract, record={"/somebody/else": Recorded("std_msgs/msg/String")})
    recorder = EpisodeRecorder(tmp_path, contract, real_time=real_time)
    recorder.begin(3, START, {})
    path = recorder.close()[0].path
    offered = profiles_of(path)
    assert "/somebody/else" not in offered  # nothing is known of it, so that a player takes its default
    if real_time:
        assert offered["/camera/image_raw"] == ("BEST_EFFORT", "VOLATILE", 5)
        assert offered["/joint_states"] == ("RELIABLE", "VOLATILE", 10)
        # A goal that was announced once reaches who joins the replay late, as it did live.
        assert offered["/goal/latent"] == ("RELIABLE", "TRANSIENT_LOCAL", 1)
    else:
        assert set(offered.values()) == {("RELIABLE", "TRANSIENT_LOCAL", 64)} | {offered["/goal/latent"]}
    # The file alone says the same: rosbag2 asks its channels where there is no metadata.yaml.
    (path / "metadata.yaml").unlink()
    with mcap_file(path).open("rb") as stream:
        summary = make_reader(stream, validate_crcs=True).get_summary()
    assert summary is not None
    told = {channel.topic: channel.metadata for channel in summary.channels.values()}
    for topic, recorded in contract.recorded_topics().items():
        assert told[topic]["topic_type_hash"] == messages.definition(recorded.type)[1]
        profiles = yaml.safe_load(told[topic]["offered_qos_profiles"]) or []
        assert [(p["reliability"].upper(), p["durability"].upper(), p["depth"]) for p in profiles] == (
            [offered[topic]] if topic in offered else []
        )


def test_an_episode_without_a_message_is_a_whole_bag(tmp_path: Path, contract: Contract) -> None:
    recorder = EpisodeRecorder(tmp_path, contract)
    recorder.begin(0, START, {})
    bag = read_bag(recorder.close()[0].path)
    assert (bag.messages, bag.damage, bag.outcome["outcome"]) == ([], "", "operator")


def small_bag(directory: Path) -> tuple[bytes, list[bytes]]:
    """A small bag of three chunks, and the CDR bytes it holds."""
    topics = {"/a": Recorded("geometry_msgs/msg/PoseStamped"), "/b": Recorded("std_msgs/msg/Bool")}
    file = EpisodeFile(directory, "bag", topics, {"seed": "1"})
    written = []
    for number in range(9):
        cdr = messages.pose_cdr(START + number, "base", [number, 0.0, 0.0])
        file.write("/a", START + number, cdr)
        written.append(cdr)
        if number % 3 == 2:
            file.flush()
    return mcap_file(file.close({"outcome": "success"})).read_bytes(), written


def test_a_bag_cut_off_anywhere_gives_every_complete_chunk_and_says_that_it_is_cut(tmp_path: Path) -> None:
    whole, written = small_bag(tmp_path)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole)
    assert [message.cdr for message in read_bag(cut).messages] == written
    assert read_bag(cut).damage == ""
    with cut.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    ends = [index.chunk_start_offset + index.chunk_length for index in summary.chunk_indexes]
    counts, refused = [], []
    for length in range(len(whole) - 1, 0, -1):
        os.truncate(cut, length)
        try:
            bag = read_bag(cut)
        except UserError:
            refused.append(length)
            continue
        assert [message.cdr for message in bag.messages] == written[: len(bag.messages)]
        assert len(bag.messages) == 3 * sum(end <= length for end in ends)
        assert bag.damage
        assert bag.metadata == {"seed": "1"}
        counts.append(len(bag.messages))
    assert max(refused) < 200  # only where nothing is left to tell
    assert len(refused) + len(counts) == len(whole) - 1
    assert counts == sorted(counts, reverse=True)
    assert set(counts) == {0, 3, 6, 9}


def test_a_flipped_bit_never_goes_unnoticed_or_crashes(tmp_path: Path) -> None:
    whole, written = small_bag(tmp_path)
    data_end = whole.index(b"\x0f" + (4).to_bytes(8, "little"))
    damaged_file = tmp_path / "damaged.mcap"
    rng = np.random.default_rng(0)
    for position in rng.choice(data_end, 500, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(0, 8))
        damaged_file.write_bytes(damaged)
        try:
            bag = read_bag(damaged_file)
        except UserError:
            continue
        assert bag.damage, f"a flipped bit at byte {position} of {data_end} went unnoticed"
        assert all(message.cdr in written for message in bag.messages)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty; delete the bag"),
        (b"#ROSBAG V2.0\n", "not an MCAP file"),
        (b"\x89MCAP0\r\n", "not an MCAP file, or cut off before its first record"),
        (bytes(1000), "not an MCAP file"),
    ],
)
def test_a_file_that_is_no_bag_is_named_with_the_reason(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "other.mcap"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: {sentence}"):
        read_bag(path)


def test_a_directory_that_is_no_bag_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such bag; give a directory"):
        read_bag(tmp_path / "missing")
    with pytest.raises(UserError, match=r"expected one .mcap file in it, found 0"):
        read_bag(tmp_path)
    for name in ("a.mcap", "b.mcap"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"expected one .mcap file in it, found 2"):
        read_bag(tmp_path)


def test_bags_are_found_below_a_directory_in_order(tmp_path: Path) -> None:
    for name in ("b/episode_2", "a/episode_10", "a/episode_02"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.mcap").touch()
    expected = [tmp_path / "a" / "episode_02", tmp_path / "a" / "episode_10", tmp_path / "b" / "episode_2"]
    assert find_bags(tmp_path) == expected
    assert find_bags(expected[0]) == [expected[0]]
    assert find_bags(expected[0] / "x.mcap") == [expected[0] / "x.mcap"]
    with pytest.raises(UserError, match="no such directory"):
        find_bags(tmp_path / "missing")
