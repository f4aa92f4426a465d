"""What is said of a recording while it goes, from stamps and sequence numbers alone."""

from pathlib import Path

import pytest

from rl_ros.contract import Recorded
from rl_ros.episodes.health import EpisodeHealth, LossCounter, disk_fault

PERIOD = 100_000_000
START = 1_000_000_000_000
TOPICS = {topic: Recorded("std_msgs/msg/Header", every_tick=True) for topic in ("/camera", "/joints", "/action")}


class Recording:
    """Ticks on all topics, and a check every two ticks on a clock of its own."""

    def __init__(self, real_time: bool = True, speed: float = 1.0) -> None:
        self.health = EpisodeHealth(TOPICS | {"/event": Recorded("std_msgs/msg/Header")}, 10.0, START, real_time)
        self.speed, self.now, self.tick = speed, 0.0, 0
        self.raised: dict[str, float] = {}
        """When each fault was first raised, in seconds."""

    def run(self, ticks: int, without: tuple[str, ...] = (), **behind: int) -> dict[str, str]:
        """So many ticks on all topics but some; `behind` shifts the stamps of a topic. Returns the last faults."""
        faults: dict[str, str] = {}
        for _ in range(ticks):
            for topic in TOPICS:
                if topic not in without:
                    self.health.receive(topic, START + self.tick * PERIOD - behind.get(topic[1:], 0), b"one")
            self.tick += 1
            self.now += 0.1 / self.speed
            if self.tick % 2 == 0:
                faults = self.health.check(self.now)
                for fault in faults:
                    self.raised.setdefault(fault, self.now)
        return faults


def test_nothing_is_said_of_a_sound_recording() -> None:
    recording = Recording()
    recording.run(100)
    assert recording.raised == {}


@pytest.mark.parametrize("speed", [0.1, 10.0])
def test_the_speed_of_a_simulation_does_not_matter(speed: float) -> None:
    recording = Recording(real_time=False, speed=speed)
    recording.run(100)
    assert recording.raised == {}


def test_a_stalled_topic_is_named_within_a_second() -> None:
    recording = Recording()
    recording.run(20)
    stalled = recording.now
    faults = recording.run(20, without=("/camera",))
    assert recording.raised["lag /camera"] - stalled < 1.0
    assert set(faults) == {"lag /camera"}
    assert faults["lag /camera"].startswith("/camera: nothing for 2.00 s while /")
    assert "lag /camera" not in recording.run(6)


def test_a_topic_that_never_began_is_named() -> None:
    assert set(Recording().run(10, without=("/joints",))) == {"lag /joints"}


def test_most_topics_stalled_is_not_one_ahead() -> None:
    recording = Recording()
    recording.run(20)
    assert set(recording.run(10, without=("/camera", "/action"))) == {"lag /camera", "lag /action"}


def test_stamps_of_another_clock_are_skew_and_no_stall() -> None:
    late = Recording().run(30, camera=5 * PERIOD)
    assert late == {"lag /camera": "/camera: stamps are 0.50 s behind those of /action"}
    early = Recording().run(30, camera=-50 * PERIOD)
    assert early == {"lag /camera": "/camera: stamps are 5.00 s ahead of those of every other topic"}


def test_silence_on_all_topics_is_a_fault_in_real_time_only() -> None:
    for real_time in (True, False):
        recording = Recording(real_time)
        recording.run(20)
        everything = tuple(TOPICS)
        faults = recording.run(10, without=everything)
        assert faults == ({"silent": "nothing on any topic for 1.0 s"} if real_time else {})
        assert recording.raised.get("silent", 2.0) - 2.0 < 1.0
        # The pause is over: what stood still goes on from where it was.
        recording.tick -= 10
        assert recording.run(30) == {}


def test_a_slow_topic_is_told_from_a_sound_one() -> None:
    recording = Recording()
    for tick in range(60):
        faults = recording.run(1, without=("/camera",) if tick % 5 == 4 else ())
    assert recording.raised["rate /camera"] < 3.0
    assert set(faults) <= {"rate /camera"}
    assert recording.health.topics["/camera"].rate == pytest.approx(8.0, rel=0.05)


def test_a_gap_is_told_and_stays_told() -> None:
    recording = Recording()
    recording.run(20)
    recording.run(2, without=("/camera",))
    faults = recording.run(30)
    assert faults == {"gap /camera": "/camera: 0.3 s between two messages, at a control period of 0.1 s"}
    assert recording.health.summary()["/camera"] == {"count": 50, "rate": 9.608, "worst_gap": 0.3, "lost": 0}


def test_two_publishers_on_one_topic_are_one_sentence() -> None:
    recording = Recording()
    recording.health.receive("/camera", START, b"other")
    assert recording.run(2) == {"publishers /camera": "/camera: 2 publishers; their messages cannot be told apart"}


def test_many_publishers_are_fine_where_no_tick_depends_on_one() -> None:
    recording = Recording()
    for publisher in (b"one", b"two"):
        recording.health.receive("/event", START, publisher)
    assert recording.run(2) == {}


def test_known_loss_is_told() -> None:
    recording = Recording()
    recording.run(8)
    recording.health.lose("/camera", 2)
    assert recording.run(2) == {"lost /camera": "/camera: 2 of 12 messages were lost"}


def test_loss_is_counted_for_each_publisher() -> None:
    counter = LossCounter()
    heard = [(b"a", 7), (b"a", 8), (b"b", 1), (b"a", 11), (b"b", 2), (b"b", 4), (b"a", 12)]
    assert [counter.lost_before(*each) for each in heard] == [0, 0, 0, 2, 0, 1, 0]


def test_silence_at_the_end_is_loss_at_the_rate_of_the_topic() -> None:
    health = EpisodeHealth(TOPICS, 10.0, START, True)
    for message in range(100):
        health.receive("/camera", START + message * PERIOD)
        if message < 60:
            health.receive("/action", START + message * PERIOD)
        for half in range(2 if message < 80 else 0):
            health.receive("/joints", START + message * PERIOD + half * PERIOD // 2)
    # What sequence numbers tell of the silence is the same loss, not more of it.
    health.lose("/action", 10)
    health.finish(START + 99 * PERIOD)
    assert {topic: told["lost"] for topic, told in health.summary().items()} == {
        "/camera": 0,
        "/joints": 39,
        "/action": 40,
    }
    assert health.damage()["end /action"] == "/action: nothing in the last 4 s of the episode"


def test_the_last_tick_may_be_stamped_a_little_after_the_last_message() -> None:
    health = EpisodeHealth(TOPICS, 10.0, START, True)
    for topic in TOPICS:
        health.receive(topic, START)
    health.finish(START + PERIOD // 3)
    assert health.damage() == {}


def test_without_sequence_numbers_gaps_between_stamps_are_loss() -> None:
    health = EpisodeHealth(TOPICS, 10.0, START, True)
    ticks = [0, 1, 2, 3, 6, 7, 8, 10]
    for tick, jitter in zip(ticks, (0, 9, -9, 5, 0, -5, 9, 0), strict=True):
        health.receive("/camera", START + tick * PERIOD + jitter * 1_000_000, sequenced=False)
    assert health.topics["/camera"].lost == 3


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path) -> None:
    assert disk_fault(tmp_path, 0) is None
    fault = disk_fault(tmp_path, 1 << 60)
    assert fault is not None
    assert "GB left on the disk, less than 1.15e+09 GB" in fault
