"""The policy of `latency.py` as it is usually written: decoded messages, eager torch, a MultiThreadedExecutor."""

import sys

import numpy as np
import rclpy
import torch
from geometry_msgs.msg import PoseStamped, TwistStamped
from live_graph import CENTRE, Circle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState

from rl_ros.contract import Contract


class PlainPolicy(Node):
    """Answers each picture with the newest of everything else."""

    def __init__(self, contract: Contract) -> None:
        super().__init__("plain_policy")
        torch.manual_seed(0)
        self.policy = Circle(len(contract.action_low), 0, CENTRE).eval()
        self.newest: dict[str, object] = {}
        goal = contract.goal.desired_goal.topic
        for topic, kind in (
            ("/joint_states", JointState),
            ("/tool/pose", PoseStamped),
            ("/tool/twist", TwistStamped),
            (goal, JointState),
        ):
            self.create_subscription(kind, topic, lambda message, topic=topic: self.keep(topic, message), 10)
        self.goal = goal
        self.create_subscription(Image, "/camera/image_raw", self.answer, qos_profile_sensor_data)
        self.actions = self.create_publisher(TwistStamped, "/policy/action", 10)
        self.grippers = self.create_publisher(JointState, "/policy/gripper", 10)

    def keep(self, topic: str, message: object) -> None:
        """The newest of a topic."""
        self.newest[topic] = message

    def answer(self, image: Image) -> None:
        """One action for one picture."""
        if len(self.newest) < 4:
            return
        pose, goal = self.newest["/tool/pose"], self.newest[self.goal]
        at = pose.pose.position  # type: ignore[attr-defined]
        pixels = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
        observation = {
            "image": torch.from_numpy(pixels.copy())[None],
            "tool_position": torch.tensor([[at.x, at.y, at.z]], dtype=torch.float32),
        }
        with torch.no_grad():
            action = self.policy(observation, torch.tensor([list(goal.position)], dtype=torch.float32))[0].numpy()  # type: ignore[attr-defined]
        twist = TwistStamped()
        twist.header.stamp, twist.header.frame_id = image.header.stamp, "panda_link0"
        twist.twist.linear.x, twist.twist.linear.y, twist.twist.linear.z = (float(each) for each in action[:3])
        gripper = JointState(name=["gripper"], position=[float(action[3])])
        gripper.header.stamp = image.header.stamp
        self.actions.publish(twist)
        self.grippers.publish(gripper)


def main() -> None:
    """Spin until the process is told to end."""
    torch.set_num_threads(1)
    contract = Contract.load(sys.argv[1])
    try:
        with rclpy.init():
            executor = MultiThreadedExecutor()
            executor.add_node(PlainPolicy(contract))
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
