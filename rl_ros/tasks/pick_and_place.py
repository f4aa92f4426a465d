"""Pick and place: bring the object to a position, half of the time in the air."""

from typing import ClassVar

import numpy as np

from rl_ros.tasks.goals import GoalTask, NoisyExpert, towards
from rl_ros.tasks.task import Expert, Values

CENTRE = (0.525, 0.0, 0.02)
"""m, below where the tool begins, at the height of the object's centre."""
SPREAD = 0.15
"""m along x and y, at most, from there to the goal."""
IN_THE_AIR = 0.5
"""Share of the goals that are above the table."""
LIFT = 0.3
"""m above the table, at most, of these."""


class PickAndPlace(GoalTask):
    """Observations hold `tool_position`, `object_position` (3,) and `finger_position` (2,), m."""

    name: ClassVar[str] = "pick_and_place"
    achieved_goal: ClassVar[str] = "object_position"

    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        plane, height = rng.uniform(-SPREAD, SPREAD, 2), rng.uniform(0.0, LIFT)
        return np.array(CENTRE) + [*plane, height if rng.random() < IN_THE_AIR else 0.0]

    def expert(self, noise: float) -> Expert:
        """Grasps from above and carries."""
        return PickAndPlaceExpert(noise)


class PickAndPlaceExpert(NoisyExpert):
    """Comes down over the object as the horizontal error shrinks, closes, carries it to the goal and stays."""

    TOLERANCE = 0.012
    """m from above the object's centre within which the hand comes all the way down."""
    GRASP = 0.012
    """m of height between tool and object at which the fingers close."""
    SLOPE = 3.0
    """m of height for each m of horizontal error beyond the tolerance."""
    CLOSED = 0.025
    """m, finger position below which the fingers have closed on the object."""

    def _plan(self, values: Values, goal: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
        tool, thing = values["tool_position"], values["object_position"]
        relative = thing - tool
        aside = float(np.linalg.norm(relative[:2]))
        if aside < 0.025 and abs(relative[2]) < 0.025 and values["finger_position"].mean() < self.CLOSED:
            return towards(goal - thing, self.speed), (0.0,)
        if aside < self.TOLERANCE and abs(relative[2]) < self.GRASP:
            return np.zeros(3), (0.0,)
        above = min(self.SLOPE * max(0.0, aside - 0.5 * self.TOLERANCE), 0.12)
        return towards(np.array([*relative[:2], relative[2] + above]), self.speed), (1.0,)
