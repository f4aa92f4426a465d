"""Doors of a simulated scene: a panel that turns about an upright hinge on the table."""

import math
from dataclasses import dataclass

import numpy as np
import pybullet
from numpy.typing import NDArray

PANEL = 0
"""The panel's link and joint; the body itself is the hinge's post."""


@dataclass(frozen=True)
class Door:
    """A panel from its hinge at x, y, m; closed at angle 0, where it points along y. `size` is length, thickness and
    height, m; an episode draws the angle, rad, counted towards the arm, from a range; `friction` is N m."""

    name: str
    hinge: tuple[float, float]
    size: tuple[float, float, float]
    mass: float
    friction: float
    colour: tuple[float, float, float]
    angle: tuple[float, float]
    limits: tuple[float, float]


def add_door(door: Door, client: int) -> int:
    """Put a door into a physics server; its body."""
    length, thickness, height = door.size
    half, middle = [thickness / 2, length / 2, height / 2], [0.0, length / 2, height / 2]
    shape = pybullet.createCollisionShape(
        pybullet.GEOM_BOX, halfExtents=half, collisionFramePosition=middle, physicsClientId=client
    )
    visual = pybullet.createVisualShape(
        pybullet.GEOM_BOX,
        halfExtents=half,
        visualFramePosition=middle,
        rgbaColor=(*door.colour, 1.0),
        physicsClientId=client,
    )
    body: int = pybullet.createMultiBody(
        baseMass=0.0,
        basePosition=(*door.hinge, 0.002),
        linkMasses=[door.mass],
        linkCollisionShapeIndices=[shape],
        linkVisualShapeIndices=[visual],
        linkPositions=[[0.0, 0.0, 0.0]],
        linkOrientations=[[0.0, 0.0, 0.0, 1.0]],
        linkInertialFramePositions=[middle],
        linkInertialFrameOrientations=[[0.0, 0.0, 0.0, 1.0]],
        linkParentIndices=[0],
        linkJointTypes=[pybullet.JOINT_REVOLUTE],
        linkJointAxis=[[0.0, 0.0, 1.0]],
        physicsClientId=client,
    )
    pybullet.changeDynamics(
        body,
        PANEL,
        jointLowerLimit=door.limits[0],
        jointUpperLimit=door.limits[1],
        lateralFriction=0.4,
        physicsClientId=client,
    )
    # A motor that holds still with little torque is a hinge with friction.
    pybullet.setJointMotorControl2(
        body, PANEL, pybullet.VELOCITY_CONTROL, targetVelocity=0.0, force=door.friction, physicsClientId=client
    )
    return body


def turn_door(body: int, angle: float, client: int) -> None:
    """Put a door's panel at an angle, rad, at rest."""
    pybullet.resetJointState(body, PANEL, angle, 0.0, physicsClientId=client)


def panel_pose(door: Door, body: int, client: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the panel's free edge is, at half its height, m (3,), and the panel's orientation x, y, z, w (4,)."""
    angle = pybullet.getJointState(body, PANEL, physicsClientId=client)[0]
    orientation = np.array([0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)])
    return edge(door, angle), orientation


def edge(door: Door, angle: float) -> NDArray[np.float64]:
    """Where the panel's free edge is with the door at an angle, rad, at half its height, m (3,)."""
    length, _, height = door.size
    x, y = door.hinge
    return np.array([x - length * math.sin(angle), y + length * math.cos(angle), height / 2])
