"""How long from an observation to its action, what does the guard add, and what does an idle node cost?

A robot that does not move publishes what it sees 50 times a second over Fast DDS: a 64x64 picture, joint states, the
tool's pose and velocity, and a goal. The policy node answers with a CNN bundle, and the guard answers the action; each
is a process of its own, kept to a core of its own. `p50_ms` is from the moment before the first message of an
observation is published to the arrival of its action here, `guard_p50_ms` from there to the arrival of the guard's
command, and `guard_itself_p50_ms` what of it is the guard's own work, by its own report: decoding, checks, encoding,
publishing.
`idle_cpu_share` is what the policy node takes of a core while nothing comes. Beside it, on the same core, the same
network in eager torch in a plain rclpy node that decodes messages and spins in a MultiThreadedExecutor.

    python benchmarks/latency.py [--quick] [--seconds S] [--rate HZ]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import rclpy.node
import yaml
from crash import ros_environment
from live_graph import CENTRE, RADIUS, circling_bundle, profile_of
from rclpy.experimental.events_executor import EventsExecutor
from rich.console import Console
from rich.table import Table

from rl_ros.bringup import clean_shared_memory, environment
from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.graph import endpoints, node_specs, offered_profiles
from rl_ros.nodes.base import message_class
from rl_ros.nodes.spin import ros
from rl_ros.robots.arm import Arm

CONTRACT = "pick_and_place_image"
QUICK, FULL = 5.0, 60.0
IDLE = 4.0
"""s for which an idle node is watched."""
POLICY_CORE, GUARD_CORE = 0, 1
TIMING = "arm_guard: timing"
"""What the guard calls its own report."""
ACTION, COMMAND = "/policy/action", "/arm_controller/joint_trajectory"
FEW = 20.0
"""s to wait for an answer."""
BARS = {"p50_ms": 5.0, "p99_ms": 15.0, "guard_p50_ms": 1.0, "idle_cpu_share": 0.05}
PLAIN = Path(__file__).with_name("plain_policy.py")


@dataclass
class Run:
    """What was measured with one policy node, in s; and how many observations there were."""

    sent: int = 0
    action: list[float] = field(default_factory=list)
    guard: list[float] = field(default_factory=list)
    itself: list[float] = field(default_factory=list)
    idle: dict[str, float] = field(default_factory=dict)
    """Share of a core by process."""

    def percentile(self, share: float, which: str = "action") -> float:
        """In ms."""
        seconds: list[float] = getattr(self, which)
        return round(float(np.percentile(seconds, share)) * 1e3, 3) if seconds else float("nan")


class Process:
    """A process on one core."""

    def __init__(self, command: Sequence[str], log: Path, core: int) -> None:
        self.log = log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            env=environment(), preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip

    def cpu(self) -> float:
        """s of processor time so far."""
        numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """As Ctrl-C would."""
        self.process.terminate()
        self.process.wait(FEW)
        self.log.close()


def node(name: str, parameters: dict[str, Any], work: Path, core: int) -> Process:
    """A node of rl_ros, started as the supervisor starts it."""
    file = work / f"{name}.yaml"
    file.write_text(yaml.safe_dump({f"/**/{name}": {"ros__parameters": parameters}}))
    return Process(["-m", "rl_ros.nodes", name, "--ros-args", "--params-file", str(file)], work / "log", core)


class Robot:
    """Publishes observations at a rate and notes when they are answered."""

    def __init__(self, contract: Contract) -> None:
        self.contract, self.arm = contract, Arm()
        self.node = rclpy.node.Node("robot")
        self.executor = EventsExecutor()
        self.executor.add_node(self.node)
        specs = node_specs()
        offered = offered_profiles(contract)
        needed = endpoints(specs["policy"].subscribes, contract) | endpoints(specs["arm_guard"].subscribes, contract)
        self.senders = {
            f"/{topic.lstrip('/')}": self._sender(topic, each.type, offered.get(f"/{topic.lstrip('/')}", each.qos))
            for topic, each in needed.items()
            if topic not in contract.recorded_topics() or topic not in {key.topic for key in contract.action.values()}
        }
        self.ready: set[str] = set()
        self.began: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self.run = Run()
        self._listen("/episode/acknowledge", "sensor_msgs/msg/JointState", self._on_ready)
        self._listen(ACTION, "geometry_msgs/msg/TwistStamped", self._on_action)
        self._listen(COMMAND, "trajectory_msgs/msg/JointTrajectory", self._on_command)
        self._listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", self._on_report)
        self.noise = np.random.default_rng(0)

    def observe(self) -> None:
        """All messages of one observation, the picture last."""
        stamp, frame = time.time_ns(), self.contract.frame
        joints = self.arm.home + self.noise.normal(0.0, 1e-6, 7)
        names, zeros = [*self.arm.joint_names, *self.arm.finger_joint_names], np.zeros(9)
        picture = self.noise.integers(0, 256, self.contract.observation["image"].shape, np.uint8)
        goal = self.contract.goal.desired_goal
        sent = {
            "/joint_states": messages.joint_state_cdr(stamp, names, [*joints, 0.04, 0.04], zeros, zeros),
            "/tool/pose": messages.pose_cdr(stamp, frame, [CENTRE[0] + RADIUS, CENTRE[1], CENTRE[2]]),
            "/tool/twist": messages.twist_cdr(stamp, frame, [0.0, 0.0, 0.0]),
            goal.topic: messages.joint_state_cdr(stamp, goal.names, np.zeros(len(goal.names))),
            "/camera/image_raw": messages.image_cdr(stamp, "camera", picture),
        }
        self.began[stamp] = time.perf_counter()
        self.run.sent += 1
        for topic, cdr in sent.items():
            self.senders[topic].publish(cdr)

    def say(self, event: str, stamp: int) -> None:
        """One episode event."""
        values = {"episode": "0", "seed": "0"}
        self.senders["/episode/event"].publish(messages.status_cdr(stamp, event, "", values))

    def spin(self, until: float) -> None:
        """Answer callbacks until that moment of the performance counter."""
        while (left := until - time.perf_counter()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def wait_for(self, nodes: set[str]) -> None:
        """Until nodes have acknowledged, while observations come."""
        self.say("prepare", 0)
        deadline = time.perf_counter() + FEW
        while not nodes <= self.ready:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"not ready: {nodes - self.ready}")
            self.observe()
            self.spin(time.perf_counter() + 0.05)

    def measure(self, seconds: float) -> Run:
        """Observations at the contract's rate."""
        self.say("start", time.time_ns())
        self.spin(time.perf_counter() + 0.2)
        for kept in (False, True):  # the first second is for everybody to warm up
            self.run = Run()
            begun = time.perf_counter()
            for number in range(round((seconds if kept else 1.0) / self.contract.period)):
                self.spin(begun + number * self.contract.period)
                self.observe()
            self.spin(time.perf_counter() + 0.2)
        return self.run

    def close(self) -> None:
        """Leave the graph."""
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        self.executor.shutdown()

    def _on_ready(self, cdr: bytes) -> None:
        self.ready |= set(messages.decode("sensor_msgs/msg/JointState", cdr).name)

    def _on_action(self, cdr: bytes) -> None:
        now, stamp = time.perf_counter(), messages.stamp_of(cdr)
        self.answered[stamp] = now
        self.run.action.append(now - self.began[stamp])

    def _on_command(self, cdr: bytes) -> None:
        answered = self.answered.pop(messages.stamp_of(cdr), None)
        if answered is not None:
            self.run.guard.append(time.perf_counter() - answered)

    def _on_report(self, cdr: bytes) -> None:
        status = messages.status_of(cdr)
        if status.name == TIMING and "command_p50_ms" in status.values:
            self.run.itself.append(float(status.values["command_p50_ms"]) * 1e-3)

    def _sender(self, topic: str, kind: str, profile: Any) -> Any:
        return self.node.create_publisher(message_class(kind), topic, profile_of(profile))

    def _listen(self, topic: str, kind: str, callback: Any) -> None:
        profile = "event" if topic.startswith("/episode") else "command"
        self.node.create_subscription(message_class(kind), topic, callback, profile_of(profile), raw=True)


def ours(contract: Contract, work: Path, seconds: float) -> Run:
    """The policy node and the guard."""
    common = {"contract": str(work / "contract.yaml")}
    policy = node("policy", {**common, "bundle": str(work / "bundle")}, work, POLICY_CORE)
    guard = node("arm_guard", {**common, "ramp": 0.0}, work, GUARD_CORE)
    robot = Robot(contract)
    try:
        robot.wait_for({"policy", "arm_guard"})
        before = policy.cpu(), guard.cpu()
        robot.spin(time.perf_counter() + IDLE)
        idle = {"policy": (policy.cpu() - before[0]) / IDLE, "guard": (guard.cpu() - before[1]) / IDLE}
        run = robot.measure(seconds)
        run.idle = idle
        return run
    finally:
        robot.close()
        policy.stop()
        guard.stop()


def plain(contract: Contract, work: Path, seconds: float) -> Run:
    """A plain rclpy node."""
    other = Process([str(PLAIN), str(work / "contract.yaml"), "--ros-args"], work / "log", POLICY_CORE)
    robot = Robot(contract)
    try:
        deadline = time.perf_counter() + FEW
        while not robot.run.action:
            if time.perf_counter() > deadline:
                raise TimeoutError("the plain node does not answer")
            robot.observe()
            robot.spin(time.perf_counter() + 0.05)
        return robot.measure(seconds)
    finally:
        robot.close()
        other.stop()


def main() -> None:
    """Run, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:.0f} s instead of {FULL:.0f}")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rate", type=float, default=50.0)
    arguments = parser.parse_args()
    seconds = arguments.seconds or (QUICK if arguments.quick else FULL)
    with tempfile.TemporaryDirectory(prefix="rl_ros_latency_") as scratch, ros_environment(), ros():
        work = Path(scratch)
        contract = Contract.load(CONTRACT)
        text = contract.to_yaml().replace(f"control_rate: {contract.control_rate}", f"control_rate: {arguments.rate}")
        (work / "contract.yaml").write_text(text)
        contract = Contract.load(str(work / "contract.yaml"))
        circling_bundle(work / "bundle", contract)
        try:
            ours_run, plain_run = ours(contract, work, seconds), plain(contract, work, seconds)
        except TimeoutError:
            print((work / "log").read_text(), file=sys.stderr)
            raise
    clean_shared_memory()
    table = Table(title=f"{arguments.rate:g} Hz, 64x64 CNN, {seconds:g} s")
    for column in ("", "observations", "answered", "p50 ms", "p99 ms", "max ms"):
        table.add_column(column)
    for name, run in (("policy node", ours_run), ("plain rclpy node", plain_run)):
        figures = [f"{run.percentile(share):.2f}" for share in (50, 99, 100)]
        table.add_row(name, str(run.sent), str(len(run.action)), *figures)
    added = [f"{ours_run.percentile(share, 'guard'):.2f}" for share in (50, 99, 100)]
    table.add_row("the guard adds", "", str(len(ours_run.guard)), *added)
    Console().print(table)
    result = {
        "p50_ms": ours_run.percentile(50),
        "p99_ms": ours_run.percentile(99),
        "guard_p50_ms": ours_run.percentile(50, "guard"),
        "guard_itself_p50_ms": ours_run.percentile(50, "itself"),
        "idle_cpu_share": round(ours_run.idle["policy"], 4),
        "guard_idle_cpu_share": round(ours_run.idle["guard"], 4),
        "answered": round(len(ours_run.action) / ours_run.sent, 4),
        "baseline_p50_ms": plain_run.percentile(50),
        "baseline_p99_ms": plain_run.percentile(99),
        "baseline_answered": round(len(plain_run.action) / plain_run.sent, 4),
    }
    result["met"] = all(result[name] <= bar for name, bar in BARS.items())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
