"""goal_encoder: turns a goal into the contract's desired goal."""

import json
from collections import deque

import numpy as np

from rl_ros.contract import Key
from rl_ros.episodes import messages
from rl_ros.nodes.base import Node
from rl_ros.tasks.task import make_task

GOAL_POSITION = Key("/goal/pose", "geometry_msgs/msg/PoseStamped", "pose.position", (3,), "float64", "m")
KEPT_TICKS = 512
"""Ticks that may come before the goal of their episode."""


class GoalEncoder(Node):
    """State goals: a position becomes the desired goal.

    The goal that counts is the last one to arrive: an episode's own, which comes with its start, until somebody
    publishes another on `goal/pose`, whatever its stamp. An episode whose start tells none keeps the last goal.

    A contract whose goal is `exact` is given it with the stamp of each tick, so that policy, reward and recording agree
    on the tick from which a new goal counts. One whose goal is `held` is given each goal once, with the goal's own
    stamp.
    """

    def __init__(self) -> None:
        super().__init__("goal_encoder")
        self.task = make_task(self.contract.task)
        self.key = self.contract.goal.desired_goal
        self.start: int | None = None
        """Stamp of the running episode's first tick, ns."""
        self.told = False
        """Whether the start has told the episode's goal; then the same one comes on `goal/pose` as well."""
        self.goal: np.ndarray | None = None
        """The position that counts, m."""
        self.early: bytes | None = None
        """The last goal that came between two episodes."""
        self.ticks: deque[int] = deque(maxlen=KEPT_TICKS)
        """Stamps of the ticks that have no goal yet."""
        self.listen("goal/pose", self.on_goal)
        self.listen("episode/event", self.on_event)
        if self.key.alignment != "held":
            self.listen(self.contract.observation[self.contract.reference].topic, self.on_tick)

    def on_goal(self, cdr: bytes) -> None:
        """A goal, the episode manager's or a person's; one that cannot be meant is refused, and the old one stays."""
        pose = messages.decode(GOAL_POSITION.type, cdr)
        stamp, frame, position = messages.stamp_of(cdr), pose.header.frame_id, messages.value(GOAL_POSITION, cdr)
        if frame not in ("", self.contract.frame):
            self.refuse(f"a goal in frame '{frame}'; it is expected in {self.contract.frame}")
        elif not np.isfinite(position).all():
            self.refuse(f"a goal that is not finite: {position.tolist()}")
        elif self.start is None:
            self.early = cdr
        elif not (self.told and stamp == self.start):
            self.take(position, stamp)

    def on_event(self, cdr: bytes) -> None:
        """Episodes begin and end."""
        event = messages.status_of(cdr)
        if event.name == "prepare":
            self.start = None
            self.get_ready(int(event.values["episode"]))
        elif event.name == "start":
            self.start, self.told = event.stamp, "goal" in event.values
            if self.told:
                self.take(np.array(json.loads(event.values["goal"])), event.stamp)
            elif self.early is not None:
                self.on_goal(self.early)
            elif self.goal is not None:
                self.take(self.goal, event.stamp)
            self.early = None

    def on_tick(self, cdr: bytes) -> None:
        """An observation wants a goal."""
        self.ticks.append(messages.stamp_of(cdr))
        self.answer()

    def refuse(self, text: str) -> None:
        """Say what is wrong with a goal."""
        self.get_logger().error(f"refused: {text}")
        self.report(f"refused: {text}")

    def take(self, position: np.ndarray, stamp: int) -> None:
        """From now on this is the goal."""
        self.goal = position
        if self.key.alignment == "held":
            self.tell(stamp)
        self.answer()

    def answer(self) -> None:
        """Give each tick of the running episode its goal."""
        if self.start is None or self.goal is None:
            return
        while self.ticks:
            stamp = self.ticks.popleft()
            if stamp >= self.start:
                self.tell(stamp)

    def tell(self, stamp: int) -> None:
        """Publish the goal as the contract has it."""
        assert self.goal is not None
        goal = self.task.goal_vector(self.goal)
        self.send(self.key.topic, messages.joint_state_cdr(stamp, self.key.names, goal))
