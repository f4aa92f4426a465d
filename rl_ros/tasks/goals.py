"""Tasks whose goal is a position: what they share.

The reward is that of the Fetch tasks (Plappert et al. 2018, 1802.09464, section 1.1): -1 until what is asked for is
within 5 cm, then 0; or the negative distance.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np

from rl_ros import schema
from rl_ros.robots.pybullet_arm import PyBulletArm
from rl_ros.tasks.task import Expert, Judgement, Values

RewardKind = Literal["sparse", "dense"]

THRESHOLD = 0.05
"""m from the goal that counts as reached."""
SPEED = 0.4
"""m/s along each axis, the limit of the contracts of reach, push and pick_and_place."""
NOISE = 0.1
"""m/s, standard deviation of the error of each of an expert's velocities at noise 1."""


def distance(achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
    """Metres between positions (..., 3); (...). A row gives the same bits alone and in a batch."""
    difference = achieved_goal - desired_goal
    x, y, z = difference[..., 0], difference[..., 1], difference[..., 2]
    result: np.ndarray = np.sqrt(x * x + y * y + z * z)
    return result


def towards(error: np.ndarray, speed: float, gain: float = 5.0) -> np.ndarray:
    """Velocity, m/s, that takes away a position error, m: its direction is kept where `speed` limits it, each (3,)."""
    velocity = gain * error
    excess = float(np.abs(velocity).max()) / speed
    return velocity / max(1.0, excess)


class GoalTask(ABC):
    """A task that asks for something to be at a position.

    Args:
        reward: `sparse` is -1 until the goal is reached and 0 there, `dense` the negative distance in metres.

    Raises:
        UserError: there is no such reward.
    """

    name: ClassVar[str]
    ends_with_success: ClassVar[bool] = False
    expert_needs: ClassVar[tuple[str, ...]] = ()
    achieved_goal: ClassVar[str]
    """The contract key that says where it is."""
    threshold: ClassVar[float] = THRESHOLD
    """m from the goal that counts as reached."""

    def __init__(self, reward: RewardKind = "sparse") -> None:
        self.reward: RewardKind = schema.convert(RewardKind, reward, f"task {self.name}: reward")

    def begin(self) -> None:  # noqa: B027 (a judgement depends on one moment alone)
        """See `Task.begin`."""

    def routine(self) -> None:  # noqa: B027 (the whole episode is the policy's)
        """See `Task.routine`."""

    def goal_pose(self, seed: int) -> np.ndarray:
        """The desired goal of the episode with this seed, float64 (3,) m."""
        # A stream of its own: the simulation draws its objects from the same seed.
        return self._draw_goal(np.random.default_rng([seed, 0x60A1]))

    @abstractmethod
    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        """A goal, float64 (3,) m."""

    def goal_vector(self, position: np.ndarray) -> np.ndarray:
        """The position itself, float32 (3,) m."""
        return np.asarray(position, np.float32)

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None) -> np.ndarray:
        """What achieving goals (..., 3) m is worth where (..., 3) were desired: float32 (...).

        `info` is there because Gymnasium passes it; it changes nothing.
        """
        apart = distance(achieved_goal, desired_goal)
        result = -apart if self.reward == "dense" else np.where(apart >= self.threshold, -1.0, 0.0)
        return np.asarray(result, np.float32)

    def reached(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        """Whether goals (..., 3) m are reached: bool (...)."""
        return np.asarray(distance(achieved_goal, desired_goal) < self.threshold)

    def arrange(self, world: PyBulletArm, seed: int) -> None:
        """Reset a world to the episode of this seed with its goal reached, for a picture of it: the first object is at
        the goal, or where there is none the tool."""
        world.reset(seed)
        x, y, z = (float(value) for value in self.goal_pose(seed))
        if world.scene.objects:
            world.place_object(world.scene.objects[0].name, (x, y, z), 0.0)
        else:
            world.place_tool((x, y, z))

    def judge(self, values: Values, desired_goal: np.ndarray) -> Judgement:
        """Reward and success of being where the values say."""
        achieved_goal = values[self.achieved_goal]
        return Judgement(
            float(self.compute_reward(achieved_goal, desired_goal)), bool(self.reached(achieved_goal, desired_goal))
        )

    @abstractmethod
    def expert(self, noise: float) -> Expert:
        """The scripted expert; `noise` scales its errors."""


class NoisyExpert(ABC):
    """A scripted expert whose velocities have errors of their own at each tick, drawn from the episode's seed."""

    def __init__(self, noise: float, speed: float = SPEED) -> None:
        self.noise, self.speed = noise, speed
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng([seed, 0x3E9E])

    def act(self, values: Values, desired_goal: np.ndarray) -> np.ndarray:
        """Velocity (3,) m/s and what else the contract's action holds; float32 (A,)."""
        velocity, rest = self._plan(
            {name: value.astype(np.float64) for name, value in values.items()}, desired_goal.astype(np.float64)
        )
        velocity = velocity + self.noise * self._rng.normal(0.0, NOISE, 3)
        return np.array([*np.clip(velocity, -self.speed, self.speed), *rest], np.float32)

    @abstractmethod
    def _plan(self, values: Values, goal: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
        """The velocity without errors, (3,) m/s, and the rest of the action."""
