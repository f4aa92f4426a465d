"""goal: gives a running graph a goal, and ends when the graph follows it."""

import numpy as np

from rl_ros.episodes import messages
from rl_ros.nodes.base import Node, steady
from rl_ros.tasks.task import make_task

REPEAT_SECONDS = 0.1
"""How often the goal is said: a listener that has just been found may miss it."""


class Goal(Node):
    """Publishes a position on `goal/pose` until goal_encoder makes it the desired goal."""

    def __init__(self) -> None:
        super().__init__("goal")
        self.position = np.array(self.settings["position"])
        self.wanted = make_task(self.contract.task).goal_vector(self.position)
        self.began = steady()
        self.key = self.contract.goal.desired_goal
        self.listen(self.key.topic, self.on_desired_goal)
        self.steady_timer(REPEAT_SECONDS, self.on_time)

    def on_time(self) -> None:
        """Say it, or give up."""
        # Stamp 0: it counts from the next tick on, whenever that is.
        self.send("goal/pose", messages.pose_cdr(0, self.contract.frame, self.position))
        if steady() - self.began > self.settings["patience"]:
            self.get_logger().error("nobody follows /goal/pose; does a graph run its episodes on this ROS domain?")
            self.exit_code = 2

    def on_desired_goal(self, cdr: bytes) -> None:
        """What policy and reward are told."""
        if np.array_equal(messages.value(self.key, cdr), self.wanted):
            self.exit_code = 0
