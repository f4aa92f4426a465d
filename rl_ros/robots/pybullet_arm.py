"""The simulated twin: the arm, a table and a few objects in PyBullet, seen by one camera.

Frames follow REP 103 with the arm's base at the origin and the table's top at z = 0. SI units.
No ROS here: `rl_ros.nodes.arm_sim` puts this behind the topics of a real arm.
"""

import math
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pybullet
import yaml
from numpy.typing import ArrayLike, NDArray

from rl_ros.errors import UserError
from rl_ros.robots.arm import Arm
from rl_ros.robots.doors import Door, add_door, panel_pose, turn_door
from rl_ros.schema import plain_yaml

Range = tuple[float, float]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Table:
    """A box whose top is at z = 0."""

    centre: tuple[float, float]
    size: Vector
    colour: Vector
    friction: float


@dataclass(frozen=True)
class SceneObject:
    """Something loose on the table, placed at random within its ranges.

    `size` holds the three edges of a box, or diameter, diameter and height of a cylinder.
    """

    name: str
    shape: typing.Literal["box", "cylinder"]
    size: Vector
    mass: float
    friction: float
    colour: Vector
    x: Range
    y: Range
    yaw: Range


@dataclass(frozen=True)
class Camera:
    """A fixed pinhole camera; `field_of_view` spans the image's height, rad."""

    width: int
    height: int
    field_of_view: float
    eye: Vector
    target: Vector
    up: Vector
    samples: int = 1
    """Rays along each side of a pixel, which has the mean of what they see. With one, edges jump from pixel to pixel; a
    real camera gathers light over all of a pixel."""


@dataclass(frozen=True)
class Light:
    """One distant light; `direction` points from the scene towards it."""

    direction: Vector
    colour: Vector
    ambient: float
    diffuse: float
    specular: float
    shadow: bool


@dataclass(frozen=True)
class Start:
    """Where the tool may be when an episode begins, m, and the opening of each finger, m.

    Every object's centre is at least `clearance` away from it in the plane, m. `yaw` is that of the tool, rad: the hand
    is wide along the world's y where it is zero.
    """

    x: Range
    y: Range
    z: Range
    gripper: float
    clearance: float
    yaw: float = 0.0


@dataclass(frozen=True)
class Randomisation:
    """Largest change, up or down, that an episode makes to the world's looks; zero leaves it alone."""

    object_size: float
    object_colour: float
    light_direction: float
    light_strength: float
    camera_eye: float
    camera_target: float


@dataclass(frozen=True)
class Scene:
    """What a simulator loads, from `sim/scenes/*.yaml`."""

    name: str
    table: Table
    objects: tuple[SceneObject, ...]
    camera: Camera
    light: Light
    start: Start
    randomisation: Randomisation
    hand_colour: tuple[float, ...] = ()
    """Of the hand and the fingers, where it is to be seen well; empty leaves that of the URDF."""
    doors: tuple[Door, ...] = ()

    def seen_at(self, height: int, width: int) -> "Scene":
        """The scene with so many pixels in its camera."""
        return replace(self, camera=replace(self.camera, height=height, width=width))

    @classmethod
    def load(cls, path: Path) -> "Scene":
        """Reads a scene file.

        Raises:
            UserError: the file cannot be read, or a key is unknown, missing or of the wrong type.
        """
        try:
            content = plain_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read as a scene: {' '.join(str(error).split())}.") from error
        scene: Scene = _parse(cls, content, str(path), "")
        for item in scene.objects:
            if min(item.size) <= 0 or item.mass <= 0:
                raise UserError(f"{path}: object {item.name}: size and mass must be greater than zero.")
        placed = [(f"object {item.name}", ("x", "y", "yaw"), item) for item in scene.objects]
        for where, axes, owner in (*placed, ("start", ("x", "y", "z"), scene.start)):
            for axis in axes:
                least, most = getattr(owner, axis)
                if not least <= most:
                    raise UserError(f"{path}: {where}: {axis} must be [least, most], not [{least}, {most}].")
        if len({item.name for item in scene.objects}) < len(scene.objects):
            raise UserError(f"{path}: every object needs a name of its own.")
        if scene.hand_colour and len(scene.hand_colour) != 3:
            raise UserError(f"{path}: hand_colour must be red, green and blue, not {list(scene.hand_colour)}.")
        camera = scene.camera
        if min(camera.width, camera.height, camera.samples) < 1 or not 0 < camera.field_of_view < np.pi:
            raise UserError(
                f"{path}: camera: width, height and samples must be at least 1, field_of_view within 0..pi rad."
            )
        return scene


def _parse(kind: Any, value: Any, file: str, key: str) -> Any:
    """The YAML value as `kind`: a dataclass, a tuple, a Literal or a plain type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise _mismatch(file, key, "a mapping", value)
        known = {field.name: field.type for field in fields(kind)}
        for name in value:
            if name not in known:
                raise UserError(f"{file}: unknown key {_join(key, name)}; expected one of: {', '.join(known)}.")
        for field in fields(kind):
            if field.name not in value and field.default is MISSING:
                raise UserError(f"{file}: key {_join(key, field.name)} is missing.")
        return kind(**{name: _parse(known[name], value[name], file, _join(key, name)) for name in value})
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            if not isinstance(value, list):
                raise _mismatch(file, key, "a list", value)
            return tuple(_parse(arguments[0], item, file, f"{key}[{index}]") for index, item in enumerate(value))
        if not isinstance(value, list) or len(value) != len(arguments) or not all(map(_is_number, value)):
            raise _mismatch(file, key, f"a list of {len(arguments)} numbers", value)
        return tuple(float(item) for item in value)
    if origin is typing.Literal:
        if value not in arguments:
            raise _mismatch(file, key, " or ".join(arguments), value)
        return value
    if kind is float:
        if not _is_number(value):
            raise _mismatch(file, key, "a number", value)
        return float(value)
    if type(value) is not kind:
        raise _mismatch(file, key, {int: "a whole number", bool: "true or false", str: "text"}[kind], value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _mismatch(file: str, key: str, expected: str, value: Any) -> UserError:
    return UserError(f"{file}: {key or 'the file'} must be {expected}, not {value!r}.")


@dataclass(frozen=True)
class JointReading:
    """The joints at one instant: names, and float64 arrays (9,) of rad or m, rad/s or m/s, N m or N."""

    names: tuple[str, ...]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    efforts: NDArray[np.float64]


HAND = "panda_hand"
"""The link that the fingers are on."""
_SOLVER_ITERATIONS = 20  # what a step of the moving arm costs is half the solver's with 50
_SOLVER_RESIDUAL = 1e-5  # at which it stops before
_POSITION_GAIN = 0.2  # share of the position error that the joint motors remove in one step
_FINGER_FORCE = 10.0  # N; with twice as much, which the URDF allows, the solver lets fingers sink into what they hold
_FINGER_FRICTION = 1.0
_CYLINDER_CONTACT = {"contactStiffness": 1e4, "contactDamping": 30.0}  # N/m, N s/m
_SETTLE_SECONDS = 0.05
_PLACING_TRIES = 1000


class PyBulletArm:
    """One arm, its table and its objects in a physics server of their own.

    The same seed and the same calls give bit-identical worlds, whatever this instance did before.

    Attributes:
        scene: what was loaded.
        arm: the kinematics that place the arm.
        physics_rate: physics steps a simulated second.
    """

    contact_breaking: typing.ClassVar[float] = 0.02
    """m between two things at which their contact is forgotten; Bullet's default."""

    def __init__(self, scene: Scene, arm: Arm, physics_rate: float = 240.0, randomise: bool = False) -> None:
        """Starts the physics server and resets it to seed 0.

        Args:
            scene: table, objects, camera, light.
            arm: its URDF is what is simulated.
            physics_rate: physics steps a simulated second, Hz.
            randomise: draw sizes, colours, light and camera anew at each reset, within `scene.randomisation`.

        Raises:
            UserError: as `reset`.
        """
        self.scene = scene
        self.arm = arm
        self.physics_rate = physics_rate
        self._randomise = randomise
        self._motor_settings = {
            "forces": arm.effort_limit.tolist(),
            "positionGains": [_POSITION_GAIN] * 7,
            "velocityGains": [1.0] * 7,
        }
        self._starts: dict[tuple[Vector, float], NDArray[np.float64]] = {}
        """Joint positions by the tool position that they give."""
        self._client: int = pybullet.connect(pybullet.DIRECT)
        try:
            self._load_world(scene)
            self._loaded: int = pybullet.saveState(physicsClientId=self._client)
            self.reset(0)
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        """Ends the physics server; a second call does nothing."""
        if self._client >= 0:
            pybullet.disconnect(physicsClientId=self._client)
            self._client = -1

    def __enter__(self) -> "PyBulletArm":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def reset(self, seed: int) -> None:
        """Builds the world anew: objects and tool where the seed puts them, everything at rest, time 0.

        Raises:
            UserError: the objects do not fit on the table without touching, or the tool cannot reach its start.
        """
        self._keep_contacts()
        generator = np.random.default_rng(seed)
        placements, position = self._draw_places(generator)
        angles = [float(generator.uniform(*door.angle)) for door in self.scene.doors]
        # Looks are drawn last, so that a seed puts the objects in the same place with and without them.
        if self._randomise:
            self._load_world(_draw_looks(self.scene, generator))
        else:
            # Ten times faster than loading, and the same to the bit: everything is taken apart first, because contacts
            # that are remembered would push a little differently than new ones.
            for height, item in enumerate(self.scene.objects, start=2):
                self.place_object(item.name, (0.0, 0.0, float(height)), 0.0)
            self._place_arm(self.arm.home, self.scene.start.gripper)
            pybullet.performCollisionDetection(physicsClientId=self._client)
            pybullet.restoreState(self._loaded, physicsClientId=self._client)
        for item, (x, y, yaw) in zip(self.scene.objects, placements, strict=True):
            self.place_object(item.name, (x, y, item.size[2] / 2), yaw)
        for door, angle in zip(self.scene.doors, angles, strict=True):
            self.turn_door(door.name, angle)
        self._place_arm(self._start_positions(position), self.scene.start.gripper)
        self._step_count = 0
        self.advance(_SETTLE_SECONDS)
        self._step_count = 0

    @property
    def time(self) -> float:
        """Simulated seconds since the reset."""
        return self._step_count / self.physics_rate

    def set_arm_target(self, positions: ArrayLike, duration: float) -> None:
        """Moves the joint target in a straight line to `positions` (7,), rad, over `duration` simulated seconds.

        As a joint trajectory controller does, it starts from where the previous target has got to.

        Raises:
            ValueError: positions are not seven finite numbers, or duration is negative or not finite.
        """
        target = np.asarray(positions, dtype=np.float64)
        if target.shape != (7,) or not all(map(math.isfinite, target.tolist())):
            raise ValueError(f"positions must be seven finite numbers, not {target.tolist()}")
        if not (math.isfinite(duration) and duration >= 0):
            raise ValueError(f"duration must be finite and not negative, not {duration}")
        count = max(1, round(duration * self.physics_rate))
        start = np.array(self._arm_target)
        change = (target - start) / count
        # All points at once, as lists, for little is done between two steps of the physics.
        self._line = (start + np.arange(1.0, count + 1.0)[:, None] * change).tolist()
        self._line_velocity = (change * self.physics_rate).tolist()
        self._line_done = 0

    def set_gripper_target(self, width_per_finger: float) -> None:
        """Sends each finger to this distance from the middle, m; values outside the joint limits are clipped.

        Raises:
            ValueError: the width is not finite.
        """
        if not math.isfinite(width_per_finger):
            raise ValueError(f"width_per_finger must be finite, not {width_per_finger}")
        width = min(max(float(width_per_finger), self._finger_limits[0]), self._finger_limits[1])
        pybullet.setJointMotorControlArray(
            self._body,
            self._finger_joints,
            pybullet.POSITION_CONTROL,
            targetPositions=[width, width],
            forces=[_FINGER_FORCE] * 2,
            physicsClientId=self._client,
        )

    def advance(self, seconds: float) -> None:
        """Runs the physics for the whole number of steps nearest to `seconds`.

        Raises:
            ValueError: seconds is negative or not finite.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds must be finite and not negative, not {seconds}")
        self._keep_contacts()
        for _ in range(round(seconds * self.physics_rate)):
            self._follow_line()
            pybullet.stepSimulation(physicsClientId=self._client)
            self._step_count += 1

    def _keep_contacts(self) -> None:
        """Say for how long contacts are remembered. Bullet has one number for all worlds of a process: another world
        with another one would change how this one moves."""
        pybullet.setPhysicsEngineParameter(contactBreakingThreshold=self.contact_breaking, physicsClientId=self._client)

    def joint_state(self) -> JointReading:
        """The seven arm joints, then the two fingers."""
        states = pybullet.getJointStates(self._body, self._joints, physicsClientId=self._client)
        return JointReading(
            names=self.arm.joint_names + self.arm.finger_joint_names,
            positions=np.array([state[0] for state in states]),
            velocities=np.array([state[1] for state in states]),
            efforts=np.array([state[3] for state in states]),
        )

    def joint_positions(self) -> NDArray[np.float64]:
        """The seven arm joints, rad, then the two fingers, m; (9,)."""
        states = pybullet.getJointStates(self._body, self._joints, physicsClientId=self._client)
        return np.array([state[0] for state in states])

    def tool_pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position of the tool frame, m, (3,), and its orientation as a quaternion x, y, z, w (4,)."""
        state = pybullet.getLinkState(
            self._body, self._tool_link, computeForwardKinematics=True, physicsClientId=self._client
        )
        return np.array(state[4]), np.array(state[5])

    def tool_twist(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Linear, m/s, and angular, rad/s, velocity of the tool frame in the base's axes, each (3,)."""
        state = pybullet.getLinkState(
            self._body,
            self._tool_link,
            computeLinkVelocity=True,
            computeForwardKinematics=True,
            physicsClientId=self._client,
        )
        return np.array(state[6]), np.array(state[7])

    def object_poses(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Position of each object's centre, m, (3,), and orientation as a quaternion x, y, z, w (4,), by name.

        A door is where its panel's free edge is.
        """
        poses = {}
        for name, body in self._object_bodies.items():
            position, quaternion = pybullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
            poses[name] = (np.array(position), np.array(quaternion))
        for door in self.scene.doors:
            poses[door.name] = panel_pose(door, self._door_bodies[door.name], self._client)
        return poses

    def object_twists(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Linear, m/s, and angular, rad/s, velocity of each object's centre in the base's axes, (3,), by name."""
        twists = {}
        for name, body in self._object_bodies.items():
            linear, angular = pybullet.getBaseVelocity(body, physicsClientId=self._client)
            twists[name] = (np.array(linear), np.array(angular))
        return twists

    def place_object(self, name: str, position: Vector, yaw: float) -> None:
        """Puts an object's centre at a position, m, turned by `yaw` rad about the vertical, at rest."""
        body, turned = self._object_bodies[name], (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
        pybullet.resetBasePositionAndOrientation(body, position, turned, physicsClientId=self._client)
        pybullet.resetBaseVelocity(body, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), physicsClientId=self._client)

    def turn_door(self, name: str, angle: float) -> None:
        """Puts a door's panel at an angle, rad, at rest."""
        turn_door(self._door_bodies[name], angle, self._client)

    def place_tool(self, position: Vector, yaw: float | None = None, gripper: float | None = None) -> None:
        """Puts the tool at a position, m, pointing down, at rest.

        Args:
            position: of the tool.
            yaw: its heading, rad; by default that of the scene's start.
            gripper: opening of each finger, m; by default the fingers stay as they are.

        Raises:
            UserError: the arm does not reach that far.
        """
        gripper = float(self.joint_state().positions[7:].mean()) if gripper is None else gripper
        self._place_arm(self._start_positions(position, yaw), gripper)

    def image(self, other: "tuple[Camera, Light] | None" = None) -> NDArray[np.uint8]:
        """What the camera sees now, or another camera under another light: RGB, uint8 (height, width, 3)."""
        camera, light = other or (self._looks.camera, self._looks.light)
        view = _View(camera) if other else self._view
        width, height = camera.width * camera.samples, camera.height * camera.samples
        rgba = pybullet.getCameraImage(
            width,
            height,
            viewMatrix=view.view_matrix,
            projectionMatrix=view.projection_matrix,
            lightDirection=light.direction,
            lightColor=light.colour,
            lightAmbientCoeff=light.ambient,
            lightDiffuseCoeff=light.diffuse,
            lightSpecularCoeff=light.specular,
            shadow=int(light.shadow),
            renderer=pybullet.ER_TINY_RENDERER,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
            physicsClientId=self._client,
        )[2]
        image = np.ascontiguousarray(np.reshape(rgba, (height, width, 4))[:, :, :3], dtype=np.uint8)
        if camera.samples == 1:
            return image
        return np.asarray(cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA), np.uint8)

    def camera_matrix(self) -> NDArray[np.float64]:
        """Pinhole intrinsics (3, 3) in pixels, pixel centres at whole numbers, as in `sensor_msgs/CameraInfo`."""
        return self._view.camera_matrix.copy()

    def camera_pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position (3,), m, and rotation (3, 3) of the optical frame: x right, y down, z into the picture."""
        return self._view.position.copy(), self._view.rotation.copy()

    def _draw_places(self, generator: np.random.Generator) -> tuple[list[tuple[float, float, float]], Vector]:
        """x, y and yaw of every object, and the tool's position.

        Objects are apart from each other by at least their half diagonals, and from the tool by the start's clearance.
        """
        start = self.scene.start
        for _ in range(_PLACING_TRIES):
            drawn = [
                (generator.uniform(*item.x), generator.uniform(*item.y), generator.uniform(*item.yaw))
                for item in self.scene.objects
            ]
            if self._apart(drawn):
                tool = (generator.uniform(*start.x), generator.uniform(*start.y), generator.uniform(*start.z))
                if all(math.dist(tool[:2], place[:2]) >= start.clearance for place in drawn):
                    return drawn, tool
        raise UserError(
            f"scene {self.scene.name}: the objects do not fit on the table without touching each other or the tool."
        )

    def _apart(self, drawn: list[tuple[float, float, float]]) -> bool:
        largest = 1.0 + self.scene.randomisation.object_size
        radii = [largest * math.hypot(*item.size[:2]) / 2 for item in self.scene.objects]
        return all(
            math.dist(drawn[i][:2], drawn[j][:2]) > radii[i] + radii[j] for i in range(len(drawn)) for j in range(i)
        )

    def _start_positions(self, position: Vector, yaw: float | None = None) -> NDArray[np.float64]:
        """Joint positions (7,) that put the tool there, pointing down."""
        yaw = self.scene.start.yaw if yaw is None else yaw
        if (position, yaw) not in self._starts:
            positions, error = self.arm.inverse(self.arm.home, position, self.arm.down(yaw), iterations=100)
            if error > 1e-4:
                raise UserError(f"scene {self.scene.name}: the arm cannot reach its start at {list(position)}.")
            # Where a scene has one start, as most do, it is computed once.
            self._starts = {(position, yaw): positions}
        return self._starts[position, yaw]

    def _load_world(self, looks: Scene) -> None:
        """Everything that is there, none of it in its place yet."""
        client = self._client
        self._looks, self._view = looks, _View(looks.camera)
        pybullet.resetSimulation(physicsClientId=client)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=1.0 / self.physics_rate,
            numSolverIterations=_SOLVER_ITERATIONS,
            solverResidualThreshold=_SOLVER_RESIDUAL,
            deterministicOverlappingPairs=1,
            physicsClientId=client,
        )
        pybullet.setGravity(0.0, 0.0, -9.81, physicsClientId=client)
        table = looks.table
        half = [edge / 2 for edge in table.size]
        self._add_body(
            pybullet.GEOM_BOX, {"halfExtents": half}, 0.0, table.colour, table.friction, (*table.centre, -half[2])
        )
        self._body: int = pybullet.loadURDF(
            str(self.arm.urdf),
            useFixedBase=True,
            flags=pybullet.URDF_USE_INERTIA_FROM_FILE | pybullet.URDF_ENABLE_CACHED_GRAPHICS_SHAPES,
            physicsClientId=client,
        )
        index: dict[str, int] = {}
        link: dict[str, int] = {}
        for number in range(pybullet.getNumJoints(self._body, physicsClientId=client)):
            info = pybullet.getJointInfo(self._body, number, physicsClientId=client)
            index[info[1].decode()] = number
            link[info[12].decode()] = number
        self._arm_joints = [index[name] for name in self.arm.joint_names]
        self._finger_joints = [index[name] for name in self.arm.finger_joint_names]
        self._joints = self._arm_joints + self._finger_joints
        self._tool_link = link[self.arm.tool_frame]
        self._finger_limits: Range = pybullet.getJointInfo(self._body, self._finger_joints[0], physicsClientId=client)[
            8:10
        ]
        for number in self._finger_joints:
            pybullet.changeDynamics(self._body, number, lateralFriction=_FINGER_FRICTION, physicsClientId=client)
        if looks.hand_colour:
            for number in (link[HAND], *self._finger_joints):
                pybullet.changeVisualShape(
                    self._body, number, rgbaColor=(*looks.hand_colour, 1.0), physicsClientId=client
                )
        # The Panda's fingers are driven by one motor: a gear keeps the hand centred.
        gear = pybullet.createConstraint(
            parentBodyUniqueId=self._body,
            parentLinkIndex=self._finger_joints[0],
            childBodyUniqueId=self._body,
            childLinkIndex=self._finger_joints[1],
            jointType=pybullet.JOINT_GEAR,
            jointAxis=[0.0, 1.0, 0.0],
            parentFramePosition=[0.0, 0.0, 0.0],
            childFramePosition=[0.0, 0.0, 0.0],
            physicsClientId=client,
        )
        pybullet.changeConstraint(gear, gearRatio=-1, erp=0.2, maxForce=100, physicsClientId=client)
        self._object_bodies: dict[str, int] = {}
        for item in looks.objects:
            if item.shape == "box":
                shape = pybullet.GEOM_BOX
                extent: dict[str, Any] = {"halfExtents": [edge / 2 for edge in item.size]}
            else:
                shape, extent = pybullet.GEOM_CYLINDER, {"radius": item.size[0] / 2, "height": item.size[2]}
            body = self._add_body(shape, extent, item.mass, item.colour, item.friction, (0.0, 0.0, 0.0))
            if item.shape == "cylinder":
                # Without a spring in its contacts a flat cylinder that slides sinks a third of its height in.
                pybullet.changeDynamics(body, -1, **_CYLINDER_CONTACT, physicsClientId=client)
            self._object_bodies[item.name] = body
        self._door_bodies = {door.name: add_door(door, client) for door in looks.doors}

    def _add_body(
        self,
        shape: int,
        extent: dict[str, Any],
        mass: float,
        colour: Vector,
        friction: float,
        position: Vector,
    ) -> int:
        client = self._client
        # A cylinder's height has another name in the visual than in the collision shape.
        drawn = {("length" if name == "height" else name): value for name, value in extent.items()}
        body: int = pybullet.createMultiBody(
            baseMass=mass,
            baseCollisionShapeIndex=pybullet.createCollisionShape(shape, **extent, physicsClientId=client),
            baseVisualShapeIndex=pybullet.createVisualShape(
                shape, **drawn, rgbaColor=(*colour, 1.0), physicsClientId=client
            ),
            basePosition=position,
            physicsClientId=client,
        )
        pybullet.changeDynamics(body, -1, lateralFriction=friction, physicsClientId=client)
        return body

    def _place_arm(self, positions: NDArray[np.float64], gripper: float) -> None:
        for joint, position in zip(self._joints, (*positions, gripper, gripper), strict=True):
            pybullet.resetJointState(self._body, joint, float(position), 0.0, physicsClientId=self._client)
        self._arm_target: list[float] = positions.tolist()
        self.set_arm_target(positions, 0.0)
        self.set_gripper_target(gripper)

    def _follow_line(self) -> None:
        """Sends the joint motors the next point of the line; once past its end, where to stand still."""
        if self._line_done > len(self._line):
            return
        if self._line_done < len(self._line):
            self._arm_target = self._line[self._line_done]
            self._drive(self._arm_target, self._line_velocity)
        else:
            self._drive(self._arm_target, [0.0] * 7)
        self._line_done += 1

    def _drive(self, positions: list[float], velocities: list[float]) -> None:
        pybullet.setJointMotorControlArray(
            self._body,
            self._arm_joints,
            pybullet.POSITION_CONTROL,
            targetPositions=positions,
            targetVelocities=velocities,
            physicsClientId=self._client,
            **self._motor_settings,
        )


class _View:
    """A camera's matrices, in OpenGL's layout for PyBullet and in the field's for everyone else."""

    def __init__(self, camera: Camera) -> None:
        self.view_matrix = pybullet.computeViewMatrix(camera.eye, camera.target, camera.up)
        self.projection_matrix = pybullet.computeProjectionMatrixFOV(
            math.degrees(camera.field_of_view), camera.width / camera.height, 0.05, 5.0
        )
        focal = camera.height / 2 / math.tan(camera.field_of_view / 2)
        centre = ((camera.width - 1) / 2, (camera.height - 1) / 2)
        self.camera_matrix = np.array([[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]])
        forward = np.subtract(camera.target, camera.eye)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, camera.up)
        right /= np.linalg.norm(right)
        self.position = np.array(camera.eye)
        self.rotation = np.stack((right, np.cross(forward, right), forward), axis=1)


def projection_of(camera: Camera) -> NDArray[np.float64]:
    """3 x 4: homogeneous positions, m, to homogeneous pixels, whose centres are at whole numbers."""
    view = _View(camera)
    turned = view.rotation.T
    return view.camera_matrix @ np.column_stack([turned, -turned @ view.position])


def _draw_looks(scene: Scene, generator: np.random.Generator) -> Scene:
    """The scene with sizes, colours, light and camera changed within its randomisation ranges."""
    limits = scene.randomisation

    def near(values: Vector, spread: float) -> Vector:
        x, y, z = np.add(values, generator.uniform(-spread, spread, 3)).tolist()
        return x, y, z

    def colour(values: Vector, spread: float) -> Vector:
        red, green, blue = np.clip(near(values, spread), 0.0, 1.0).tolist()
        return red, green, blue

    def scaled(value: float, spread: float) -> float:
        return value * (1.0 + float(generator.uniform(-spread, spread)))

    objects = []
    for item in scene.objects:
        factor = scaled(1.0, limits.object_size)
        size = (item.size[0] * factor, item.size[1] * factor, item.size[2] * factor)
        objects.append(replace(item, size=size, colour=colour(item.colour, limits.object_colour)))
    light = replace(
        scene.light,
        direction=near(scene.light.direction, limits.light_direction),
        ambient=scaled(scene.light.ambient, limits.light_strength),
        diffuse=scaled(scene.light.diffuse, limits.light_strength),
    )
    camera = replace(
        scene.camera,
        eye=near(scene.camera.eye, limits.camera_eye),
        target=near(scene.camera.target, limits.camera_target),
    )
    return replace(scene, objects=tuple(objects), light=light, camera=camera)
