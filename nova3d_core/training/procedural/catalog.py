"""All kinds of procedural objects and their sampling weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...checks import check_choice
from ...mesh import Mesh
from . import abstract, animals, buildings, creatures, vehicles, vessels
from .builder import Builder, euler_rotation
from .surface import closed_mesh

ObjectFunction = Callable[[Builder], None]

KINDS: dict[str, tuple[ObjectFunction, float, float]] = {
    "character": (creatures.character, 3.0, 20.0),
    "robot": (creatures.robot, 1.5, 20.0),
    "snowman": (creatures.snowman, 1.0, 20.0),
    "bird": (creatures.bird, 1.2, 60.0),
    "quadruped": (animals.quadruped, 2.5, 75.0),
    "bug": (animals.bug, 1.0, 60.0),
    "fish": (animals.fish, 1.0, 85.0),
    "vase": (vessels.vase, 1.2, 0.0),
    "cup": (vessels.cup, 1.0, 30.0),
    "bottle": (vessels.bottle, 0.8, 0.0),
    "lamp": (vessels.lamp, 1.0, 0.0),
    "chessman": (vessels.chessman, 0.8, 0.0),
    "fruit": (vessels.fruit, 0.8, 0.0),
    "car": (vehicles.car, 1.5, 75.0),
    "truck": (vehicles.truck, 1.2, 75.0),
    "boat": (vehicles.boat, 0.8, 75.0),
    "plane": (vehicles.plane, 0.4, 60.0),
    "rocket": (vehicles.rocket, 0.7, 0.0),
    "house": (buildings.house, 1.2, 45.0),
    "tower": (buildings.tower, 0.8, 20.0),
    "chair": (buildings.chair, 1.0, 45.0),
    "table": (buildings.table, 0.5, 30.0),
    "cabinet": (buildings.cabinet, 1.0, 35.0),
    "solid": (abstract.solid, 2.0, 30.0),
    "blob": (abstract.blob, 1.0, 30.0),
    "sign": (abstract.sign, 0.8, 20.0),
    "plant": (abstract.plant, 1.0, 20.0),
}
"""By name: generator function, sampling weight, and maximum yaw of the front in degrees, since long
animals and vehicles are rarely photographed from straight ahead."""

CELLS, MAX_CELLS = 56, 160
"""Default and maximum grid cells along an object's longest side. The default is about 1.4 cells per
pixel of a 64 pixel image; the maximum takes about a second."""


def procedural_object(seed: int, kind: str | None = None, cells: int = CELLS) -> Mesh:
    """Generates an object from a seed.

    Args:
        seed: a non-negative integer; the same seed gives the same mesh, bit for bit, on the same
            machine.
        kind: one of `KINDS`; random if None.
        cells: grid resolution; see `grid_cells`.

    Returns:
        A watertight mesh, upright, its front towards +Z, centred, its longest side 1, with vertex
        colours and smooth normals.
    """
    rng = np.random.default_rng(seed)
    names = list(KINDS)
    weights = np.array([KINDS[name][1] for name in names])
    chosen = str(rng.choice(names, p=weights / weights.sum()))
    if kind is not None:
        check_choice("kind of object", kind, tuple(KINDS))
        chosen = kind
    make_object, _, max_yaw_deg = KINDS[chosen]
    builder = Builder(rng)
    make_object(builder)
    mesh = closed_mesh(builder.parts, cells)
    transform = torch.eye(4)
    if max_yaw_deg:
        yaw_deg = _random_yaw_deg(rng, max_yaw_deg)
        transform[:3, :3] = torch.from_numpy(euler_rotation(y_deg=yaw_deg)).float()
    return mesh.transformed(transform).normalised()


def grid_cells(size_px: int) -> int:
    """The grid resolution for rendering images of a size."""
    return min(max(CELLS, CELLS * size_px // 64), MAX_CELLS)


def _random_yaw_deg(rng: np.random.Generator, max_yaw_deg: float) -> float:
    """A random yaw; kinds with a large maximum mostly show their left or right side."""
    yaw = float(rng.uniform(-1, 1))
    if max_yaw_deg > 40.0:
        yaw = float(np.copysign(0.45 + 0.55 * abs(yaw), yaw))
    return yaw * max_yaw_deg
