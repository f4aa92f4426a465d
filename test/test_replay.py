"""A recording played again: which topics, in which order, and when. No ROS, and a clock that is a number."""

import dataclasses
from collections.abc import Iterator

import pytest
from helpers import PERIOD, START, episode_messages, small_contract

from rl_ros.contract import Contract, Recorded
from rl_ros.episodes import messages
from rl_ros.episodes.bags import RawMessage
from rl_ros.episodes.ingest import EVENTS
from rl_ros.episodes.replay import Playback, as_played, played_topics, renamed, renames, with_events
from rl_ros.errors import UserError
from rl_ros.graph import offered_profiles

SECOND = 1_000_000_000


def recording(*seconds: float, topic: str = "/a") -> list[RawMessage]:
    return [RawMessage(topic, "std_msgs/msg/String", START + round(s * SECOND), b"%f" % s) for s in seconds]


def playback(raw: list[RawMessage], **settings: object) -> Playback:
    return Playback(lambda: iter(raw), **settings)  # type: ignore[arg-type]


def times(found: list[RawMessage]) -> list[float]:
    return [(message.log_time - START) / SECOND for message in found]


def test_each_message_is_given_once_when_its_time_has_come() -> None:
    play = playback(recording(0.0, 0.5, 1.0, 2.0))
    play.begin(100.0)
    assert times(play.due(100.0)) == [0.0]
    assert times(play.due(100.4)) == []
    assert times(play.due(101.5)) == [0.5, 1.0]
    assert not play.finished
    assert times(play.due(200.0)) == [2.0]
    assert play.finished
    assert play.due(300.0) == []


@pytest.mark.parametrize(("rate", "given"), [(0.5, [0.0]), (1.0, [0.0, 1.0]), (4.0, [0.0, 1.0, 2.0, 3.0, 4.0])])
def test_the_rate_is_recorded_seconds_for_each_second(rate: float, given: list[float]) -> None:
    play = playback(recording(*range(10)), rate=rate)
    play.begin(7.0)
    assert times(play.due(8.0)) == given
    assert play.time(8.0) == START + round(rate * SECOND)


def test_recorded_time_stands_still_while_paused() -> None:
    play = playback(recording(0.0, 1.0, 2.0), rate=2.0)
    play.begin(10.0)
    assert times(play.due(10.25)) == [0.0]
    play.pause(10.25)
    play.pause(11.0)  # twice is as good as once
    assert play.paused
    assert play.due(50.0) == []
    assert play.time(50.0) == START + SECOND // 2
    play.resume(60.0)
    assert play.due(60.2) == []
    assert times(play.due(60.25)) == [1.0]
    assert times(play.due(60.75)) == [2.0]


def test_a_pass_that_begins_paused_waits() -> None:
    play = playback(recording(0.0, 1.0))
    play.pause(1.0)
    play.begin(5.0)
    assert play.due(9.0) == []
    play.resume(10.0)
    assert times(play.due(10.0)) == [0.0]
    assert times(play.due(11.0)) == [1.0]


def test_each_pass_begins_anew() -> None:
    play = playback(recording(0.0, 1.0))
    for now in (10.0, 20.0):
        play.begin(now)
        assert times(play.due(now)) == [0.0]
        assert times(play.due(now + 1.0)) == [1.0]
        assert play.finished


def test_messages_keep_their_order_where_log_times_do_not() -> None:
    play = playback(recording(0.0, 2.0, 1.0, 3.0))
    play.begin(0.0)
    assert times(play.due(1.5)) == [0.0]
    assert times(play.due(2.0)) == [2.0, 1.0]


def test_a_later_start_gives_what_a_late_joiner_would_have_got() -> None:
    goal, events = recording(0.0, 0.2, topic="/goal"), recording(0.1, topic=EVENTS)
    raw = sorted(goal + events + recording(0.0, 1.0, 2.0, 3.0), key=lambda message: message.log_time)
    play = playback(raw, start=1.5, latched={"/goal", EVENTS})
    play.begin(0.0)
    first = play.due(0.0)
    assert {(message.topic, time) for message, time in zip(first, times(first), strict=True)} == {
        ("/goal", 0.2),
        (EVENTS, 0.1),
    }
    assert play.time(0.0) == START + round(1.5 * SECOND)
    assert times(play.due(0.5)) == [2.0]
    assert times(play.due(1.5)) == [3.0]


def test_nothing_to_play_says_so() -> None:
    with pytest.raises(UserError, match="holds no message on these topics"):
        playback([]).begin(0.0)
    with pytest.raises(UserError, match="over before 5 s"):
        playback(recording(0.0, 1.0), start=5.0).begin(0.0)
    with pytest.raises(ValueError, match="rate"):
        playback([], rate=0.0)


def test_a_recording_is_read_as_it_is_played_and_never_whole() -> None:
    read = []

    def endless() -> Iterator[RawMessage]:
        for message in recording(*range(1000)):
            read.append(message)
            yield message

    play = Playback(endless)
    play.begin(0.0)
    play.due(10.0)
    assert len(read) == 12


@pytest.fixture
def recorded() -> dict[str, str]:
    return {topic: entry.type for topic, entry in Contract.load("lift").recorded_topics().items()}


def test_what_answers_an_observation_is_left_to_live_nodes(recorded: dict[str, str]) -> None:
    played = played_topics(recorded, Contract.load("lift"))
    assert set(recorded) - set(played) == {
        "/policy/action",
        "/policy/gripper",
        "/policy/actor",
        "/reward",
        "/arm_controller/joint_trajectory",
        "/gripper_controller/joint_trajectory",
        "/arm_guard/state",
        "/diagnostics",
    }
    assert played["/camera/image_raw"] == "sensor_msgs/msg/Image"


def test_a_command_of_another_robot_is_not_played_by_chance(recorded: dict[str, str]) -> None:
    contract = Contract.load("lift")
    command = Recorded("trajectory_msgs/msg/JointTrajectory")
    contract = dataclasses.replace(contract, record={**contract.record, "/other_arm/command": command})
    recorded |= {"/other_arm/command": command.type, "/rosout": "rcl_interfaces/msg/Log"}
    played = played_topics(recorded, contract)
    assert "/other_arm/command" not in played
    assert "/rosout" not in played


def test_topics_can_be_chosen(recorded: dict[str, str]) -> None:
    contract = Contract.load("lift")
    assert set(played_topics(recorded, contract, only=["/reward", "/tool/pose"])) == {"/reward", "/tool/pose"}
    without = played_topics(recorded, contract, without=["/goal/latent"])
    assert set(played_topics(recorded, contract)) - set(without) == {"/goal/latent"}
    assert played_topics(
        {**recorded, "/clock": "rosgraph_msgs/msg/Clock"}, contract, only=["/clock", "/tool/pose"]
    ) == {"/tool/pose": "geometry_msgs/msg/PoseStamped"}
    with pytest.raises(UserError, match="no topic '/tool/poes' in the bag; it holds: /arm_controller"):
        played_topics(recorded, contract, only=["/tool/poes"])
    with pytest.raises(UserError, match="no topic is left to play"):
        played_topics({"/reward": recorded["/reward"]}, contract)


def test_topics_of_a_bag_are_played_as_those_of_keys_or_under_any_name(recorded: dict[str, str]) -> None:
    contract = Contract.load("lift")
    held = recorded | {"/front/image_raw": "sensor_msgs/msg/Image", "/wrist": "geometry_msgs/msg/PoseStamped"}
    names = renames({"image": "/front/image_raw", "/wrist": "/tool/pose", "/reward": "/old/reward"}, held, contract)
    assert names == {"/front/image_raw": "/camera/image_raw", "/wrist": "/tool/pose", "/reward": "/old/reward"}
    topic_of = as_played(held, names)
    # What is renamed takes the place of the bag's own topic of that name.
    assert (topic_of["/camera/image_raw"], topic_of["/tool/pose"]) == ("/front/image_raw", "/wrist")
    assert set(topic_of) == set(recorded) - {"/reward"} | {"/old/reward"}
    raw = [RawMessage("/wrist", "t", 1, b"w"), RawMessage("/joint_states", "t", 2, b"j")]
    assert [message.topic for message in renamed(raw, names)] == ["/tool/pose", "/joint_states"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"picture": "/camera/image_raw"},
            "picture:=/camera/image_raw: expected a topic such as /picture, or a key",
        ),
        ({"image": "/front/image_raw"}, "no topic '/front/image_raw' in the bag; it holds: /arm_controller"),
        ({"image": "/tool/pose"}, "/tool/pose carries geometry_msgs/msg/PoseStamped, but /camera/image_raw is sensor_"),
        ({"/tool/pose": "tool"}, "expected the full name of a topic, such as /tool"),
        ({"/tool/pose": "/a", "/object/pose": "/a"}, "another topic of the bag is played as /a already"),
    ],
)
def test_a_renaming_that_cannot_be_is_one_sentence(
    recorded: dict[str, str], arguments: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        renames(arguments, recorded, Contract.load("lift"))


def test_topics_are_offered_as_the_graph_offers_them() -> None:
    profiles = offered_profiles(Contract.load("lift"))
    assert profiles["/camera/image_raw"] == "sensor"
    assert profiles["/joint_states"] == "state"
    assert profiles["/goal/latent"] == "latched"
    assert profiles[EVENTS] == "event"
    assert profiles["/policy/action"] == "command"


def test_a_bag_without_events_becomes_one_episode() -> None:
    contract = small_contract()
    types = {topic: entry.type for topic, entry in contract.recorded_topics().items()}
    raw = [RawMessage(topic, types[topic], stamp + 5, cdr) for topic, stamp, cdr in episode_messages(contract, 4)]
    whole = list(with_events(raw, contract))
    assert [message for message in whole if message.topic != EVENTS] == raw
    start, end = (messages.status_of(message.cdr) for message in whole if message.topic == EVENTS)
    assert (start.name, start.stamp) == ("start", START)
    assert (end.name, end.stamp) == ("end", START + 3 * PERIOD)
    assert [message.log_time for message in whole] == sorted(message.log_time for message in whole)
