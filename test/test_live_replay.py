"""A recording played to live nodes: they answer as they did when it was recorded, bit for bit."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from helpers import started, wait_for
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import SetBool

from rl_ros.contract import Contract
from rl_ros.episodes.bags import find_bags, read_bag
from rl_ros.episodes.ingest import EVENTS
from rl_ros.episodes.messages import stamp_of
from rl_ros.episodes.record import EpisodeFile
from rl_ros.nodes.base import message_class
from rl_ros.nodes.spin import ros
from rl_ros.training.live import run_episodes

SECONDS = 90
LOSSLESS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Listener:
    """Hears topics while it waits for something."""

    def __init__(self) -> None:
        self.node, self.executor = Node("listener"), EventsExecutor()
        self.executor.add_node(self.node)

    def hear(self, topic: str, message_type: str) -> list[bytes]:
        heard: list[bytes] = []
        self.node.create_subscription(message_class(message_type), topic, heard.append, LOSSLESS, raw=True)
        return heard

    def until(self, condition: object, seconds: float = SECONDS) -> bool:
        def turn() -> object:
            self.executor.spin_once(timeout_sec=0.02)
            return condition()  # type: ignore[operator]

        return wait_for(turn, seconds)


@pytest.fixture
def listener(ros_domain: int) -> Iterator[Listener]:
    with ros():
        made = Listener()
        yield made
        made.executor.remove_node(made.node)
        made.node.destroy_node()
        made.executor.shutdown()


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    run_episodes("lift", {"bags": str(tmp_path / "bags"), "seed": "3"}, 1, tmp_path / "log")
    return find_bags(tmp_path / "bags")[0]


def recorded(bag: Path, topic: str) -> dict[int, bytes]:
    return {stamp_of(message.cdr): message.cdr for message in read_bag(bag).read([topic])}


def live_nodes(*names: str) -> AbstractContextManager[subprocess.Popen[str]]:
    arguments = ["--ros-args", "-p", "contract:=lift", "-p", "lossless:=true"]
    return started([sys.executable, "-m", "rl_ros.nodes", *names, *arguments])


def replay(bag: Path, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "rl_ros.cli", "replay", str(bag), "--lossless", *arguments]
    return started(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_live_nodes_answer_a_recording_as_they_did_when_it_was_made(bag: Path, listener: Listener) -> None:
    answers = {
        "/reward": "sensor_msgs/msg/JointState",
        "/policy/action": "geometry_msgs/msg/TwistStamped",
        "/policy/gripper": "sensor_msgs/msg/JointState",
        "/goal/latent": "sensor_msgs/msg/JointState",
    }
    wanted = {topic: recorded(bag, topic) for topic in answers}
    heard = {topic: listener.hear(topic, kind) for topic, kind in answers.items()}
    clock = listener.hear("/clock", "rosgraph_msgs/msg/Clock")
    with live_nodes("goal_encoder", "reward", "policy") as nodes:
        with replay(bag, "--rate", "3", "--wait-for", "reward", "policy", "--without", "/goal/latent") as player:
            ended = listener.until(lambda: player.poll() is not None)
            said = player.communicate()[0] if ended else "still playing"
        complete = listener.until(lambda: all(len(heard[topic]) >= len(wanted[topic]) for topic in answers), 10.0)
        nodes.terminate()
    assert player.returncode == 0, said
    assert complete, {topic: (len(heard[topic]), len(wanted[topic])) for topic in answers}
    for topic in answers:
        assert {stamp_of(cdr): cdr for cdr in heard[topic]} == wanted[topic], topic
    times = [stamp_of(cdr) for cdr in clock]
    assert times == sorted(times)
    assert times[0] >= min(wanted["/reward"]) - 1e9
    assert times[-1] >= max(wanted["/reward"])


def test_a_recording_of_another_robot_without_events_is_one_episode_to_live_nodes(
    bag: Path, tmp_path: Path, listener: Listener
) -> None:
    topics = {topic: entry for topic, entry in Contract.load("lift").recorded_topics().items() if topic != EVENTS}
    names = {"/camera/image_raw": "/front/image_raw", "/tool/pose": "/wrist"}
    foreign = EpisodeFile(tmp_path, "foreign", {names.get(topic, topic): entry for topic, entry in topics.items()}, {})
    for message in read_bag(bag).read(topics):
        foreign.write(names.get(message.topic, message.topic), message.log_time, message.cdr)
    path = foreign.close({})
    renaming = ["image:=/front/image_raw", "/wrist:=/tool/pose"]
    wanted = recorded(bag, "/reward")
    heard = listener.hear("/reward", "sensor_msgs/msg/JointState")
    with live_nodes("reward") as nodes:
        with replay(path, *renaming, "--contract", "lift", "--rate", "3", "--wait-for", "reward") as player:
            ended = listener.until(lambda: player.poll() is not None)
            said = player.communicate()[0] if ended else "still playing"
        complete = listener.until(lambda: len(heard) >= len(wanted), 10.0)
        nodes.terminate()
    assert player.returncode == 0, said
    assert complete, (len(heard), len(wanted))
    assert {stamp_of(cdr): cdr for cdr in heard} == wanted


def test_a_recording_is_paused_by_its_service_and_loops(bag: Path, listener: Listener) -> None:
    heard = listener.hear("/tool/pose", "geometry_msgs/msg/PoseStamped")
    clock = listener.hear("/clock", "rosgraph_msgs/msg/Clock")
    client = listener.node.create_client(SetBool, "replay/pause")
    stamps = sorted(recorded(bag, "/tool/pose"))
    with replay(bag, "--loop", "--topics", "/tool/pose", "--rate", "4") as player:
        # Each pass begins with the first stamp once more.
        assert listener.until(lambda: [stamp_of(cdr) for cdr in heard].count(stamps[0]) == 2)
        second = max(i for i, cdr in enumerate(heard) if stamp_of(cdr) == stamps[0])
        assert listener.until(lambda: len(heard) >= second + len(stamps))
        assert [stamp_of(cdr) for cdr in heard[second:]][: len(stamps)] == stamps
        assert listener.until(client.service_is_ready)
        for paused, seconds in ((True, 0.5), (False, SECONDS)):
            answers = [client.call_async(SetBool.Request(data=paused))]
            if not listener.until(answers[0].done, 5.0):
                # A service that is found may not have found its client yet, and the answer is then lost.
                answers.append(client.call_async(SetBool.Request(data=paused)))
            assert listener.until(answers[-1].done)
            assert answers[-1].result().success
            # What was on its way still comes, but nowhere near the hundred that half a second brings.
            enough = len(clock) + 20
            assert listener.until(lambda enough=enough: len(clock) > enough, seconds) is not paused
        player.terminate()
        said = player.communicate(timeout=SECONDS)[0]
    assert "Traceback" not in said, said


def test_mistakes_are_one_sentence(bag: Path, tmp_path: Path) -> None:
    cases = {
        (str(tmp_path / "none"),): "no such bag",
        (str(bag), "--topics", "/nowhere"): "no topic '/nowhere' in the bag",
        (str(bag), "--rate", "0"): "rate: expected at least",
        (str(bag), "--start", "-1"): "start: expected at least 0",
    }
    for arguments, sentence in cases.items():
        failed = subprocess.run(
            [sys.executable, "-m", "rl_ros.cli", "replay", *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert failed.returncode == 2
        assert failed.stderr.startswith("error: ")
        assert sentence in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1


def test_a_node_that_does_not_answer_is_named(bag: Path) -> None:
    arguments = ["--ros-args", "-p", "contract:=lift", "-p", f"bag:={bag}", "-p", "wait_for:=reward"]
    arguments += ["-p", "patience:=0.5"]
    failed = subprocess.run(
        [sys.executable, "-m", "rl_ros.nodes", "replay", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert failed.returncode == 2
    assert "no answer from: reward" in failed.stderr
