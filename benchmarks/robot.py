"""For the recorder's benchmarks: a robot's topics on real DDS, and a recorder in a process of its own."""

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy.node
import yaml
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from rl_ros.bringup import environment
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.nodes.base import message_class

JOINT_RATE, IMAGE_RATE = 200, 30
JOINTS = [f"joint{number}" for number in range(1, 8)]
SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
STATE = QoSProfile(depth=10)
EVENT = QoSProfile(depth=32, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FEW = 30.0
"""s to wait for an answer."""
_STAMP = struct.Struct("<iI")


def contract(height: int, width: int) -> Contract:
    """Two cameras and joints; one action and one judgement for each image."""
    camera = {
        "type": "sensor_msgs/msg/Image",
        "field": "data",
        "encoding": "rgb8",
        "shape": [height, width, 3],
        "dtype": "uint8",
    }
    joints = {
        "topic": "/joint_states",
        "type": "sensor_msgs/msg/JointState",
        "field": "position",
        "names": JOINTS,
        "shape": [len(JOINTS)],
        "unit": "rad",
    }
    velocity = {
        "topic": "/policy/action",
        "type": "geometry_msgs/msg/TwistStamped",
        "field": "twist.linear",
        "shape": [3],
        "unit": "m/s",
        "low": [-1.0] * 3,
        "high": [1.0] * 3,
    }
    goal = {
        "topic": "/goal/latent",
        "type": "sensor_msgs/msg/JointState",
        "field": "position",
        "names": ["goal"],
        "shape": [1],
        "alignment": "held",
    }
    content = {
        "format": 1,
        "name": "recording",
        "task": "recording",
        "control_rate": float(IMAGE_RATE),
        "episode_length": 10_000,
        "frame": "base",
        "reference": "left",
        "observation": {
            "left": {"topic": "/left/image_raw", **camera},
            "right": {"topic": "/right/image_raw", **camera},
            "joints": joints,
        },
        "action": {"velocity": velocity},
        "goal": {"desired_goal": goal},
        "record": {"/episode/event": {"type": "diagnostic_msgs/msg/DiagnosticArray"}},
    }
    return Contract.from_yaml(yaml.safe_dump(content), "the benchmark's contract")


class RecorderProcess:
    """The recorder node, started as the supervisor starts it."""

    def __init__(self, work: Path, recorded: Contract, bags: Path) -> None:
        (work / "contract.yaml").write_text(recorded.to_yaml())
        parameters = {"contract": str(work / "contract.yaml"), "directory": str(bags), "disk_reserve": 0.1}
        file = work / "recorder.yaml"
        file.write_text(yaml.safe_dump({"/**/recorder": {"ros__parameters": parameters}}))
        self.log = (work / "recorder.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rl_ros.nodes", "recorder", "--ros-args", "--params-file", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=environment(),
        )

    def cpu_seconds(self) -> dict[str, float]:
        """User and system seconds so far, and those of each thread by name."""
        ticks = os.sysconf("SC_CLK_TCK")
        root = Path(f"/proc/{self.process.pid}")
        found: dict[str, float] = {}
        for stat in [root / "stat", *root.glob("task/*/stat")]:
            name, numbers = stat.read_text().split("(", 1)[1].rsplit(")", 1)
            user, system = (int(number) / ticks for number in numbers.split()[11:13])
            name = "main" if stat.parent.name == str(self.process.pid) and stat.parent != root else name
            parts = {"user": user, "system": system} if stat.parent == root else {f"thread {name}": user + system}
            for key, seconds in parts.items():
                found[key] = found.get(key, 0.0) + seconds
        return found

    def __enter__(self) -> "RecorderProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        """What no process survives."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def stop(self) -> None:
        """As Ctrl-C would."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(FEW)
        self.log.close()


class Robot:
    """Publishes everything the contract names, and talks to the recorder as the episode manager does."""

    def __init__(self, recorded: Contract) -> None:
        self.contract = recorded
        self.node = rclpy.node.Node("robot")
        self.executor = EventsExecutor()
        self.executor.add_node(self.node)
        images = [key.topic for key in recorded.observation.values() if key.encoding]
        self._publishers = {
            topic: self.node.create_publisher(
                message_class(told.type), topic, SENSOR if topic in images else EVENT if "/episode" in topic else STATE
            )
            for topic, told in recorded.recorded_topics().items()
        }
        self.published: dict[str, list[int]] = {topic: [] for topic in self._publishers}
        """Stamps by topic, in nanoseconds of the system clock at publication."""
        self._acknowledged: list[int] = []
        self.states: list[messages.Status] = []
        self.problems: list[messages.Status] = []
        self._listen("episode/acknowledge", "sensor_msgs/msg/JointState", self._on_acknowledge)
        self._listen("recorder/state", "diagnostic_msgs/msg/DiagnosticArray", self._on_state)
        self._listen("diagnostics", "diagnostic_msgs/msg/DiagnosticArray", self._on_problem, STATE)
        height, width, _ = recorded.observation["left"].shape
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        zeros = np.zeros(len(JOINTS))
        judged = ["reward", "success", "terminated", "truncated"]
        self._image = bytearray(messages.image_cdr(0, "camera", noise))
        self._joints = bytearray(messages.joint_state_cdr(0, JOINTS, zeros, zeros, zeros))
        self._action = bytearray(messages.twist_cdr(0, "base", [0.0, 0.0, 0.0]))
        self._reward = bytearray(messages.joint_state_cdr(0, judged, np.zeros(4)))

    def prepare(self, number: int) -> None:
        """Announce an episode and wait until the recorder is ready for it."""
        self._say("prepare", 0, number)
        # The sensors of a robot run before an episode does, and the recorder waits to hear them.
        self.until(
            lambda: self.run(1.0 / IMAGE_RATE) and number in self._acknowledged,
            f"no acknowledgement of episode {number}",
        )

    def begin(self, number: int) -> int:
        """The episode begins now; returns its first stamp."""
        start = time.time_ns()
        goal = messages.joint_state_cdr(start, ["goal"], [0.0])
        self._send(self.contract.goal.desired_goal.topic, bytearray(goal), start)
        self._say("start", start, number)
        return start

    def end(self, number: int, stamp: int) -> messages.Status:
        """The episode's last stamp; returns what the recorder says of its bag."""
        self._say("end", stamp, number, outcome="success")

        def told() -> list[messages.Status]:
            return [s for s in self.states if s.name == "bag" and s.values["episode"] == str(number)]

        self.until(
            lambda: bool(told()),
            f"the bag of episode {number} was not closed",
            60.0,
        )
        return told()[0]

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> int:
        """Publish all topics at their rates; returns the stamp of the last image."""
        left, right = (self.contract.observation[name].topic for name in ("left", "right"))
        image_stamp, images = 0, 0
        begun = time.monotonic()
        for tick in range(round(seconds * JOINT_RATE)):
            time.sleep(max(0.0, begun + tick / JOINT_RATE - time.monotonic()))
            stamp = time.time_ns()
            self._send("/joint_states", self._joints, stamp)
            if tick * IMAGE_RATE >= images * JOINT_RATE:
                images, image_stamp = images + 1, stamp
                self._send(left, self._image, stamp)
                self._send(right, self._image, stamp)
                self._send("/policy/action", self._action, stamp)
                self._send(self.contract.reward.topic, self._reward, stamp)
            if until():
                break
        return image_stamp

    def until(self, condition: Callable[[], Any], sentence: str, seconds: float = FEW) -> None:
        """Wait for something the recorder does."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.executor.spin_once(timeout_sec=0.01)
            if time.monotonic() > deadline:
                raise TimeoutError(sentence)

    def close(self) -> None:
        """Leave the graph."""
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        self.executor.shutdown()

    def _send(self, topic: str, cdr: bytearray, stamp: int) -> None:
        _STAMP.pack_into(cdr, 4, *divmod(stamp, 1_000_000_000))
        self._publishers[topic].publish(bytes(cdr))
        self.published[topic].append(stamp)

    def _say(self, event: str, stamp: int, number: int, **values: str) -> None:
        everything = {"episode": str(number), "seed": "0", **values}
        self._publishers["/episode/event"].publish(messages.status_cdr(stamp, event, "", everything))

    def _listen(
        self, topic: str, message_type: str, callback: Callable[[bytes], None], profile: QoSProfile = EVENT
    ) -> None:
        self.node.create_subscription(message_class(message_type), topic, callback, profile, raw=True)

    def _on_acknowledge(self, cdr: bytes) -> None:
        self._acknowledged.append(int(messages.decode("sensor_msgs/msg/JointState", cdr).position[0]))

    def _on_state(self, cdr: bytes) -> None:
        self.states.append(messages.status_of(cdr))

    def _on_problem(self, cdr: bytes) -> None:
        self.problems.append(messages.status_of(cdr))
