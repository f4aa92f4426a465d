"""Grasp: take the object on the table and lift it."""

from typing import ClassVar

import numpy as np

from rl_ros.tasks.task import Expert, Judgement, Values

LIFT_HEIGHT = 0.10
"""m above the table that counts as lifted."""
IN_HAND = 0.04
"""m between the object and the tool, at most, for the object to be in the hand."""


class Lift:
    """Observations hold `tool_position` (3,) and `finger_position` (2,), auxiliary values `object_position` (3,), m."""

    name: ClassVar[str] = "lift"
    ends_with_success: ClassVar[bool] = True
    expert_needs: ClassVar[tuple[str, ...]] = ("object_position",)

    def begin(self) -> None:
        """Nothing to do: a judgement depends on one moment alone."""

    def routine(self) -> None:
        """None: the whole episode is the policy's."""

    def goal_pose(self, seed: int) -> np.ndarray:
        """Straight above the table's middle, at the height that counts as lifted, for every seed."""
        return np.array([0.5, 0.0, LIFT_HEIGHT])

    def goal_vector(self, position: np.ndarray) -> np.ndarray:
        """The height alone, float32 (1,) m."""
        return np.array([position[2]], np.float32)

    def judge(self, values: Values, desired_goal: np.ndarray) -> Judgement:
        """1 and success where the object is in the hand and as high as the goal, else 0."""
        held = np.linalg.norm(values["object_position"] - values["tool_position"]) < IN_HAND
        success = bool(held and values["object_position"][2] >= desired_goal[0])
        return Judgement(float(success), success)

    def expert(self, noise: float) -> Expert:
        """A funnel with errors; at noise 1 it succeeds in about seven of ten episodes."""
        return LiftExpert(noise)


class LiftExpert:
    """Comes down as the horizontal error shrinks, closes, lifts.

    The height follows the horizontal error smoothly: a policy that clones hard switches hovers, one that
    clones a funnel does not. Its errors are a wrong belief of where the object is, drawn once an episode and
    thus not averaged out within it; haste, in a part of the episodes, in which the fingers close before they
    are around the object; and noise on each action.
    """

    SPEED = 0.3
    """m/s, the contract's limit of each axis."""
    GAIN = 5.0
    """1/s, from a position error to a velocity."""
    SLOPE = 3.0
    """m of height for each m of horizontal error beyond the tolerance."""
    GRASP_HEIGHT = 0.018
    """m above the table at which the fingers close."""
    TOLERANCE = 0.012
    """m from the believed grasp point within which the fingers close."""
    BELIEF_ERROR = 0.012
    """m, standard deviation along each axis at noise 1."""
    HASTE = 0.3
    """Share of hasty episodes at noise 1."""
    CLOSED = 0.032
    """m, finger position below which the fingers have closed on something, or on nothing."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Draw the episode's wrong belief, and whether it is in haste."""
        self._rng = np.random.default_rng([seed, 0x6A5B])
        self._belief_error = self.noise * self._rng.normal(0.0, [self.BELIEF_ERROR, self.BELIEF_ERROR])
        in_haste = self._rng.random() < self.noise * self.HASTE
        self._close_height = self._rng.uniform(0.06, 0.09) if in_haste else self.GRASP_HEIGHT

    def act(self, values: Values, desired_goal: np.ndarray) -> np.ndarray:
        """Velocity (3,) m/s and gripper (1,), 0 closed or 1 open; float32 (4,)."""
        tool = values["tool_position"].astype(np.float64)
        cube = values["object_position"].astype(np.float64)
        target = cube[:2] + self._belief_error
        error = target - tool[:2]
        distance = float(np.linalg.norm(error))
        fingers = float(values["finger_position"].mean())
        at_grasp = distance < self.TOLERANCE and tool[2] < self._close_height + 0.012
        held = fingers < self.CLOSED and np.linalg.norm(cube - tool) < IN_HAND
        if held or at_grasp:
            opening = 0.0
            up = self.SPEED if fingers < self.CLOSED else 0.0
            velocity = np.array([*(0.0 * error), up])
        else:
            opening = 1.0
            height = self.GRASP_HEIGHT + self.SLOPE * max(0.0, distance - 0.5 * self.TOLERANCE)
            velocity = self.GAIN * np.array([*error, min(height, 0.25) - tool[2]])
        velocity = velocity + self.noise * self._rng.normal(0.0, 0.02, 3)
        velocity = np.clip(velocity, -self.SPEED, self.SPEED)
        return np.array([*velocity, opening], np.float32)
