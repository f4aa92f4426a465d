"""Nodes in this process, each driven by a test node over real topics."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rclpy
from helpers import wait_for
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node as RosNode
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from rl_ros.contract import Contract
from rl_ros.episodes import messages
from rl_ros.errors import UserError
from rl_ros.nodes.arm_guard import ArmGuard
from rl_ros.nodes.base import Node, message_class
from rl_ros.nodes.goal_encoder import GoalEncoder
from rl_ros.nodes.policy import Policy
from rl_ros.robots.arm import Arm

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SECOND = 1_000_000_000


class Bench:
    """A node under test, and one that talks to it and listens."""

    def __init__(self) -> None:
        self.executor = EventsExecutor()
        self.peer = RosNode("peer")
        self.executor.add_node(self.peer)
        self.heard: dict[str, list[bytes]] = {}
        self.nodes: list[RosNode] = [self.peer]

    def add(self, make: Callable[[], Node]) -> Node:
        node = make()
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def listen(self, topic: str, message_type: str) -> list[bytes]:
        heard = self.heard.setdefault(topic, [])
        self.peer.create_subscription(message_class(message_type), topic, heard.append, 10, raw=True)
        return heard

    def sender(self, topic: str, message_type: str) -> Callable[[bytes], None]:
        publisher = self.peer.create_publisher(message_class(message_type), topic, RELIABLE)
        assert self.until(lambda: publisher.get_subscription_count() > 0), f"nobody listens to {topic}"
        return publisher.publish

    def until(self, condition: Callable[[], object], seconds: float = 10.0) -> bool:
        def turn() -> object:
            self.executor.spin_once(timeout_sec=0.01)
            return condition()

        return wait_for(turn, seconds)


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    with rclpy.init():
        made = Bench()
        yield made
        for node in made.nodes:
            made.executor.remove_node(node)
            node.destroy_node()
        made.executor.shutdown()


def with_parameters(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Parameters for every node made from now on, as a command line would give them."""
    original = RosNode.__init__

    def init(self: RosNode, *arguments: object, **keywords: object) -> None:
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        original(self, *arguments, **keywords, parameter_overrides=overrides)  # type: ignore[arg-type]

    monkeypatch.setattr("rclpy.node.Node.__init__", init)


class GuardBench:
    """An arm_guard with an arm at home that is told what to do."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.arm = bench, Arm()
        bench.add(ArmGuard)
        self.commands = bench.listen("arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory")
        self.states = bench.listen("arm_guard/state", "diagnostic_msgs/msg/DiagnosticArray")
        self.joints = bench.sender("joint_states", "sensor_msgs/msg/JointState")
        self.action = bench.sender("/policy/action", "geometry_msgs/msg/TwistStamped")
        self.gripper = bench.sender("/policy/gripper", "sensor_msgs/msg/JointState")
        assert bench.until(lambda: bench.peer.count_publishers("/arm_controller/joint_trajectory") == 1)

    def act(self, stamp: int, velocity: object, gripper: float = 1.0) -> None:
        """One tick: where the arm is, and an action that answers it."""
        self.joints(messages.joint_state_cdr(stamp, self.arm.joint_names, self.arm.home))
        self.action(messages.twist_cdr(stamp, "panda_link0", velocity))
        self.gripper(messages.joint_state_cdr(stamp, ["gripper"], [gripper]))

    def commanded(self, count: int) -> np.ndarray:
        """Positions of the command with this number, counted from 1."""
        assert self.bench.until(lambda: len(self.commands) >= count), f"{len(self.commands)} commands"
        trajectory = messages.decode("trajectory_msgs/msg/JointTrajectory", self.commands[count - 1])
        return np.array(trajectory.points[0].positions)

    def code(self) -> str:
        """The last reason that was published."""
        return messages.status_of(self.states[-1]).name


@pytest.fixture
def guard(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> GuardBench:
    with_parameters(monkeypatch, contract="grasp", watchdog=0.3)
    made = GuardBench(bench)
    # Discovery: nothing is asserted before a first action has come all the way through.
    assert bench.until(lambda: made.act(SECOND, [0.0, 0.0, 0.0]) or made.commands)
    assert bench.until(lambda: made.states)
    made.commands.clear()
    return made


def test_the_guard_passes_a_good_action_with_its_stamp(guard: GuardBench) -> None:
    guard.act(2 * SECOND, [0.0, 0.1, 0.0])
    moved = guard.commanded(1)
    assert messages.stamp_of(guard.commands[0]) == 2 * SECOND
    step = guard.arm.forward(moved)[0] - guard.arm.forward(guard.arm.home)[0]
    np.testing.assert_allclose(step, [0.0, 0.01, 0.0], atol=1e-4)


def test_the_guard_holds_still_on_nan_and_says_why(guard: GuardBench) -> None:
    guard.act(2 * SECOND, [0.0, np.nan, 0.0])
    np.testing.assert_allclose(guard.commanded(1), guard.arm.home)
    assert guard.bench.until(lambda: guard.code() == "not_finite")


def test_the_watchdog_needs_no_ros_clock(guard: GuardBench) -> None:
    # Nothing publishes /clock here, so ROS time stands still for a node with use_sim_time.
    guard.act(2 * SECOND, [0.0, 0.0, 0.1])
    guard.commanded(1)
    assert guard.bench.until(lambda: guard.code() == "watchdog", seconds=5.0)
    np.testing.assert_allclose(guard.commanded(2), guard.arm.home)


def test_an_emergency_stop_holds_until_it_is_rearmed(guard: GuardBench) -> None:
    stop = guard.bench.sender("emergency_stop", "std_msgs/msg/Bool")
    stop(messages.encode("std_msgs/msg/Bool", messages.message("std_msgs/msg/Bool", data=True)))
    assert guard.bench.until(lambda: guard.code() == "emergency_stop")
    guard.commands.clear()
    guard.act(3 * SECOND, [0.1, 0.0, 0.0])
    np.testing.assert_allclose(guard.commanded(1), guard.arm.home)
    client = guard.bench.peer.create_client(Trigger, "arm_guard/rearm")
    assert guard.bench.until(client.service_is_ready)
    answer = client.call_async(Trigger.Request())
    assert guard.bench.until(answer.done)
    assert answer.result().success
    guard.act(4 * SECOND, [0.1, 0.0, 0.0])
    assert np.abs(guard.commanded(2) - guard.arm.home).max() > 1e-3


def test_a_goal_becomes_the_desired_goal_with_its_stamp(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with_parameters(monkeypatch, contract="grasp")
    bench.add(GoalEncoder)
    heard = bench.listen("/goal/latent", "sensor_msgs/msg/JointState")
    send = bench.sender("goal/pose", "geometry_msgs/msg/PoseStamped")
    assert bench.until(lambda: bench.peer.count_publishers("/goal/latent") == 1)
    assert bench.until(lambda: send(messages.pose_cdr(7 * SECOND, "panda_link0", [0.5, 0.0, 0.1])) or heard)
    goal = messages.value(Contract.load("grasp").goal.desired_goal, heard[0])
    np.testing.assert_allclose(goal, [0.1], atol=1e-6)
    assert messages.stamp_of(heard[0]) == 7 * SECOND


def test_a_policy_that_does_not_fit_is_refused_and_the_old_one_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_parameters(monkeypatch, contract="grasp")
    node = bench.add(Policy)
    assert isinstance(node, Policy)
    before = node.actor
    [result] = node.set_parameters([Parameter("bundle", value="/nowhere/bundle")])
    assert not result.successful
    assert "no such policy bundle" in result.reason
    assert node.actor is before


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"contract": "nothing"}, "no contract is named 'nothing'"),
        ({}, "contract: must be given"),
        ({"contract": "grasp", "watchdog": -1.0}, "watchdog: expected at least 0"),
        ({"contract": "grasp", "watchdgo": 1.0}, "no such parameter: watchdgo"),
    ],
)
def test_wrong_parameters_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, object], sentence: str
) -> None:
    with_parameters(monkeypatch, **parameters)
    with pytest.raises(UserError, match=sentence):
        ArmGuard()
