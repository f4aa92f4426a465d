"""Things to grasp: a thousand shapes that come with PyBullet's data, and as many again as one likes that are made up.

Each is a mesh to look at, and a convex hull to touch for each of its pieces, with few corners, so that physics stays
cheap.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from rl_ros.errors import UserError

MESHES = 1000
"""Shapes in `pybullet_data/random_urdfs`."""
HELD_OUT = range(900, MESHES)
"""Those that no policy learns from."""
BROKEN = (168,)
"""Files in which there are corners that are no numbers."""
MESH_SCALE = 0.009
"""m to a unit of these files, whose own 0.015 is for a wider hand than the Panda's 8 cm."""
CORNERS = 24
"""Of a hull, at most."""
PIECES = 10
"""What is made of more has one hull about all of it."""

Mesh = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A rigid thing; its centre is the middle of its extent."""

    name: str
    vertices: Mesh
    """(V, 3) m, about the centre."""
    triangles: NDArray[np.int64]
    """(T, 3) rows of `vertices`."""
    pieces: tuple[Mesh, ...]
    """Each (C, 3) m: corners of a convex hull that is touched."""
    colour: tuple[float, float, float]

    @property
    def corners(self) -> Mesh:
        """Of all hulls, (C, 3) m."""
        return np.concatenate(self.pieces)


@cache
def mesh(number: int) -> Shape:
    """One of the shapes of PyBullet's data, 0 to 999.

    Raises:
        UserError: PyBullet's data are not installed.
    """
    try:
        directory = resources.files("pybullet_data")
    except ModuleNotFoundError as error:
        raise UserError("pybullet_data is not installed; it comes with pybullet.") from error
    text = (directory / "random_urdfs" / f"{number:03d}" / f"{number:03d}.obj").read_text()
    vertices, triangles = _read(text)
    vertices = vertices * MESH_SCALE
    pieces = _connected(vertices, triangles)
    if len(pieces) > PIECES:
        pieces = [vertices]
    return _shape(f"mesh_{number:03d}", vertices, triangles, pieces, np.random.default_rng([number, 0xC0]))


def made_up(seed: int) -> Shape:
    """A box, a cylinder, an L or a T, of a size that a hand can hold, all from the seed."""
    rng = np.random.default_rng([seed, 0x5A])
    width, length, height = rng.uniform(0.02, 0.05), rng.uniform(0.04, 0.09), rng.uniform(0.02, 0.045)
    match rng.integers(4):
        case 0:
            parts = [_box((width, length, height), (0.0, 0.0, 0.0))]
        case 1:
            parts = [_cylinder(width / 2, length)]
        case 2:
            bar = min(width, 0.025)
            parts = [_box((bar, length, height), (0.0, 0.0, 0.0))]
            parts.append(_box((length / 2, bar, height), (length / 4, length / 2 - bar / 2, 0.0)))
        case _:
            bar = min(width, 0.025)
            parts = [_box((bar, length, height), (0.0, 0.0, 0.0))]
            parts.append(_box((length * 0.7, bar, height), (0.0, length / 2 - bar / 2, 0.0)))
    vertices = np.concatenate([part[0] for part in parts])
    starts = np.cumsum([0, *(len(part[0]) for part in parts[:-1])])
    triangles = np.concatenate([part[1] + start for part, start in zip(parts, starts, strict=True)])
    return _shape(f"made_up_{seed}", vertices, triangles, [part[0] for part in parts], rng)


def narrowest(points: Mesh) -> tuple[float, float]:
    """Along which heading, seen from above, something is narrowest: rad, -pi/2 to pi/2, and how wide it is there, m.

    Args:
        points: (n, 3) or (n, 2) m.
    """
    angles, directions = _headings()
    along = points[:, :2] @ directions
    width = along.max(axis=0) - along.min(axis=0)
    best = int(np.argmin(width))
    return float(angles[best]), float(width[best])


@cache
def _headings() -> tuple[Mesh, Mesh]:
    angles = -np.pi / 2 + np.arange(24) * np.pi / 24
    return angles, np.stack([np.cos(angles), np.sin(angles)])


@cache
def _directions() -> Mesh:
    """CORNERS directions spread evenly over the sphere (a Fibonacci lattice), (3, CORNERS)."""
    step = np.arange(CORNERS) + 0.5
    z, turn = 1.0 - 2.0 * step / CORNERS, np.pi * (1.0 + 5.0**0.5) * step
    flat = np.sqrt(1.0 - z**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z])


def _shape(
    name: str, vertices: Mesh, triangles: NDArray[np.int64], pieces: list[Mesh], rng: np.random.Generator
) -> Shape:
    centre = (vertices.max(axis=0) + vertices.min(axis=0)) / 2
    hulls = tuple(piece[np.unique((piece @ _directions()).argmax(axis=0))] - centre for piece in pieces)
    red, green, blue = rng.uniform(0.05, 0.95, 3).tolist()
    return Shape(name, vertices - centre, triangles, hulls, (red, green, blue))


def _connected(vertices: Mesh, triangles: NDArray[np.int64]) -> list[Mesh]:
    """The vertices of each piece that hangs together; corners at the same place are one."""
    _, same = np.unique(vertices.round(6), axis=0, return_inverse=True)
    same = same.ravel()
    edges = same[np.concatenate([triangles[:, :2], triangles[:, 1:]])]
    label, before = np.arange(same.max() + 1), np.empty(0, np.int64)
    while not np.array_equal(label, before):
        before = label.copy()
        least = np.minimum(label[edges[:, 0]], label[edges[:, 1]])
        np.minimum.at(label, edges[:, 0], least)
        np.minimum.at(label, edges[:, 1], least)
    return [vertices[label[same] == piece] for piece in np.unique(label[same])]


def _read(text: str) -> tuple[Mesh, NDArray[np.int64]]:
    """Vertices and triangles of a Wavefront .obj file; polygons are cut into fans."""
    vertices, triangles = [], []
    for line in text.splitlines():
        kind, *parts = line.split() or [""]
        if kind == "v":
            vertices.append([float(part) for part in parts[:3]])
        elif kind == "f":
            first, *rest = (int(part.split("/")[0]) - 1 for part in parts)
            triangles += [(first, *pair) for pair in zip(rest[:-1], rest[1:], strict=True)]
    return np.array(vertices), np.array(triangles)


@lru_cache(maxsize=1)
def _box_triangles() -> NDArray[np.int64]:
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return np.array([triangle for a, b, c, d in faces for triangle in ((a, b, c), (a, c, d))])


def _box(size: tuple[float, float, float], centre: tuple[float, float, float]) -> tuple[Mesh, NDArray[np.int64]]:
    signs = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    return signs * np.array(size) + np.array(centre), _box_triangles()


def _cylinder(radius: float, length: float, sides: int = 12) -> tuple[Mesh, NDArray[np.int64]]:
    turn = np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    ends = [np.column_stack([np.full(sides, x), ring]) for x in (-length / 2, length / 2)]
    triangles = []
    for a in range(sides):
        b = (a + 1) % sides
        triangles += [(a, b, sides + a), (b, sides + b, sides + a)]
    for a in range(1, sides - 1):
        triangles += [(0, a + 1, a), (sides, sides + a, sides + a + 1)]
    return np.concatenate(ends), np.array(triangles)
