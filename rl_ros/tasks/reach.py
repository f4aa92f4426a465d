"""Reach: bring the tool to a position."""

from typing import ClassVar

import numpy as np

from rl_ros.tasks.goals import GoalTask, NoisyExpert, towards
from rl_ros.tasks.task import Expert, Values

CENTRE = (0.525, 0.0, 0.22)
"""m, where the tool begins."""
SPREAD = 0.15
"""m along each axis, at most, from there to the goal."""


class Reach(GoalTask):
    """Observations hold `tool_position` (3,), m."""

    name: ClassVar[str] = "reach"
    achieved_goal: ClassVar[str] = "tool_position"

    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        return np.array(CENTRE) + rng.uniform(-SPREAD, SPREAD, 3)

    def expert(self, noise: float) -> Expert:
        """Goes straight there."""
        return ReachExpert(noise)


class ReachExpert(NoisyExpert):
    """Goes straight there."""

    def _plan(self, values: Values, goal: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
        return towards(goal - values["tool_position"], self.speed), ()
