"""Tasks whose goal is a picture: what a camera would see, had the arm done what is wanted.

A policy sees such a task through an image encoder: its observation and its goal are latents, and what it is worth to be
somewhere is the negative distance between the two (Nair et al. 2018, 1807.04742, section 4.2). Nobody needs to know
where anything is. The simulation does know, and measures by it.
"""

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np

from rl_ros.contract import Contract
from rl_ros.episodes.distance import LATENT_REWARD
from rl_ros.errors import UserError
from rl_ros.resources import share_file
from rl_ros.robots.doors import edge
from rl_ros.robots.pybullet_arm import Camera, Light, PyBulletArm, Scene
from rl_ros.tasks.env import VISUAL_TASKS, ArmEnvironment, Observation, make
from rl_ros.tasks.goals import GoalTask, distance
from rl_ros.tasks.task import Expert, Judgement, Values

LATENT = "latent"
"""The contract key of an image's latent."""
LOW, HIGH = (0.42, -0.15), (0.64, 0.15)
"""m, x and y, corners of where the hand may be: those of the graphs' guards."""
HEIGHT = 0.05
"""m above the table, of the hand."""
NEAR = 1.0
"""Distance of latents, of about unit variance, that counts as reached where nothing else is known."""


class Senses(Protocol):
    """What makes latents and goals, for any number of environments; it may change between two episodes."""

    def see(self, values: Values, first: Values) -> np.ndarray:
        """A latent, float32 (Z,), of what there is to see now and was at the episode's first tick, by contract key."""

    def goal(self, seed: int) -> np.ndarray | None:
        """The goal (Z,) of the episode with this seed; None: that of its picture."""


class VisualTask(GoalTask):
    """A task that is learned and judged by latents; positions are there to measure by, in a simulation.

    Observations hold `latent`, and the desired goal is one.
    """

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None) -> np.ndarray:
        """The negative distance of latents (..., Z) each, float32 (...)."""
        return LATENT_REWARD(achieved_goal, desired_goal)

    def judge(self, values: Values, desired_goal: np.ndarray) -> Judgement:
        """Reward and success by latents alone, as on a robot that knows nothing else."""
        reward = float(LATENT_REWARD(values[LATENT], desired_goal))
        return Judgement(reward, -reward < NEAR)

    @property
    def measured(self) -> tuple[str, ...]:
        """The contract keys of the positions that a picture shows and that are measured."""
        return self.moved or (self.achieved_goal,)

    moved: ClassVar[tuple[str, ...]] = ()

    def goal_positions(self, seed: int) -> np.ndarray:
        """Where they are in the picture of the episode with this seed, float64 (n, 3) m."""
        return self.goal_pose(seed)[None]

    def apart(self, values: Values, seed: int) -> float:
        """m from where the picture shows them, on average over what is measured."""
        found = np.stack([values[key] for key in self.measured]).astype(np.float64)
        return float(distance(found, self.goal_positions(seed)).mean())

    def expert(self, noise: float) -> Expert:
        """Wanders about: it is what encoders are first trained on."""
        return Wanderer(noise)


class VisualReach(VisualTask):
    """The hand goes where a picture shows it."""

    name: ClassVar[str] = "visual_reach"
    achieved_goal: ClassVar[str] = "tool_position"
    threshold: ClassVar[float] = 0.02

    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        return np.array([*rng.uniform(LOW, HIGH), HEIGHT])


class VisualPush(VisualTask):
    """The puck comes to where a picture shows it.

    In the picture the hand is where it is after a push: behind the puck, on the line that it came along.
    """

    name: ClassVar[str] = "visual_push"
    achieved_goal: ClassVar[str] = "object_position"
    threshold: ClassVar[float] = 0.04
    CENTRE: ClassVar[tuple[float, float, float]] = (0.53, 0.0, 0.035)
    """m, of the pucks' goals."""
    SPREAD: ClassVar[tuple[float, float]] = (0.08, 0.11)
    """m along x and y, at most, from there."""
    BEHIND: ClassVar[float] = 0.065
    """m of the hand behind the puck."""

    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        spread = np.array([*self.SPREAD, 0.0])
        return np.array(self.CENTRE) + rng.uniform(-spread, spread)

    def arrange(self, world: PyBulletArm, seed: int) -> None:
        """See `GoalTask.arrange`."""
        world.reset(seed)
        for item, goal in zip(world.scene.objects, self.goal_positions(seed), strict=True):
            began = world.object_poses()[item.name][0]
            _put(world, item.name, goal)
        way = (goal - began)[:2]
        behind = goal[:2] - self.BEHIND * way / max(float(np.linalg.norm(way)), 1e-6)
        x, y = np.clip(behind, LOW, HIGH).tolist()
        world.place_tool((x, y, HEIGHT))
        for item, goal in zip(world.scene.objects, self.goal_positions(seed), strict=True):
            _put(world, item.name, goal)  # again, in case the arm has swept it away


class VisualPushTwo(VisualPush):
    """Two pucks come to where a picture shows them; what is measured is the mean of their distances."""

    name: ClassVar[str] = "visual_push_two"
    moved: ClassVar[tuple[str, ...]] = ("object_position", "second_object_position")
    APART: ClassVar[float] = 0.1
    """m between the pucks' goals, at least."""

    def goal_positions(self, seed: int) -> np.ndarray:
        """See `VisualTask.goal_positions`."""
        rng, first = np.random.default_rng([seed, 0x2A0]), self.goal_pose(seed)
        second = self._draw_goal(rng)
        while np.linalg.norm(second - first) < self.APART:
            second = self._draw_goal(rng)
        return np.stack([first, second])


class VisualDoor(VisualTask):
    """A door is as open as a picture shows it, with the hand against it; what is measured is the panel's free edge."""

    name: ClassVar[str] = "visual_door"
    achieved_goal: ClassVar[str] = "object_position"
    threshold: ClassVar[float] = 0.03
    ANGLE: ClassVar[float] = 0.7
    """rad to either side, at most."""
    AGAINST: ClassVar[float] = 0.7
    """Share of the panel's length at which the hand is in the picture."""
    ASIDE: ClassVar[float] = 0.025
    """m of the hand from the panel's middle plane."""

    def _draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        [door] = _scene(self.name).doors
        return edge(door, rng.uniform(-self.ANGLE, self.ANGLE))

    def arrange(self, world: PyBulletArm, seed: int) -> None:
        """See `GoalTask.arrange`."""
        world.reset(seed)
        [door] = world.scene.doors
        goal = self.goal_pose(seed)
        along = (goal[:2] - door.hinge) / door.size[0]
        # The hand is on the arm's side, where it comes from.
        x, y = (
            door.hinge + self.AGAINST * door.size[0] * along - self.ASIDE * np.array([along[1], -along[0]])
        ).tolist()
        world.place_tool((float(np.clip(x, LOW[0], HIGH[0])), float(np.clip(y, LOW[1], HIGH[1])), HEIGHT))
        world.turn_door(door.name, float(np.arctan2(-along[0], along[1])))


def _put(world: PyBulletArm, name: str, position: np.ndarray) -> None:
    x, y, z = position.tolist()
    world.place_object(name, (x, y, z), 0.0)


@cache
def _scene(name: str) -> Scene:
    return Scene.load(share_file(f"sim/scenes/{name}.yaml"))


class Wanderer:
    """Velocities that wander: each keeps most of the one before (Ornstein and Uhlenbeck 1930).

    The height is left alone. What is at its limit for long is at the edge of the workspace.
    """

    KEPT = 0.8
    """Share of a velocity that the next one keeps."""
    SPREAD = 0.35
    """m/s, standard deviation along x and y at noise 1."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng([seed, 0x3A9D])
        self._velocity = np.zeros(2)

    def act(self, values: Values, desired_goal: np.ndarray) -> np.ndarray:
        """Velocity (3,) m/s, float32."""
        fresh = self.SPREAD * np.sqrt(1.0 - self.KEPT**2) * self._rng.normal(size=2)
        self._velocity = self.KEPT * self._velocity + self.noise * fresh
        return np.array([*np.clip(self._velocity, -0.4, 0.4), 0.0], np.float32)


class LatentEnvironment:
    """An environment of pictures as a policy on latents sees it, in the terms of the task's contract.

    It is to `rl_ros.training.rollouts.Rollouts` what a `ContractEnvironment` is. The reward is the negative distance of
    latents; success is a matter of true positions.

    Args:
        task: such as `visual_push`.
        senses: what makes latents and goals.
        contract: the task's, if its latents are to be of another size.
        guarded: see `ArmEnvironment`.

    Raises:
        UserError: there is no such task.
    """

    def __init__(self, task: str, senses: Senses, contract: Contract | None = None, *, guarded: bool = False) -> None:
        self.contract = contract or Contract.load(task)
        camera = self.contract.camera.shape[:2]
        self.pictures = make(environment_name(task), camera=camera, guarded=guarded)
        arm = self.pictures.environment.unwrapped
        assert isinstance(arm, ArmEnvironment)
        assert isinstance(arm.task, VisualTask)
        self.arm, self.task, self.senses = arm, arm.task, senses
        self.episode_length = self.contract.episode_length
        self.values: Observation = {}
        self.desired_goal = np.zeros(0, np.float32)

    def reset(self, seed: int) -> None:
        """Begin the episode of this seed."""
        self.pictures.reset(seed)
        self._seed = seed
        self._first = self.pictures.values
        self._look()
        goal = self.senses.goal(seed)
        self.desired_goal = self.senses.see(self.arm.goal_values, self._first) if goal is None else goal

    def step(self, action: np.ndarray) -> tuple[float, bool, bool, bool]:
        """One step with an action (A,) in the contract's units: reward, terminated, truncated and success."""
        _, terminated, truncated, _ = self.pictures.step(action)
        self._look()
        success = self.task.apart(self.values, self._seed) < self.task.threshold
        return float(LATENT_REWARD(self.values[LATENT], self.desired_goal)), terminated, truncated, success

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        """What achieving latents (..., Z) is worth where (..., Z) were desired, float32 (...)."""
        return LATENT_REWARD(achieved_goal, desired_goal)

    def close(self) -> None:
        """End the simulation."""
        self.pictures.close()

    def _look(self) -> None:
        seen = self.pictures.values
        self.values = {**seen, LATENT: self.senses.see(seen, self._first)}


def other_look(scene: Scene, degrees: float) -> tuple[Camera, Light]:
    """The scene's camera, moved about what it looks at by an angle, and light from the other side: a picture that
    somebody took on another day.

    Args:
        degrees: about the vertical.
    """
    camera, light = scene.camera, scene.light
    turned, offset = np.radians(degrees), np.subtract(camera.eye, camera.target)
    x = float(np.cos(turned) * offset[0] - np.sin(turned) * offset[1] + camera.target[0])
    y = float(np.sin(turned) * offset[0] + np.cos(turned) * offset[1] + camera.target[1])
    forward, left, up = light.direction
    other = replace(light, direction=(forward, -left, up), ambient=0.85 * light.ambient, diffuse=1.15 * light.diffuse)
    return replace(camera, eye=(x, y, camera.eye[2])), other


def environment_name(task: str) -> str:
    """The name that Gymnasium knows a task of pictures by.

    Raises:
        UserError: there is no such task.
    """
    for name, known in VISUAL_TASKS.items():
        if known == task:
            return f"rl_ros/{name}-v0"
    raise UserError(f"{task}: its goals are no pictures; of these there are: {', '.join(VISUAL_TASKS.values())}.")
