"""Parts of an object, and the closed mesh of all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy import ndarray

from ...mesh import Mesh
from .colour_patterns import ColourPattern
from .shapes import Shape

Role = Literal["add", "subtract", "decal"]
FAR_DISTANCE = np.float32(1e3)
PADDING_CELLS = 2
"""Cells around a part that are worked out, and around the whole."""


@dataclass(frozen=True, eq=False)
class SolidPart:
    """A solid somewhere in the world."""

    shape: Shape
    pattern: ColourPattern | None
    """Colours of its surface; None leaves those of what it cuts."""
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: ndarray | None = None
    """(3, 3) rotation from its own axes to the world's; None for none."""
    blend: float = 0.0
    """Radius of the soft seam to what was there before it."""
    role: Role = "add"
    """add: joined to what is there; cut: taken away from it; paint: only colours what is inside."""

    def bounds(self) -> tuple[ndarray, ndarray]:
        """Lowest and highest corner (3,) of the box around it in the world."""
        half_extents = np.asarray(self.shape.half_extents, np.float64)
        if self.rotation is not None:
            half_extents = np.abs(self.rotation) @ half_extents
        return np.asarray(self.centre) - half_extents, np.asarray(self.centre) + half_extents

    def to_local(self, x: ndarray, y: ndarray, z: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """World coordinates in its own axes; arrays that broadcast stay small where they can."""
        x, y, z = (at - np.float32(c) for at, c in zip((x, y, z), self.centre, strict=True))
        if self.rotation is None:
            return x, y, z
        rows = np.float32(self.rotation).T
        return tuple(row[0] * x + row[1] * y + row[2] * z for row in rows)


def closed_mesh(parts: Sequence[SolidPart], cells: int) -> Mesh:
    """The surface of all parts together: closed, with outward faces, vertex colours and normals.

    Args:
        parts: in order; at least one is added.
        cells: of the grid along the longest side; one cell is the smallest detail.
    """
    from skimage.measure import marching_cubes

    boxes = [part.bounds() for part in parts if part.role == "add"]
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    step = float((high - low).max()) / cells
    margin = PADDING_CELLS * step + 0.25 * max(part.blend for part in parts)
    low = low - margin
    counts = np.ceil((high + margin - low) / step).astype(int) + 1
    axes = [np.float32(low[a] + step * np.arange(counts[a])) for a in range(3)]
    field = _field(parts, axes, step)
    tiny = np.float32(1e-3 * step)  # a zero puts several vertices on one point
    field[np.abs(field) < tiny] = tiny
    vertices, faces, _, _ = marching_cubes(
        field, 0.0, spacing=(step,) * 3, gradient_direction="descent"
    )
    vertices = vertices.astype(np.float32) + np.float32(low)
    colours = vertex_colours(parts, vertices, step)
    normals = smooth_normals(vertices, faces)
    return Mesh(
        torch.from_numpy(vertices),
        torch.from_numpy(faces.astype(np.int64)),
        normals=torch.from_numpy(normals),
        vertex_colours=torch.from_numpy(colours),
    )


def _field(parts: Sequence[SolidPart], axes: list[ndarray], step: float) -> ndarray:
    """Distances (X, Y, Z) on a grid; exact only near the surface. Its border lies outside."""
    field = np.full([len(axis) for axis in axes], FAR_DISTANCE)
    for part in parts:
        if part.role == "decal":
            continue
        low, high = part.bounds()
        margin = PADDING_CELLS * step + part.blend
        where = tuple(
            slice(
                max(int(np.floor((low[a] - margin - axes[a][0]) / step)), 0),
                max(int(np.ceil((high[a] + margin - axes[a][0]) / step)) + 1, 0),
            )
            for a in range(3)
        )
        block = field[where]
        if block.size == 0:
            continue
        points = np.ix_(*(axes[a][where[a]] for a in range(3)))  # (x, 1, 1), (1, y, 1), (1, 1, z)
        distance = part.shape.distance(*part.to_local(*points))
        if part.role == "subtract":
            block[...] = -_smooth_minimum(-block, distance, part.blend)
        else:
            block[...] = _smooth_minimum(block, distance, part.blend)
    for axis in range(3):  # what a rounding error put there
        border = field.swapaxes(0, axis)[[0, -1]]
        field.swapaxes(0, axis)[[0, -1]] = np.maximum(border, np.float32(step * 0.5))
    return field


def _smooth_minimum(first: ndarray, second: ndarray, radius: float) -> ndarray:
    """The lesser of two distances, rounded off where they differ by less than `radius`."""
    least = np.minimum(first, second)
    if radius <= 0:
        return least
    near = np.maximum(np.float32(radius) - np.abs(first - second), 0)
    return least - np.square(near) * np.float32(0.25 / radius)


def vertex_colours(parts: Sequence[SolidPart], vertices: ndarray, step: float) -> ndarray:
    """(N, 3) sRGB at vertices (N, 3): of the nearest part, then what is painted over it."""
    x, y, z = vertices.T.copy()
    nearest = np.full(len(vertices), FAR_DISTANCE)
    colours = np.full((len(vertices), 3), np.float32(0.5))
    for part in parts:
        if part.pattern is None:
            continue
        local = part.to_local(x, y, z)
        distance = part.shape.distance(*local)
        if part.role == "decal":
            fraction = np.clip(0.5 - distance / np.float32(step), 0, 1)
        elif part.role == "subtract":
            fraction = (distance < np.float32(0.6 * step)).astype(np.float32)
        else:
            fraction = (distance < nearest).astype(np.float32)
            nearest = np.minimum(nearest, distance)
        touched = np.flatnonzero(fraction > 0)
        if len(touched) == 0:
            continue
        points = np.stack([axis[touched] for axis in local], axis=1)
        fraction = fraction[touched, None]
        colours[touched] = (
            colours[touched] * (1 - fraction) + part.pattern.colours(points) * fraction
        )
    return np.clip(colours, 0, 1)


def smooth_normals(vertices: ndarray, faces: ndarray) -> ndarray:
    """(N, 3) unit normals of vertices (N, 3), averaged over faces (F, 3) by area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    cross = np.cross(b - a, c - a)  # (F, 3)
    corners = faces.reshape(-1)
    sums = np.stack(
        [
            np.bincount(corners, np.repeat(cross[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.maximum(length, 1e-20)).astype(np.float32)
