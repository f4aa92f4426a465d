"""Slide: hit a puck so that it comes to rest at a position that the arm cannot reach."""

from typing import ClassVar

import numpy as np

from rl_ros.tasks.goals import GoalTask, NoisyExpert, towards
from rl_ros.tasks.task import Expert, Values

LOW, HIGH = (0.80, -0.20, 0.015), (1.20, 0.20, 0.015)
"""m, corners of where goals are, at the height of the puck's centre."""
SPEED = 0.6
"""m/s along each axis, the contract's limit."""


class Slide(GoalTask):
    """Observations hold `tool_position` and `object_position`, each (3,), m."""

    name: ClassVar[str] = "slide"
    achieved_goal: ClassVar[str] = "object_position"

    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(LOW, HIGH)

    def expert(self, noise: float) -> Expert:
        """Aims and hits."""
        return SlideExpert(noise, SPEED)


class SlideExpert(NoisyExpert):
    """Goes behind the puck, above it where it is in the way, and pushes until it is as fast as the way to go asks for.

    What slides over a distance d comes to rest from a speed of sqrt(2 friction gravity d). The closed fingers are a
    box: only an edge of it, with the puck's centre in line, pushes another way than straight ahead.
    """

    BRAKING = 0.032 * 9.81
    """m/s^2 that friction slows the puck by."""
    FINGERS = (0.01, 0.014)
    """m from the tool to the faces of the closed fingers, along x and y."""
    RADIUS = 0.03
    """m, of the puck."""
    BEHIND = 0.035
    """m from the puck to the fingers where the push begins."""
    LOW, HIGH = 0.02, 0.08
    """m above the table: to push, and to pass over the puck."""
    ASIDE = 0.008
    """m beside the line of the push at which it begins anew."""
    MOVING = 0.03
    """m/s from which the puck slides."""
    FOLLOW = 0.88
    """Share of the needed speed at which the hand pushes: what it hits is a little faster than it."""
    ENOUGH = 0.93
    """Share of the needed speed at which the push ends."""
    GAIN = 0.1
    """m/s that the hand is faster than the puck by, at most: it nudges it on."""
    LOST = 0.05
    """m between them from which a sliding puck is left alone."""
    AIM = 6.0
    """1/s at which the hand corrects its place beside the line."""

    def _plan(self, values: Values, goal: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
        tool, thing, speed = values["tool_position"], values["object_position"], values["object_velocity"]
        offset = goal[:2] - thing[:2]
        left = float(np.linalg.norm(offset))
        along = offset / max(left, 1e-6)
        across = np.array([-along[1], along[0]])
        edge = np.array([self.FINGERS[0], np.copysign(self.FINGERS[1], along[1])])
        way = thing[:2] - self.RADIUS * along - edge - tool[:2]  # to where the edge touches the puck
        gap, beside = float(way @ along), float(way @ across)
        needed = float(np.sqrt(2.0 * self.BRAKING * left))
        sliding = np.linalg.norm(speed[:2]) > self.MOVING
        reached = float(speed[:2] @ along)
        if left < 0.02 or (sliding and (gap > self.LOST or reached > self.ENOUGH * needed)):
            return np.zeros(3), ()
        if -0.02 < gap < self.BEHIND + 0.02 and abs(beside) < self.ASIDE and tool[2] < self.LOW + 0.02:
            pushing = min(self.FOLLOW * needed, reached + self.GAIN) * along + self.AIM * beside * across
            return np.array([*pushing, 4.0 * (self.LOW - tool[2])]), ()
        error = way - self.BEHIND * along
        height = self.LOW if np.linalg.norm(error) < self.ASIDE else self.HIGH
        if height == self.HIGH and tool[2] < self.HIGH - 0.03 and np.linalg.norm(thing[:2] - tool[:2]) < 0.1:
            error = 0.0 * error  # straight up first, so as not to touch the puck on the way
        return towards(np.array([*error, height - tool[2]]), 0.5 * self.speed), ()
