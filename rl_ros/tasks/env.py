"""One Gymnasium environment for all tasks, on the same arm, guard and judgement as the live graph.

Importing this module registers `rl_ros/Reach-v0`, `rl_ros/Push-v0`, `rl_ros/Slide-v0` and `rl_ros/PickAndPlace-v0`,
each also as `…Image-v0` and `…ImageGoal-v0`; and `rl_ros/VisualReach-v0` and the like, whose goals are images.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from rl_ros import schema
from rl_ros.contract import IMAGES, ActionChannel, Contract, Goal, Key
from rl_ros.errors import UserError
from rl_ros.graph import load_graph, node_specs, resolve
from rl_ros.networks.image_encoder import ImageEncoder
from rl_ros.resources import share_file
from rl_ros.robots.arm import Arm
from rl_ros.robots.bin import Bin, ObjectSet, make_world, object_names, objects_state
from rl_ros.robots.guard import CHECKS as GUARD_CHECKS
from rl_ros.robots.guard import Command, Guard, Limits, Request
from rl_ros.robots.pybullet_arm import Camera, Light, PyBulletArm
from rl_ros.tasks.goals import GoalTask, RewardKind
from rl_ros.tasks.grasp import Grasp, GraspImage
from rl_ros.tasks.task import make_task

Variant = Literal["state", "image", "image_goal"]
Observation = dict[str, np.ndarray]

EPISODE_LENGTH = 50
"""Steps until an episode is truncated, as in the contracts."""
TASKS = {"Reach": "reach", "Push": "push", "Slide": "slide", "PickAndPlace": "pick_and_place"}
"""Task by the name of its environments."""
VISUAL_TASKS = {
    "VisualReach": "visual_reach",
    "VisualPush": "visual_push",
    "VisualPushTwo": "visual_push_two",
    "VisualDoor": "visual_door",
}
"""The same of tasks whose goals are pictures, and whose environments show what there is before any encoder."""
VARIANTS: dict[str, Variant] = {"": "state", "Image": "image", "ImageGoal": "image_goal"}
"""Variant by what follows that name."""

CHECKS = ("finite", "speed", "workspace", "reach")
"""The guard's checks that an episode goes through. The others are about messages, or about an arm's wear and
surroundings: they would change little and cost more than the physics."""
ALL_CHECKS = tuple(check.name for check in GUARD_CHECKS)

TOPICS: dict[str, Callable[[PyBulletArm], Mapping[str, np.ndarray]]] = {
    "/camera/image_raw": lambda world: {"data": world.image()},
    "/joint_states": lambda world: {"position": world.joint_positions()},
    "/tool/pose": lambda world: _named(("pose.position", "pose.orientation"), world.tool_pose()),
    "/tool/twist": lambda world: _named(("twist.linear", "twist.angular"), world.tool_twist()),
    "/object/pose": lambda world: _named(
        ("pose.position", "pose.orientation"), next(iter(world.object_poses().values()))
    ),
    "/object_2/pose": lambda world: _named(
        ("pose.position", "pose.orientation"), list(world.object_poses().values())[1]
    ),
    "/object/twist": lambda world: _named(
        ("twist.linear", "twist.angular"), next(iter(world.object_twists().values()))
    ),
    "/objects/state": lambda world: {"position": objects_state(world)},
}
"""What arm_sim publishes, by topic: the fields that a contract may name."""


def _named(fields: tuple[str, str], parts: tuple[np.ndarray, np.ndarray]) -> Mapping[str, np.ndarray]:
    return {fields[0]: parts[0], fields[1]: parts[1]}


class ArmEnvironment(gymnasium.Env[Observation, np.ndarray]):
    """The arm and a task, in the terms of Gymnasium.

    `observation` joins the contract's observation keys in the contract's order, images left out: with `push` that is
    tool_position (3), tool_velocity (3), object_position (3), object_orientation (4), object_velocity (3) and
    object_angular_velocity (3). `slices` says where each begins and ends. An `image` variant shows the camera as
    `image` and hides the object; in an `image_goal` variant `achieved_goal` is what the camera sees and `desired_goal`
    what it would see with the goal reached.

    Actions are -1 to 1 for the contract's `low` to `high`. Each goes through the guard, with the limits that arm_guard
    has by default and the speed that the contract allows, and lasts one control period. An episode with seed s is that
    of the live graph with seed s; without a seed, `reset` draws one.

    Args:
        task: `reach`, `push`, `slide` or `pick_and_place`.
        variant: what is seen and what a goal is.
        reward: `sparse` or `dense`; see `GoalTask`. With image goals it is always the negative distance of the images.
        terminate_on_success: end an episode at its first success. The Fetch tasks never do.
        physics_rate: physics steps a simulated second, as arm_sim's.
        render_mode: `rgb_array` or None.
        camera: pixels of its height and width, if not those of the contract.
        guarded: go through all of the guard's checks, as on the live graph: what a policy is worth there.

    Raises:
        UserError: there is no such task, variant or reward.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    checks: Collection[str] = CHECKS

    def __init__(
        self,
        task: str,
        variant: Variant = "state",
        reward: RewardKind = "sparse",
        terminate_on_success: bool = False,
        physics_rate: float | None = None,
        render_mode: str | None = None,
        camera: tuple[int, int] | None = None,
        guarded: bool = False,
    ) -> None:
        if guarded:
            self.checks = ALL_CHECKS
        judge = make_task(task)
        if not isinstance(judge, GoalTask):
            raise UserError(f"{task} has no position for a goal; there are: {', '.join(TASKS.values())}.")
        self.task = type(judge)(reward)
        self.variant: Variant = schema.convert(Variant, variant, f"environment of {task}: variant")
        self.render_mode, self.terminate_on_success = render_mode, terminate_on_success
        self.contract = _contract(task, variant, camera)
        self._set_up(physics_rate)
        self.goal_values: Observation = {}
        """What there is to see where the goal is reached; only where goals are images."""
        self.pictured_by: tuple[Camera, Light] | None = None
        """Another camera and light than the scene's, that pictures of goals are taken by."""
        size = sum(part.stop - part.start for part in self.slices.values())
        vector = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        goal_space = _space(self.contract.goal.desired_goal)
        parts: dict[str, spaces.Space[Any]] = {
            "observation": vector,
            "achieved_goal": goal_space,
            "desired_goal": goal_space,
        }
        if variant == "image":
            parts["image"] = _space(self.contract.observation["image"])
        self.observation_space = spaces.Dict(parts)  # type: ignore[assignment] # its values are arrays

    def _set_up(self, physics_rate: float | None, objects: ObjectSet = "train", scene: str = "") -> None:
        """The guard, the world, and where in it what the contract names is found."""
        self.guard, self.opening = _guard(self.contract, self.checks)
        rate = float(node_specs()["arm_sim"].parameters["physics_rate"].default)
        scene_file = share_file(f"sim/scenes/{scene or self.contract.task}.yaml")
        self.world = make_world(scene_file, self.guard.arm, physics_rate or rate, self.contract, objects=objects)
        self.object_names = object_names(self.world)
        """Of the numbers of /objects/state."""
        seen = self.contract.without_latent() if self.contract.goal.image else self.contract
        keys = seen.observation | seen.auxiliary
        names = {
            "/joint_states": self.guard.arm.joint_names + self.guard.arm.finger_joint_names,
            "/objects/state": self.object_names,
        }
        self._topics = {key.topic: TOPICS[key.topic] for key in keys.values()}
        self._keys = {name: (key, _index(key, names.get(key.topic, ()))) for name, key in keys.items()}
        self.seen: dict[str, Mapping[str, np.ndarray]] = {}
        """Every topic that the contract names, as it is this moment: its fields."""
        self.values: Observation = {}
        """Every observation and auxiliary value of this moment by contract key, as a tick of the live graph has it."""
        self.desired_goal = np.zeros(0, np.float32)
        self.goal_position = np.zeros(3, np.float32)
        """The desired goal as a position, m."""
        self.command: Command | None = None
        """What the guard made of the last action."""
        self._gripper = 0.0
        self._low, self._high = self.contract.action_low, self.contract.action_high
        self.slices: dict[str, slice] = {}
        """Where in `observation` each contract key is."""
        start = 0
        for name, key in self.contract.observation.items():
            if key.type not in IMAGES:
                self.slices[name] = slice(start, start := start + int(np.prod(key.shape)))
        self.action_space = spaces.Box(-1.0, 1.0, self._low.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Any]:
        """Begin the episode of this seed, or of one drawn from the last seed; `options` change nothing."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(2**31)) if seed is None else seed
        self.goal_position = np.asarray(self.task.goal_pose(episode), np.float32)
        if self.variant == "image_goal":
            self.task.arrange(self.world, episode)
            self._look()
            self.goal_values = self.values
            if self.pictured_by is not None:
                self.goal_values = {**self.values, "image": self.world.image(self.pictured_by)}
            self.desired_goal = self.goal_values["image"]
        else:
            self.desired_goal = self.task.goal_vector(self.goal_position)
        self.world.reset(episode)
        self.guard.restart()
        self._gripper = self.world.scene.start.gripper / self.opening
        self._look()
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """One control period with the action (A,), -1 to 1."""
        share = (np.minimum(np.maximum(action, -1.0), 1.0) + 1.0) / 2.0
        reward, terminated, info = self.act(self._low + share.astype(np.float32) * (self._high - self._low))
        return self._observation(), reward, terminated, False, info

    def act(self, action: np.ndarray) -> tuple[float, bool, dict[str, Any]]:
        """One control period with an action in the contract's units, float32 (A,); reward, terminated and info.

        What there is to see then is in `values` and `desired_goal`.
        """
        self._move(action)
        info = self._info()
        reward = float(self.compute_reward(self.achieved_goal, self.desired_goal, info))
        return reward, self.terminate_on_success and info["is_success"], info

    def _move(self, action: np.ndarray) -> None:
        """One control period, and a look at what there is then."""
        parts = self.contract.split_action(action)
        stamp = round(self.world.time * 1e9)
        command = self.guard.command(
            Request(
                stamp=stamp,
                velocity=parts["linear_velocity"],
                gripper=parts.get("gripper", np.array([self._gripper])),
                measured=self.world.joint_positions()[:7],
                measured_stamp=stamp,
                held_gripper=self._gripper,
                yaw_velocity=float(parts["yaw_velocity"][0]) if "yaw_velocity" in parts else 0.0,
            )
        )
        self.command, self._gripper = command, command.gripper
        self.world.set_arm_target(command.positions, self.contract.period)
        self.world.set_gripper_target(command.gripper * self.opening)
        self.world.advance(self.contract.period)
        self._look()

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        """What achieving one goal is worth where another was desired, float32 (...).

        Positions are (..., 3) m; images (..., height, width, 3), whose distance is the root of their mean squared
        difference, from 0 to 1.
        """
        if self.variant != "image_goal":
            return self.task.compute_reward(achieved_goal, desired_goal)
        difference = (np.asarray(achieved_goal, np.float32) - np.asarray(desired_goal, np.float32)) / 255.0
        return -np.sqrt(np.square(difference).mean(axis=(-3, -2, -1), dtype=np.float64)).astype(np.float32)

    @property
    def achieved_goal(self) -> np.ndarray:
        """What this moment achieves."""
        return self.values[self.contract.goal.achieved_goal]

    def render(self) -> np.ndarray:
        """What the camera sees, uint8 (height, width, 3)."""
        return self.world.image()

    def close(self) -> None:
        """End the simulation."""
        self.world.close()

    def _look(self) -> None:
        # One look at each topic, as one message brings all its fields.
        seen = {topic: look(self.world) for topic, look in self._topics.items()}
        self.seen = seen
        self.values = {
            name: seen[key.topic][key.field][index].astype(key.dtype) for name, (key, index) in self._keys.items()
        }

    def _observation(self) -> Observation:
        seen = {
            "observation": np.concatenate([self.values[name] for name in self.slices]),
            "achieved_goal": self.achieved_goal.copy(),
            "desired_goal": self.desired_goal.copy(),
        }
        if self.variant == "image":
            seen["image"] = self.values["image"].copy()
        return seen

    def _info(self) -> dict[str, Any]:
        return {"is_success": bool(self.task.reached(self.values[self.task.achieved_goal], self.goal_position))}


class BinEnvironment(ArmEnvironment):
    """Grasping out of a tray: as `ArmEnvironment`, without goals, or with that of `GraspImage`.

    `image` is what the camera sees, `observation` the other observation keys. The check of a grasp is a part of the
    episode and made of actions; `rl_ros.tasks.grasp.GraspRoutine` gives them.

    Args:
        objects: `train` or `held_out`.
        physics_rate: physics steps a simulated second, as arm_sim's.
        render_mode: `rgb_array` or None.
        encoder: of pictures of what is to be grasped; None: anything.

    Raises:
        UserError: there are no such objects.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    checks: Collection[str] = ALL_CHECKS
    """All of them: with so few ticks a second they cost nothing, and an episode is the live graph's to the bit."""

    def __init__(
        self,
        objects: ObjectSet = "train",
        physics_rate: float | None = None,
        render_mode: str | None = None,
        encoder: ImageEncoder | None = None,
    ) -> None:
        self.judge: Grasp = GraspImage() if encoder else Grasp()
        self.encoder, self.variant, self.render_mode = encoder, "image", render_mode
        self.contract = Contract.load(self.judge.name)
        self._set_up(physics_rate, objects, Grasp.name)
        self.picture: np.ndarray | None = None
        """Of what is to be grasped, uint8, as the camera's."""
        size = sum(part.stop - part.start for part in self.slices.values())
        self.observation_space = spaces.Dict(  # type: ignore[assignment] # its values are arrays
            {
                "observation": spaces.Box(-np.inf, np.inf, (size,), np.float32),
                "image": _space(self.contract.observation["image"]),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Any]:
        """Begin the episode of this seed, or of one drawn from the last seed; `options` change nothing."""
        gymnasium.Env.reset(self, seed=seed)
        episode = int(self.np_random.integers(2**31)) if seed is None else seed
        if isinstance(self.judge, GraspImage):
            assert isinstance(self.world, Bin)
            self.judge.arrange(self.world, episode)
            self._look()
            self.picture, self.desired_goal = self.values["image"], self.values["latent"]
        else:
            self.desired_goal = self.judge.goal_vector(self.judge.goal_pose(episode))
        self.world.reset(episode)
        self.guard.restart()
        self.judge.begin()
        self._gripper = self.world.scene.start.gripper / self.opening
        self._look()
        return self._observation(), {"is_success": False}

    def act(self, action: np.ndarray) -> tuple[float, bool, dict[str, Any]]:
        """See `ArmEnvironment.act`."""
        self._move(action)
        judgement = self.judge.judge(self.values, self.desired_goal)
        return judgement.reward, judgement.over, {"is_success": judgement.success}

    def _look(self) -> None:
        super()._look()
        if self.encoder is not None:
            self.values["latent"] = self.encoder.encode(self.values["image"])

    def _observation(self) -> Observation:
        return {
            "observation": np.concatenate([self.values[name] for name in self.slices]),
            "image": self.values["image"].copy(),
        }


class ContractEnvironment:
    """Any environment in the terms of its contract: values by key, and actions in the contract's units.

    Args:
        environment: one of ours, or any that `contract_of` takes; wrappers around it count, such as its time limit.

    Raises:
        UserError: as `contract_of`.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        self.environment = environment
        self.contract = contract_of(environment)
        self.episode_length = self.contract.episode_length
        arm = environment.unwrapped
        self._arm = arm if isinstance(arm, ArmEnvironment) else None
        self.step_count = 0
        self.values: Observation = {}
        """Observation and auxiliary values of this moment by contract key."""
        self.desired_goal = np.zeros(0, np.float32)

    def reset(self, seed: int) -> None:
        """Begin the episode of this seed."""
        seen, _ = self.environment.reset(seed=seed)
        self.step_count = 0
        self._take(seen)

    def step(self, action: np.ndarray) -> tuple[float, bool, bool, bool]:
        """One step with an action (A,) in the contract's units: reward, terminated, truncated and success."""
        self.step_count += 1
        if self._arm is not None:
            # Not through the wrappers, which take -1 to 1: the numbers are to be those of the live graph.
            reward, terminated, info = self._arm.act(action)
            truncated = self.step_count >= self.episode_length and not terminated
            self._take({})
        else:
            seen, given, terminated, truncated, info = self.environment.step(action)
            reward = float(given)
            self._take(seen)
        return reward, bool(terminated), bool(truncated), bool(info.get("is_success", False))

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        """What achieving goals (..., G) is worth where (..., G) were desired, float32 (...); for `Hindsight`."""
        given = self.environment.unwrapped.compute_reward(achieved_goal, desired_goal, {})  # type: ignore[attr-defined]
        return np.asarray(given, np.float32)

    def close(self) -> None:
        """End it."""
        self.environment.close()

    def _take(self, seen: Any) -> None:
        if self._arm is not None:
            self.values, self.desired_goal = self._arm.values, self._arm.desired_goal
        elif isinstance(seen, Mapping):
            self.values = {
                "observation": np.asarray(seen["observation"], np.float32),
                "achieved_goal": np.asarray(seen["achieved_goal"], np.float32),
            }
            self.desired_goal = np.asarray(seen["desired_goal"], np.float32)
        else:
            self.values, self.desired_goal = {"observation": np.asarray(seen, np.float32)}, np.zeros(1, np.float32)


def make(name: str, **settings: Any) -> ContractEnvironment:
    """A registered environment in the terms of its contract; `module:name` imports the module that registers it.

    Raises:
        UserError: there is none of that name, or it has no contract.
    """
    try:
        return ContractEnvironment(gymnasium.make(name, disable_env_checker=True, **settings))
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"{name}: {error}") from error


def contract_of(environment: gymnasium.Env[Any, Any]) -> Contract:
    """The contract of an environment: that of its task, or one made from its spaces.

    What is made holds `observation` (n,), with goals `achieved_goal` (G,) beside it, never seen by a policy, and the
    action with the limits of its space. Without goals the desired goal is one number that says nothing, and no policy
    sees it. Everything is float32.

    Raises:
        UserError: the spaces are no vectors, the action has no limits, or an episode has no time limit.
    """
    arm = environment.unwrapped
    if isinstance(arm, ArmEnvironment):
        return arm.contract
    spec = environment.spec
    name = spec.id if spec else type(arm).__name__
    if spec is None or spec.max_episode_steps is None:
        raise UserError(f"{name}: a contract needs an episode length; register it with max_episode_steps.")
    seen, action = environment.observation_space, environment.action_space
    goals = isinstance(seen, spaces.Dict)
    parts = dict(seen.spaces) if isinstance(seen, spaces.Dict) else {"observation": seen}
    expected = {"observation", "achieved_goal", "desired_goal"} if goals else {"observation"}
    vectors = {name: space.shape for name, space in parts.items() if isinstance(space, spaces.Box)}
    if vectors.keys() != expected or any(len(shape) != 1 for shape in vectors.values()):
        raise UserError(
            f"{name}: a contract is made for vectors, one or observation, achieved_goal and desired_goal; got {seen}."
        )
    if not isinstance(action, spaces.Box) or len(action.shape) != 1 or not action.is_bounded():
        raise UserError(f"{name}: a contract is made for actions that are a vector with limits; got {action}.")
    rate = getattr(arm, "dt", None)
    goal = Goal(_vector("desired_goal", vectors.get("desired_goal", (1,))), goals, "achieved_goal" if goals else "")
    return Contract(
        format=1,
        name=name,
        task=name,
        control_rate=1.0 / float(rate) if rate else float(environment.metadata.get("render_fps", 1.0)),
        episode_length=spec.max_episode_steps,
        frame="world",
        reference="observation",
        observation={"observation": _vector("observation", vectors["observation"])},
        action={
            "action": ActionChannel(
                **vars(_vector("action", action.shape)) | {"alignment": "exact"},
                low=tuple(action.low.tolist()),
                high=tuple(action.high.tolist()),
            )
        },
        goal=goal,
        auxiliary={"achieved_goal": _vector("achieved_goal", vectors["achieved_goal"])} if goals else {},
    )


def _vector(name: str, shape: tuple[int, ...]) -> Key:
    names = tuple(f"{name}_{index}" for index in range(shape[0]))
    return Key(f"/{name}", "sensor_msgs/msg/JointState", "position", shape, names=names)


def _space(key: Key) -> spaces.Box:
    if key.type in IMAGES:
        return spaces.Box(0, 255, key.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, key.shape, np.float32)


def _index(key: Key, known: tuple[str, ...]) -> slice | list[int]:
    """Which entries of a topic's field a contract key holds, of those of a named vector."""
    return [known.index(name) for name in key.names] if key.names else slice(None)


def _contract(task: str, variant: Variant, size: tuple[int, int] | None) -> Contract:
    if variant == "state":
        return Contract.load(task)
    contract = Contract.load(f"{task}_image" if task not in VISUAL_TASKS.values() else task)
    if contract.goal.image:
        contract = contract.without_latent()
    if size is not None:
        contract = contract.with_image("image", *size)
    if variant == "image":
        return contract
    camera = contract.observation["image"]
    picture = dataclasses.replace(camera, topic="/goal/image", alignment="held")
    name = task if task in VISUAL_TASKS.values() else f"{task}_image_goal"
    return dataclasses.replace(contract, name=name, goal=Goal(picture, True, "image"))


@cache
def _arm() -> Arm:
    return Arm()


def _guard(contract: Contract, checks: Collection[str] = CHECKS) -> tuple[Guard, float]:
    """The guard as arm_guard makes it, and m of each finger when the hand is fully open."""
    defaults = {name: spec.default for name, spec in node_specs()["arm_guard"].parameters.items()}
    if contract.task in VISUAL_TASKS.values():  # whose graphs keep the hand where the camera sees it
        [given] = [node for node in resolve(load_graph(contract.task), {}).nodes if node.name == "arm_guard"]
        defaults |= {name: given.parameters[name] for name in ("workspace_low", "workspace_high")}
    limits = {field.name: defaults[field.name] for field in dataclasses.fields(Limits) if field.name in defaults}
    limits["speed"] = max(float(limits["speed"]), max(contract.action["linear_velocity"].high))
    limits["ramp"] = 0.0  # a policy that is to learn is not to learn where its ramp ends
    guard = Guard(
        _arm(),
        Limits(**limits),
        contract.period,
        disabled=[check.name for check in GUARD_CHECKS if check.name not in checks],
    )
    return guard, _arm().robot.gripper.open


for _name, _task in TASKS.items():
    for _suffix, _variant in VARIANTS.items():
        gymnasium.register(
            f"rl_ros/{_name}{_suffix}-v0",
            entry_point="rl_ros.tasks.env:ArmEnvironment",
            max_episode_steps=EPISODE_LENGTH,
            kwargs={"task": _task, "variant": _variant},
        )
for _name, _task in VISUAL_TASKS.items():
    gymnasium.register(
        f"rl_ros/{_name}-v0",
        entry_point="rl_ros.tasks.env:ArmEnvironment",
        max_episode_steps=EPISODE_LENGTH,
        kwargs={"task": _task, "variant": "image_goal"},
    )
gymnasium.register(
    "rl_ros/Grasp-v0",
    entry_point="rl_ros.tasks.env:BinEnvironment",
    max_episode_steps=Contract.load("grasp").episode_length,
)
