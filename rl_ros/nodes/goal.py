"""goal: gives a running graph a goal, and ends when the graph follows it."""

import time
from pathlib import Path

import numpy as np

from rl_ros.episodes import messages
from rl_ros.episodes.pictures import read_picture
from rl_ros.errors import UserError
from rl_ros.nodes.base import Node, steady
from rl_ros.tasks.task import make_task

REPEAT_SECONDS = 0.1
"""How often the goal is said: a listener that has just been found may miss it."""


class Goal(Node):
    """Publishes a position on `goal/pose` until goal_encoder makes it the desired goal, or a picture on `goal/image`
    until goal_encoder says that it follows it, or why it does not."""

    def __init__(self) -> None:
        super().__init__("goal")
        self.began = steady()
        if self.settings["picture"]:
            # The stamp tells the answer to this picture from others; it counts from the next tick on, whenever that is.
            self.topic, self.stamp = "goal/image", time.time_ns()
            self.cdr = messages.image_cdr(self.stamp, "", read_picture(Path(self.settings["picture"])))
            self.listen("diagnostics", self.on_diagnostics)
        elif len(self.settings["position"]) == 3:
            self.topic, position = "goal/pose", np.array(self.settings["position"])
            self.wanted = make_task(self.contract.task).goal_vector(position)
            self.cdr = messages.pose_cdr(0, self.contract.frame, position)
            self.key = self.contract.goal.desired_goal
            self.listen(self.key.topic, self.on_desired_goal)
        else:
            raise UserError("node goal: position: expected three numbers of metres, or a picture.")
        self.steady_timer(REPEAT_SECONDS, self.on_time)

    def on_time(self) -> None:
        """Say it, or give up."""
        self.send(self.topic, self.cdr)
        if steady() - self.began > self.settings["patience"]:
            self.get_logger().error(f"nobody follows /{self.topic}; does a graph run its episodes on this ROS domain?")
            self.exit_code = 2

    def on_desired_goal(self, cdr: bytes) -> None:
        """What policy and reward are told."""
        if np.array_equal(messages.value(self.key, cdr), self.wanted):
            self.exit_code = 0

    def on_diagnostics(self, cdr: bytes) -> None:
        """What goal_encoder says of the picture."""
        try:
            status = messages.status_of(cdr)
        except messages.MessageError:  # somebody's who has nothing to say
            return
        if status.name == "goal_encoder" and status.values.get("stamp") == str(self.stamp) and self.exit_code is None:
            print(status.text, flush=True)
            self.exit_code = 2 if status.level == messages.ERROR else 0
