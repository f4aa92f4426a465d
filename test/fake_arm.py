"""An arm behind ros2_control, for tests: `python test/fake_arm.py ROBOT`.

Two trajectory controllers, the broadcaster of joint states at 100 Hz, and hardware that follows with a lag. It prints
one JSON line each time its figures change.
"""

import json
import sys
import time

import numpy as np
import rclpy
import rclpy.node
from fake_controller import FakeTrajectoryController, Parameters, Point, Trajectory
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from rl_ros.episodes import messages
from rl_ros.nodes.spin import ros
from rl_ros.robots.arm import Arm

PERIOD = 0.01
"""s between two updates."""
LAG = 0.02
"""s, the time constant of the hardware."""


class FakeArm(rclpy.node.Node):
    """Begins a few degrees away from home."""

    def __init__(self, name: str) -> None:
        super().__init__("fake_arm")
        self.arm = Arm(name)
        gripper = self.arm.robot.gripper
        limits = Parameters(path_tolerance=0.2, goal_tolerance=0.05, goal_time=0.3, cmd_timeout=1.0)
        self.controllers = {
            "arm": FakeTrajectoryController(self.arm.joint_names, self.arm.home + 0.08, limits),
            "gripper": FakeTrajectoryController(gripper.joints, np.full(len(gripper.joints), gripper.open)),
        }
        self.positions = {part: each.measured.copy() for part, each in self.controllers.items()}
        self.moved = 0.0
        self.said = ""
        topics = self.arm.robot.topics["real"]
        for part in self.controllers:
            self.create_subscription(
                JointTrajectory, topics[f"controllers/{part}"], lambda cdr, part=part: self.on_command(part, cdr), 10,
                raw=True,
            )  # fmt: skip
        self.states = self.create_publisher(JointState, "/joint_states", 10)
        # What control_msgs/JointTrajectoryControllerState would tell: PyPI does not have that package.
        self.state = self.create_publisher(
            JointState, topics["controllers/arm"].replace("joint_trajectory", "error"), 1
        )
        self.create_timer(PERIOD, self.on_time, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def on_command(self, part: str, cdr: bytes) -> None:
        message = deserialize_message(cdr, JointTrajectory)
        points = tuple(
            Point(tuple(p.positions), p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec, tuple(p.velocities))
            for p in message.points
        )
        stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        self.controllers[part].command(Trajectory(stamp, tuple(message.joint_names), points), time.time())

    def on_time(self) -> None:
        now = time.time()
        before = self.positions["arm"].copy()
        for part, controller in self.controllers.items():
            target = controller.update(now, self.positions[part])
            self.positions[part] += (target - self.positions[part]) * (1.0 - np.exp(-PERIOD / LAG))
        self.moved += float(np.abs(self.positions["arm"] - before).sum())
        velocities = (self.positions["arm"] - before) / PERIOD
        arm, gripper = self.controllers["arm"], self.controllers["gripper"]
        names, stamp = arm.joints + gripper.joints, round(now * 1e9)
        positions = np.concatenate(list(self.positions.values()))
        speeds = np.concatenate([velocities, np.zeros(len(gripper.joints))])
        self.states.publish(messages.joint_state_cdr(stamp, names, positions, speeds))
        self.state.publish(messages.joint_state_cdr(stamp, arm.joints, arm.error))
        figures = {
            part: {"accepted": c.accepted, "rejected": c.rejected[:3], "aborted": c.aborted[:3]}
            for part, c in self.controllers.items()
        }
        text = json.dumps(figures | {"moved": round(self.moved, 1)})
        if text != self.said:
            print(text, flush=True)
        self.said = text


def main() -> None:
    try:
        with ros():
            node, executor = FakeArm(sys.argv[1]), EventsExecutor()
            executor.add_node(node)
            while rclpy.ok():
                executor.spin_once(timeout_sec=0.2)
            node.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
