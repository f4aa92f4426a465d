"""Distances of the arm from itself and from the table, between the primitive shapes of its URDF."""

import coal
import numpy as np
import pinocchio
from numpy.typing import NDArray

from rl_ros.robots.arm import Arm

_APART = 2
"""Joints between two links that can touch; neighbours overlap at their joint by construction."""
_TABLE_EDGES = (4.0, 4.0, 1.0)
"""m; the table is a box below the arm."""


class Clearance:
    """Whether a pose keeps its distance: from the table, or between links.

    One instance serves one thread at a time (coal computes in a scratch area that the instance owns).
    """

    def __init__(self, arm: Arm, distance: float, table_height: float | None = None) -> None:
        """Prepares the pairs of shapes.

        Args:
            arm: whose URDF says the shapes; its fingers are taken as closed.
            distance: m to keep, at least.
            table_height: m, of the table's top; None watches the links among themselves.
        """
        whole = pinocchio.buildModelFromUrdf(str(arm.urdf))
        shapes = pinocchio.buildGeomFromUrdf(whole, str(arm.urdf), pinocchio.GeometryType.COLLISION)
        fingers = [whole.getJointId(name) for name in arm.finger_joint_names]
        self._model, self._shapes = pinocchio.buildReducedModel(whole, shapes, fingers, pinocchio.neutral(whole))
        links = [shape.parentJoint for shape in self._shapes.geometryObjects]
        if table_height is None:
            pairs = [(a, b) for a, low in enumerate(links) for b, high in enumerate(links) if high - low >= _APART]
        else:
            middle = pinocchio.SE3(np.eye(3), np.array([0.0, 0.0, table_height - _TABLE_EDGES[2] / 2]))
            table = pinocchio.GeometryObject("table", 0, 0, middle, coal.Box(*_TABLE_EDGES))
            index = self._shapes.addGeometryObject(table)
            # The base stands on the table, and the first link turns above it.
            pairs = [(a, index) for a, link in enumerate(links) if link >= _APART]
        for pair in pairs:
            self._shapes.addCollisionPair(pinocchio.CollisionPair(*pair))
        self._data = self._model.createData()
        self._results = pinocchio.GeometryData(self._shapes)
        for request in self._results.collisionRequests:
            request.security_margin = distance

    def kept(self, positions: NDArray[np.float64]) -> bool:
        """Whether every pair is further apart than the distance to keep, at joint positions (N,) rad."""
        return not pinocchio.computeCollisions(
            self._model, self._data, self._shapes, self._results, positions, stop_at_first_collision=True
        )

    def nearest(self, positions: NDArray[np.float64]) -> tuple[float, str]:
        """Distance in m of the nearest pair at joint positions (N,) rad, negative where they overlap; and their names.

        Takes several times longer than `kept`.
        """
        pinocchio.computeDistances(self._model, self._data, self._shapes, self._results, positions)
        distances = [result.min_distance for result in self._results.distanceResults]
        index = int(np.argmin(distances))
        pair = self._shapes.collisionPairs[index]
        first, second = (self._shapes.geometryObjects[each].name for each in (pair.first, pair.second))
        return distances[index], f"{first} and {second}"
