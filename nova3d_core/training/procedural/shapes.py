"""Signed distances of simple solids, on numpy arrays of any shape that broadcast together.

Each solid is centred on its own origin, negative inside, in float32. Distances are exact or a
little too small, which is all that meshing and soft blends need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy import ndarray

TABLE_SIZE = 64
"""Cells along a side of a flat outline's distance table."""


class Shape(Protocol):
    """A solid around its origin."""

    @property
    def half_extents(self) -> tuple[float, float, float]:
        """Half the sides of the box around it, centred on the origin."""

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        """Signed distance at points whose coordinates broadcast together."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid along the axes."""

    radii: tuple[float, float, float]

    @property
    def half_extents(self) -> tuple[float, float, float]:
        return self.radii

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        a, b, c = (np.float32(1.0 / radius) for radius in self.radii)
        xx, yy, zz = np.square(x * a), np.square(y * b), np.square(z * c)
        scaled = np.sqrt(xx + yy + zz)
        if self.radii[0] == self.radii[1] == self.radii[2]:
            return (scaled - 1) * np.float32(self.radii[0])
        slope = np.sqrt(xx * a * a + yy * b * b + zz * c * c)
        return scaled * (scaled - 1) / np.maximum(slope, np.float32(1e-6))


@dataclass(frozen=True)
class Box:
    """A box along the axes with rounded edges."""

    half_extents: tuple[float, float, float]
    rounding: float = 0.0
    """Radius of the edges."""

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        rounding = np.float32(min(self.rounding, *self.half_extents))
        over = [
            np.abs(at) - np.float32(h) + rounding
            for at, h in zip((x, y, z), self.half_extents, strict=True)
        ]
        beyond = sum(np.square(np.maximum(each, 0)) for each in over)
        deepest = np.maximum(np.maximum(over[0], over[1]), over[2])
        return np.sqrt(beyond) + np.minimum(deepest, 0) - rounding


@dataclass(frozen=True)
class Capsule:
    """A round stick along Y, centred, that changes its radius on the way."""

    length: float
    """Between the centres of its round ends."""
    bottom_radius: float
    """Radius at -Y."""
    top_radius: float
    """Radius at +Y."""

    @property
    def half_extents(self) -> tuple[float, float, float]:
        thick = max(self.bottom_radius, self.top_radius)
        return thick, self.length / 2 + thick, thick

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        long = np.float32(self.length)
        up = np.clip(y + long / 2, 0, long)
        radius = (
            np.float32(self.bottom_radius)
            + np.float32((self.top_radius - self.bottom_radius) / self.length) * up
        )
        return np.sqrt(np.square(x) + np.square(z) + np.square(y + long / 2 - up)) - radius


@dataclass(frozen=True)
class Frustum:
    """A cylinder or a cut-off cone around Y with rounded edges."""

    height: float
    bottom_radius: float
    """Radius at the bottom."""
    top_radius: float
    """Radius at the top."""
    rounding: float = 0.0

    @property
    def half_extents(self) -> tuple[float, float, float]:
        thick = max(self.bottom_radius, self.top_radius)
        return thick, self.height / 2, thick

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        rounding = np.float32(
            min(self.rounding, self.height / 2, max(self.bottom_radius, self.top_radius))
        )
        fraction = np.clip(y / np.float32(self.height) + np.float32(0.5), 0, 1)
        radius = (
            np.float32(self.bottom_radius)
            + np.float32(self.top_radius - self.bottom_radius) * fraction
        )
        slant = self.height / np.hypot(self.height, self.top_radius - self.bottom_radius)
        out = (np.sqrt(np.square(x) + np.square(z)) - radius) * np.float32(slant) + rounding
        up = np.abs(y) - np.float32(self.height / 2) + rounding
        beyond = np.sqrt(np.square(np.maximum(out, 0)) + np.square(np.maximum(up, 0)))
        return beyond + np.minimum(np.maximum(out, up), 0) - rounding


@dataclass(frozen=True)
class Torus:
    """A torus around Y."""

    radius: float
    """From the centre to the middle of the tube."""
    tube_radius: float

    @property
    def half_extents(self) -> tuple[float, float, float]:
        wide = self.radius + self.tube_radius
        return wide, self.tube_radius, wide

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        out = np.sqrt(np.square(x) + np.square(z)) - np.float32(self.radius)
        return np.sqrt(np.square(out) + np.square(y)) - np.float32(self.tube_radius)


@dataclass(frozen=True)
class Polygon:
    """A closed polygon in a plane."""

    corners: tuple[tuple[float, float], ...]
    """Any order of turning; it must not cross itself."""

    @cached_property
    def half_extents(self) -> tuple[float, float]:
        """The largest |x| and |y| of its corners."""
        wide, high = np.abs(np.asarray(self.corners)).max(axis=0)
        return float(wide), float(high)

    @cached_property
    def _table(self) -> tuple[ndarray, ndarray, ndarray]:
        """Signed distances (TABLE, TABLE) around the polygon, their origin, and cells per unit."""
        wide, high = self.half_extents
        margin = 0.35 * max(wide, high)
        low = np.array([-wide - margin, -high - margin])
        steps = np.array([2 * (wide + margin), 2 * (high + margin)]) / (TABLE_SIZE - 1)
        x = (low[0] + steps[0] * np.arange(TABLE_SIZE))[:, None]
        y = (low[1] + steps[1] * np.arange(TABLE_SIZE))[None]
        table = polygon_distance(np.asarray(self.corners), x, y).astype(np.float32)
        return table, low.astype(np.float32), (1.0 / steps).astype(np.float32)

    def distance(self, x: ndarray, y: ndarray) -> ndarray:
        """Signed distance in the plane, read from the table between its points."""
        table, low, scale = self._table
        u = np.clip((x - low[0]) * scale[0], 0, np.float32(TABLE_SIZE - 1.001))
        v = np.clip((y - low[1]) * scale[1], 0, np.float32(TABLE_SIZE - 1.001))
        i, j = u.astype(np.int32), v.astype(np.int32)
        u, v, flat = u - i.astype(np.float32), v - j.astype(np.float32), table.reshape(-1)
        index = i * TABLE_SIZE + j
        left = flat[index] * (1 - v) + flat[index + 1] * v
        right = flat[index + TABLE_SIZE] * (1 - v) + flat[index + TABLE_SIZE + 1] * v
        return left * (1 - u) + right * u


@dataclass(frozen=True)
class Extrusion:
    """An outline in the XY plane with thickness along Z and rounded edges."""

    polygon: Polygon
    depth: float
    """Half the thickness."""
    rounding: float = 0.0

    @property
    def half_extents(self) -> tuple[float, float, float]:
        return *self.polygon.half_extents, self.depth

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        rounding = np.float32(min(self.rounding, self.depth))
        flat = self.polygon.distance(x, y) + rounding
        over = np.abs(z) - np.float32(self.depth) + rounding
        beyond = np.sqrt(np.square(np.maximum(flat, 0)) + np.square(np.maximum(over, 0)))
        return beyond + np.minimum(np.maximum(flat, over), 0) - rounding


@dataclass(frozen=True)
class Lathe:
    """An outline turned around Y; its X is the distance from the axis."""

    polygon: Polygon
    """Corners with X >= 0; the side on the axis is put a little beyond it by `lathe`."""

    @property
    def half_extents(self) -> tuple[float, float, float]:
        wide, high = self.polygon.half_extents
        return wide, high, wide

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        return self.polygon.distance(np.sqrt(np.square(x) + np.square(z)), y)


def lathe(radii: Sequence[float], heights: Sequence[float]) -> Lathe:
    """The body of revolution through (radius, height) points from bottom to top, closed."""
    middle = (heights[0] + heights[-1]) / 2
    rim = [(float(r), float(h - middle)) for r, h in zip(radii, heights, strict=True)]
    beyond = -0.2 * max(radii)  # past the axis, so that no distance is felt along it
    return Lathe(Polygon(((beyond, rim[0][1]), *rim, (beyond, rim[-1][1]))))


def polygon_distance(corners: ndarray, x: ndarray, y: ndarray) -> ndarray:
    """Signed distance of points to a polygon (N, 2), negative inside."""
    nearest, inside = np.inf, np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = np.clip((px * ex + py * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.square(px - along * ex) + np.square(py - along * ey))
        if ay != by:
            crosses = (ay <= y) != (by <= y)
            inside ^= crosses & (px < (y - ay) / (by - ay) * ex)
    return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)
