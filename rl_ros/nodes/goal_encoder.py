"""goal_encoder: turns a goal into the contract's desired goal."""

from rl_ros.contract import Key
from rl_ros.episodes import messages
from rl_ros.nodes.base import Node
from rl_ros.tasks.task import make_task

GOAL_POSITION = Key("/goal/pose", "geometry_msgs/msg/PoseStamped", "pose.position", (3,), "float64", "m")


class GoalEncoder(Node):
    """State goals: a position on `goal/pose` becomes the latched desired goal, with the same stamp."""

    def __init__(self) -> None:
        super().__init__("goal_encoder")
        self.task = make_task(self.contract.task)
        self.listen("goal/pose", self.on_goal)

    def on_goal(self, cdr: bytes) -> None:
        """Encode one goal."""
        goal = self.task.goal_vector(messages.value(GOAL_POSITION, cdr))
        key = self.contract.goal.desired_goal
        self.send(key.topic, messages.joint_state_cdr(messages.stamp_of(cdr), key.names, goal))
