"""Push: bring the object on the table to a position on the table, with the hand closed."""

from typing import ClassVar

import numpy as np

from rl_ros.tasks.goals import GoalTask, NoisyExpert, towards
from rl_ros.tasks.task import Expert, Values

CENTRE = (0.525, 0.0, 0.02)
"""m, where the tool begins, at the height of the object's centre."""
SPREAD = 0.15
"""m along x and y, at most, from there to the goal."""


class Push(GoalTask):
    """Observations hold `tool_position` and `object_position`, each (3,), m."""

    name: ClassVar[str] = "push"
    achieved_goal: ClassVar[str] = "object_position"

    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        return np.array(CENTRE) + [*rng.uniform(-SPREAD, SPREAD, 2), 0.0]

    def expert(self, noise: float) -> Expert:
        """Pushes from behind."""
        return PushExpert(noise)


class PushExpert(NoisyExpert):
    """Goes behind the object, above it where it is in the way, and pushes along the line to the goal."""

    BEHIND = 0.055
    """m from the object's centre to where the push begins."""
    LOW, HIGH = 0.02, 0.09
    """m above the table: to push, and to pass over the object."""
    ARRIVED = 0.01
    """m of the object from the goal at which the push ends."""
    ASIDE = 0.018
    """m beside the line of the push at which it begins anew."""

    def _plan(self, values: Values, goal: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
        tool, thing = values["tool_position"], values["object_position"]
        offset = goal[:2] - thing[:2]
        left = float(np.linalg.norm(offset))
        if left < self.ARRIVED:
            return np.zeros(3), ()
        along = offset / left
        relative = tool[:2] - thing[:2]
        behind = -float(relative @ along)
        beside = float(abs(relative @ np.array([-along[1], along[0]])))
        if beside < self.ASIDE and 0.0 < behind < self.BEHIND + 0.03 and tool[2] < self.LOW + 0.02:
            # The hand's nose is `BEHIND` at most from the object's centre: it pushes the rest of the way, and slows.
            wanted = thing[:2] - 0.03 * along + along * min(left, 0.05)
            sideways = wanted - tool[:2]
            return towards(np.array([*sideways, self.LOW - tool[2]]), min(self.speed, 0.05 + 2.0 * left)), ()
        begin = thing[:2] - self.BEHIND * along
        error = begin - tool[:2]
        height = self.LOW if np.linalg.norm(error) < self.ASIDE else self.HIGH
        if height == self.HIGH and tool[2] < self.HIGH - 0.03 and np.linalg.norm(relative) < 0.08:
            error = 0.0 * error  # straight up first, so as not to push the object on the way
        return towards(np.array([*error, height - tool[2]]), self.speed), ()
