"""What is written without the mcap library, the mcap library reads."""

import io
import zlib

import numpy as np
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader

from rl_ros.episodes.mcap_writer import McapWriter, joined_crc


def test_crcs_are_joined_as_if_summed_at_once() -> None:
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 7, 100, 65_537, 1_000_000):
        first, second = rng.bytes(50), rng.bytes(length)
        assert joined_crc(zlib.crc32(first), zlib.crc32(second), length) == zlib.crc32(first + second)


def test_the_mcap_library_agrees_with_every_record() -> None:
    stream = io.BytesIO()
    writer = McapWriter(stream, "test")
    writer.add_metadata("about", {"a": "b"})
    channels = [writer.add_topic(topic, "std_msgs/msg/Bool", "bool data\n") for topic in ("/a", "/b", "/silent")]
    rng = np.random.default_rng(0)
    sent = []
    for number in range(40):
        data = rng.bytes(int(rng.integers(0, 300_000)))
        writer.add_message(channels[number % 2], 1000 - number, number, data)
        sent.append((channels[number % 2], 1000 - number, number, data))
        if number % 11 == 0:
            writer.end_chunk()
    writer.finish()
    stream.seek(0)
    assert len(list(StreamReader(stream, validate_crcs=True).records)) > len(sent)
    stream.seek(0)
    reader = make_reader(stream, validate_crcs=True)
    read = [(c.id, m.log_time, m.sequence, m.data) for _, c, m in reader.iter_messages(log_time_order=False)]
    assert sorted(read) == sorted(sent)
    summary = reader.get_summary()
    assert summary is not None and summary.statistics is not None
    assert summary.statistics.message_count == 40
    assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (961, 1000)
    only = [m.log_time for _, _, m in reader.iter_messages(["/b"], starting_at=970, ending_before=980)]
    assert only == sorted(t for c, t, _, _ in sent if c == channels[1] and 970 <= t < 980)
    assert [m.metadata for m in reader.iter_metadata()] == [{"a": "b"}]
