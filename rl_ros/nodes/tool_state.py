"""tool_state: where the tool of a real arm is, from the positions of its joints."""

import numpy as np

from rl_ros.contract import Key
from rl_ros.episodes import messages
from rl_ros.episodes.cadence import Cadence
from rl_ros.errors import UserError
from rl_ros.nodes.base import Node
from rl_ros.robots.arm import Arm, quaternion

POSE, TWIST = "tool/pose", "tool/twist"


class ToolState(Node):
    """Publishes pose and velocity of the tool with the stamps of the joint states, no more often than is asked for."""

    def __init__(self) -> None:
        super().__init__("tool_state")
        self.arm = Arm(self.settings["arm"])
        if self.contract.frame != self.arm.robot.base_frame:
            raise UserError(
                f"node tool_state: the contract's frame is {self.contract.frame}, the base of {self.arm.robot.name} is "
                f"{self.arm.robot.base_frame}; give a contract of this arm."
            )
        names = self.arm.joint_names
        kind, shape = "sensor_msgs/msg/JointState", (len(names),)
        self.positions = Key("/joint_states", kind, "position", shape, "float64", "rad", names)
        self.velocities = Key("/joint_states", kind, "velocity", shape, "float64", "rad/s", names)
        reference = self.contract.observation[self.contract.reference].topic.lstrip("/")
        self.cadence = {topic: Cadence(round(1e9 / self.settings["rate"])) for topic in (POSE, TWIST)}
        if reference in self.cadence:  # each of its messages is a tick
            self.cadence[reference] = Cadence(self.contract.period_ns)
        self.listen("joint_states", self.on_joints)

    def on_joints(self, cdr: bytes) -> None:
        """Where the joints are; messages without every joint of the arm, such as a gripper's, are none."""
        try:
            stamp, positions = messages.stamp_of(cdr), messages.value(self.positions, cdr)
        except messages.MessageError as error:
            self.get_logger().warning(f"joint states that tell nothing of the arm: {error}", once=True)
            return
        if not np.isfinite(positions).all():
            return  # the guard says so
        if self.cadence[POSE].picks(stamp):
            position, rotation = self.arm.forward(positions)
            self.send(POSE, messages.pose_cdr(stamp, self.contract.frame, position, quaternion(rotation)))
        velocities = self.velocities_of(cdr)
        if velocities is not None and self.cadence[TWIST].picks(stamp):
            twist = self.arm.jacobian(positions) @ velocities
            self.send(TWIST, messages.twist_cdr(stamp, self.contract.frame, twist[:3], twist[3:]))

    def velocities_of(self, cdr: bytes) -> np.ndarray | None:
        """Of the joints, (N,) rad/s; None where the driver tells none, as some leave them out or NaN."""
        try:
            velocities = messages.value(self.velocities, cdr)
        except messages.MessageError as error:
            self.get_logger().warning(f"joint states without velocities, so there is no /{TWIST}: {error}", once=True)
            return None
        if not np.isfinite(velocities).all():
            self.get_logger().warning(f"joint states: velocities not finite, so there is no /{TWIST}", once=True)
            return None
        return velocities
