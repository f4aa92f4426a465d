"""A tray of things in front of the arm: `PyBulletArm` with other objects in every episode."""

import math
import tempfile
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pybullet
from numpy.typing import NDArray

from rl_ros import schema
from rl_ros.contract import Contract
from rl_ros.errors import UserError
from rl_ros.robots.arm import Arm
from rl_ros.robots.pybullet_arm import PyBulletArm, Range, Scene, Vector
from rl_ros.robots.shapes import BROKEN, HELD_OUT, Shape, made_up, mesh, narrowest

CAMERA = "/camera/image_raw"
ObjectSet = typing.Literal["train", "held_out"]
SETTLE_SECONDS = 0.8
"""For what was dropped into the tray to come to rest."""
ASIDE = 1.6
"""rad that the arm's first joint is turned by meanwhile."""
DROP_HEIGHT, DROP_STEP = 0.05, 0.03
"""m above the tray from which the first thing falls, and each further one higher."""
_CONTACT = {"contactStiffness": 1e4, "contactDamping": 30.0}
"""N/m and N s/m. Without a spring in its contacts one thing in forty ends a centimetre within the floor."""


@dataclass(frozen=True)
class Tray:
    """A floor and four sloping walls; its floor is at z = 0, but for the thickness of a sheet of card."""

    centre: tuple[float, float]
    size: tuple[float, float]
    """m between the walls along x and y, on the floor."""
    height: float
    slope: float
    """rad of the walls from the vertical."""
    colour: Vector
    friction: float


@dataclass(frozen=True)
class Drawn:
    """What is dropped into it."""

    count: int
    made_up: float
    """Share of shapes that are made up; the others are meshes of PyBullet's data."""
    mass: Range
    friction: float
    spread: float
    """Share of the tray's floor over which they are dropped."""


@dataclass(frozen=True, kw_only=True)
class BinScene(Scene):
    """A scene with a tray. `objects` is empty: they are drawn."""

    tray: Tray
    drawn: Drawn


class Bin(PyBulletArm):
    """The arm over a tray, with other things in it in every episode.

    Args:
        scene: of it.
        arm: the kinematics that place the arm.
        physics_rate: physics steps a simulated second, Hz.
        objects: `train` or `held_out`: meshes that policies have learned from, or never seen.
        randomise: not offered; what is in the tray differs anyway.

    Raises:
        UserError: there are no such objects; as `PyBulletArm`.
    """

    scene: BinScene
    contact_breaking = 0.005
    """See `PyBulletArm`; this saves a tenth of the time of a step."""

    def __init__(
        self,
        scene: BinScene,
        arm: Arm,
        physics_rate: float = 120.0,
        objects: ObjectSet = "train",
        randomise: bool = False,
    ) -> None:
        if randomise:
            raise UserError(f"scene {scene.name}: its looks cannot be randomised: other things are in it each time.")
        objects = schema.convert(ObjectSet, objects, f"scene {scene.name}: objects")
        self._numbers = [n for n in (HELD_OUT if objects == "held_out" else range(HELD_OUT.start)) if n not in BROKEN]
        self._bodies: dict[str, int] = {}
        self.shapes: dict[str, Shape] = {}
        """What is in the tray, by name."""
        self._known: dict[str, tuple[int, int]] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="rl_ros_shapes_")
        super().__init__(scene, arm, physics_rate)

    def reset(self, seed: int) -> None:
        """Empties the tray and fills it anew from the seed; see `PyBulletArm.reset`."""
        self._keep_contacts()
        client, drawn, start = self._client, self.scene.drawn, self.scene.start
        rng = np.random.default_rng([seed, 0xB1])
        for body in self._bodies.values():
            pybullet.removeBody(body, physicsClientId=client)
        self._bodies, self.shapes = {}, {}
        aside = self.arm.home.copy()
        aside[0] += ASIDE
        self._place_arm(aside, start.gripper)
        pybullet.performCollisionDetection(physicsClientId=client)
        pybullet.restoreState(self._loaded, physicsClientId=client)
        self._place_arm(aside, start.gripper)
        for number in range(drawn.count):
            if rng.random() < drawn.made_up:
                shape = made_up(int(rng.integers(2**31)))
            else:
                shape = mesh(int(rng.choice(self._numbers)))
            name = f"object_{number}"
            self.shapes[name] = shape
            self._bodies[name] = self._drop(shape, number, rng)
        tool = (rng.uniform(*start.x), rng.uniform(*start.y), rng.uniform(*start.z))
        self._step_count = 0
        self.advance(SETTLE_SECONDS)
        self._place_arm(self._start_positions(tool), start.gripper)
        self._step_count = 0

    def close(self) -> None:
        """See `PyBulletArm.close`."""
        super().close()
        self._scratch.cleanup()

    def object_poses(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """See `PyBulletArm.object_poses`."""
        poses = {}
        for name, body in self._bodies.items():
            position, quaternion = pybullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
            poses[name] = (np.array(position), np.array(quaternion))
        return poses

    def headings(self) -> NDArray[np.float64]:
        """For each thing, along which heading it is narrowest now, rad, -pi/2 to pi/2; (n,)."""
        return np.array([self._narrowest(name, turn)[0] for name, (_, turn) in self.object_poses().items()])

    def hold_up(self, number: int, position: Vector, yaw: float, depth: float) -> None:
        """Puts the tool at a position, m, turned by `yaw` rad, and a thing between its fingers; all of it at rest.

        It is there as a grasp would hold it that came down over it where it lies, across its narrowest side.

        Args:
            number: which thing.
            depth: m above the tray's floor at which it would be grasped.
        """
        name = list(self._bodies)[number]
        lies, quaternion = self.object_poses()[name]
        heading, width = self._narrowest(name, quaternion)
        self.place_tool(position, yaw, min(width / 2.0, self.scene.start.gripper))
        # Fingers open along the tool's y.
        turn = pybullet.getQuaternionFromEuler((0.0, 0.0, yaw - math.pi / 2 - heading))
        _, turned_quaternion = pybullet.multiplyTransforms((0, 0, 0), turn, (0, 0, 0), quaternion.tolist())
        place = (*position[:2], position[2] + float(lies[2]) - depth)
        pybullet.resetBasePositionAndOrientation(
            self._bodies[name], place, turned_quaternion, physicsClientId=self._client
        )

    def _narrowest(self, name: str, quaternion: NDArray[np.float64]) -> tuple[float, float]:
        """See `narrowest`, of a thing turned so."""
        turned = np.array(pybullet.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
        return narrowest(self.shapes[name].corners @ turned.T)

    def _drop(self, shape: Shape, number: int, rng: np.random.Generator) -> int:
        client, drawn, tray = self._client, self.scene.drawn, self.scene.tray
        collision, visual = self._shapes_of(shape)
        half = [drawn.spread * edge / 2 for edge in tray.size]
        position = [
            tray.centre[0] + rng.uniform(-half[0], half[0]),
            tray.centre[1] + rng.uniform(-half[1], half[1]),
            DROP_HEIGHT + DROP_STEP * number,
        ]
        turn = rng.normal(size=4)
        body: int = pybullet.createMultiBody(
            baseMass=rng.uniform(*drawn.mass),
            baseCollisionShapeIndex=collision,
            baseVisualShapeIndex=visual,
            basePosition=position,
            baseOrientation=(turn / np.linalg.norm(turn)).tolist(),
            useMaximalCoordinates=1,  # nearly twice as fast
            physicsClientId=client,
        )
        pybullet.changeDynamics(
            body,
            -1,
            lateralFriction=drawn.friction,
            spinningFriction=1e-3,  # what is held by one point of each finger does not swing
            linearDamping=0.1,
            angularDamping=0.3,  # for what rolls; rolling friction would cost a third more
            **_CONTACT,
            physicsClientId=client,
        )
        return body

    def _shapes_of(self, shape: Shape) -> tuple[int, int]:
        """Collision and visual shape, made once for each mesh."""
        if shape.name not in self._known:
            file = Path(self._scratch.name) / f"{shape.name}.obj"
            file.write_text(_hulls(shape))
            collision = pybullet.createCollisionShape(
                pybullet.GEOM_MESH, fileName=str(file), physicsClientId=self._client
            )
            file.unlink()
            visual = pybullet.createVisualShape(
                pybullet.GEOM_MESH,
                vertices=shape.vertices.tolist(),
                indices=shape.triangles.ravel().tolist(),
                rgbaColor=(*shape.colour, 1.0),
                physicsClientId=self._client,
            )
            if shape.name.startswith("made_up"):
                return collision, visual
            self._known[shape.name] = collision, visual
        return self._known[shape.name]

    def _load_world(self, looks: Scene) -> None:
        super()._load_world(looks)
        tray, client = self.scene.tray, self._client
        (x, y), (length, width), lean = tray.centre, tray.size, tray.slope
        thick, tall = 0.004, tray.height / math.cos(lean)
        out = tall / 2 * math.sin(lean)
        up = tray.height / 2
        walls = [
            ((thick / 2, width / 2 + out * 2, tall / 2), (length / 2 + out, 0.0, up), (0.0, lean, 0.0)),
            ((thick / 2, width / 2 + out * 2, tall / 2), (-length / 2 - out, 0.0, up), (0.0, -lean, 0.0)),
            ((length / 2 + out * 2, thick / 2, tall / 2), (0.0, width / 2 + out, up), (-lean, 0.0, 0.0)),
            ((length / 2 + out * 2, thick / 2, tall / 2), (0.0, -width / 2 - out, up), (lean, 0.0, 0.0)),
        ]
        parts = [((length / 2, width / 2, 0.0005), (0.0, 0.0, 0.0005), (0.0, 0.0, 0.0)), *walls]
        halves = [list(half) for half, _, _ in parts]
        places = [list(place) for _, place, _ in parts]
        turns = [pybullet.getQuaternionFromEuler(turn) for _, _, turn in parts]
        kinds = [pybullet.GEOM_BOX] * len(parts)
        collision = pybullet.createCollisionShapeArray(
            shapeTypes=kinds[1:],  # the floor is only looked at: things lie on the table, and touch one thing, not two
            halfExtents=halves[1:],
            collisionFramePositions=places[1:],
            collisionFrameOrientations=turns[1:],
            physicsClientId=client,
        )
        visual = pybullet.createVisualShapeArray(
            shapeTypes=kinds,
            halfExtents=halves,
            visualFramePositions=places,
            visualFrameOrientations=turns,
            rgbaColors=[[*tray.colour, 1.0]] * len(parts),
            physicsClientId=client,
        )
        body = pybullet.createMultiBody(0.0, collision, visual, basePosition=(x, y, 0.0), physicsClientId=client)
        pybullet.changeDynamics(body, -1, lateralFriction=tray.friction, physicsClientId=client)
        self._known, self._bodies = {}, {}


def _hulls(shape: Shape) -> str:
    """A Wavefront .obj with a group for each piece: PyBullet makes each its convex hull, and takes several only so."""
    lines, first = [], 1
    for number, piece in enumerate(shape.pieces):
        lines.append(f"o piece_{number}")
        lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in piece.tolist()]
        lines += [f"f {first} {first + i} {first + i + 1}" for i in range(1, len(piece) - 1)]
        first += len(piece)
    return "\n".join(lines) + "\n"


def make_world(
    path: Path,
    arm: Arm,
    physics_rate: float,
    contract: Contract,
    *,
    objects: ObjectSet = "train",
    randomise: bool = False,
) -> PyBulletArm:
    """The world of a scene file: a tray where it has one. Its camera has as many pixels as the contract says.

    Raises:
        UserError: as `Scene.load` and `PyBulletArm`.
    """
    has_tray = "\ntray:" in path.read_text(encoding="utf-8")
    scene = (BinScene if has_tray else Scene).load(path)
    for key in (contract.observation | contract.auxiliary).values():
        if key.topic == CAMERA:
            scene = scene.seen_at(*key.shape[:2])
    if has_tray:
        return Bin(cast(BinScene, scene), arm, physics_rate, objects, randomise)
    return PyBulletArm(scene, arm, physics_rate, randomise)


def object_names(world: PyBulletArm) -> tuple[str, ...]:
    """The names of what `objects_state` holds; none without a tray."""
    if not isinstance(world, Bin):
        return ()
    numbers = range(world.scene.drawn.count)
    places = [f"object_{number}_{axis}" for number in numbers for axis in "xyz"]
    return (*places, *(f"object_{number}_heading" for number in numbers))


def objects_state(world: PyBulletArm) -> NDArray[np.float64]:
    """x, y and z, m, of each thing in the tray, then along which heading each is narrowest, rad."""
    assert isinstance(world, Bin)
    places = [position for position, _ in world.object_poses().values()]
    return np.concatenate([*places, world.headings()])
