"""All kinds of objects, and how often each one is made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...checks import check_choice
from ...mesh import Mesh
from . import abstract, animals, buildings, creatures, vehicles, vessels
from .builder import Builder, euler_rotation
from .surface import closed_mesh

Maker = Callable[[Builder], None]

KINDS: dict[str, tuple[Maker, float, float]] = {
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
"""By name: the maker, how often it is chosen, and how far its front may be turned aside, in
degrees: long animals and vehicles are seldom imaged from straight ahead."""

CELLS, MAX_CELLS = 56, 160
"""Of the grid along an object's longest side: about 1.4 a pixel of an image of 64 pixels. More are
taken for larger images, up to what takes a second."""


def procedural_object(seed: int, kind: str | None = None, cells: int = CELLS) -> Mesh:
    """An object that depends on nothing but its seed.

    Args:
        seed: any whole number from 0; the same one gives the same mesh, bit for bit, on one
            machine.
        kind: one of `KINDS`; chosen by the seed if None.
        cells: fineness; see `grid_cells`.

    Returns:
        A closed mesh, upright, its front towards +Z, centred, its longest side 1, with vertex
        colours and smooth normals.
    """
    rng = np.random.default_rng(seed)
    names = list(KINDS)
    often = np.array([KINDS[name][1] for name in names])
    chosen = str(rng.choice(names, p=often / often.sum()))
    if kind is not None:
        check_choice("kind of object", kind, tuple(KINDS))
        chosen = kind
    maker, _, aside = KINDS[chosen]
    builder = Builder(rng)
    maker(builder)
    mesh = closed_mesh(builder.parts, cells)
    rotation = torch.eye(4)
    if aside:
        angle = _turn_deg(rng, aside)
        rotation[:3, :3] = torch.from_numpy(euler_rotation(y_deg=angle)).float()
    return mesh.transformed(rotation).normalised()


def grid_cells(size_px: int) -> int:
    """The fineness that images of a size deserve."""
    return min(max(CELLS, CELLS * size_px // 64), MAX_CELLS)


def _turn_deg(rng: np.random.Generator, aside: float) -> float:
    """How far the front is turned: what is mostly seen from the side, is; either side will do."""
    angle = float(rng.uniform(-1, 1))
    if aside > 40.0:
        angle = float(np.copysign(0.45 + 0.55 * abs(angle), angle))
    return angle * aside
