"""Signed distance functions of simple solids, on broadcastable numpy arrays.

Each solid is centred at its local origin; distances are float32 and negative inside. They are exact
or lower bounds, which suffices for meshing and smooth blending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy import ndarray

TABLE_SIZE = 64
"""Samples along a side of a polygon's distance table."""


class Shape(Protocol):
    """A solid centred at its local origin."""

    @property
    def half_extents(self) -> tuple[float, float, float]:
        """Half the sides of its axis-aligned bounding box."""

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        """Signed distance at points with broadcastable coordinates."""


@dataclass(frozen=True)
class Ellipsoid:
    """An axis-aligned ellipsoid."""

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
        gradient = np.sqrt(xx * a * a + yy * b * b + zz * c * c)
        return scaled * (scaled - 1) / np.maximum(gradient, np.float32(1e-6))


@dataclass(frozen=True)
class Box:
    """An axis-aligned box with rounded edges."""

    half_extents: tuple[float, float, float]
    rounding: float = 0.0
    """Radius of the edges."""

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        rounding = np.float32(min(self.rounding, *self.half_extents))
        offset = [
            np.abs(axis) - np.float32(h) + rounding
            for axis, h in zip((x, y, z), self.half_extents, strict=True)
        ]
        outside = sum(np.square(np.maximum(each, 0)) for each in offset)
        inside = np.maximum(np.maximum(offset[0], offset[1]), offset[2])
        return np.sqrt(outside) + np.minimum(inside, 0) - rounding


@dataclass(frozen=True)
class Capsule:
    """A capsule along Y with a different radius at each end."""

    length: float
    """Distance between the centres of the end spheres."""
    bottom_radius: float
    """Radius at -Y."""
    top_radius: float
    """Radius at +Y."""

    @property
    def half_extents(self) -> tuple[float, float, float]:
        radius = max(self.bottom_radius, self.top_radius)
        return radius, self.length / 2 + radius, radius

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        length = np.float32(self.length)
        along = np.clip(y + length / 2, 0, length)
        radius = (
            np.float32(self.bottom_radius)
            + np.float32((self.top_radius - self.bottom_radius) / self.length) * along
        )
        return np.sqrt(np.square(x) + np.square(z) + np.square(y + length / 2 - along)) - radius


@dataclass(frozen=True)
class Frustum:
    """A cylinder or truncated cone around Y with rounded edges."""

    height: float
    bottom_radius: float
    """Radius at the bottom."""
    top_radius: float
    """Radius at the top."""
    rounding: float = 0.0

    @property
    def half_extents(self) -> tuple[float, float, float]:
        radius = max(self.bottom_radius, self.top_radius)
        return radius, self.height / 2, radius

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
        radial = (np.sqrt(np.square(x) + np.square(z)) - radius) * np.float32(slant) + rounding
        axial = np.abs(y) - np.float32(self.height / 2) + rounding
        outside = np.sqrt(np.square(np.maximum(radial, 0)) + np.square(np.maximum(axial, 0)))
        return outside + np.minimum(np.maximum(radial, axial), 0) - rounding


@dataclass(frozen=True)
class Torus:
    """A torus around Y."""

    radius: float
    """Distance from the centre to the middle of the tube."""
    tube_radius: float

    @property
    def half_extents(self) -> tuple[float, float, float]:
        outer = self.radius + self.tube_radius
        return outer, self.tube_radius, outer

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        radial = np.sqrt(np.square(x) + np.square(z)) - np.float32(self.radius)
        return np.sqrt(np.square(radial) + np.square(y)) - np.float32(self.tube_radius)


@dataclass(frozen=True)
class Polygon:
    """A closed polygon in the plane."""

    corners: tuple[tuple[float, float], ...]
    """Vertices in either orientation; the polygon must not intersect itself."""

    @cached_property
    def half_extents(self) -> tuple[float, float]:
        """The largest |x| and |y| of its corners."""
        wide, high = np.abs(np.asarray(self.corners)).max(axis=0)
        return float(wide), float(high)

    @cached_property
    def _table(self) -> tuple[ndarray, ndarray, ndarray]:
        """Signed distances (TABLE_SIZE, TABLE_SIZE), their origin, and samples per unit."""
        wide, high = self.half_extents
        margin = 0.35 * max(wide, high)
        low = np.array([-wide - margin, -high - margin])
        steps = np.array([2 * (wide + margin), 2 * (high + margin)]) / (TABLE_SIZE - 1)
        x = (low[0] + steps[0] * np.arange(TABLE_SIZE))[:, None]
        y = (low[1] + steps[1] * np.arange(TABLE_SIZE))[None]
        table = polygon_distance(np.asarray(self.corners), x, y).astype(np.float32)
        return table, low.astype(np.float32), (1.0 / steps).astype(np.float32)

    def distance(self, x: ndarray, y: ndarray) -> ndarray:
        """Signed distance in the plane, interpolated bilinearly in a table."""
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
    """A polygon in the XY plane, extruded along Z, with rounded edges."""

    polygon: Polygon
    depth: float
    """Half the thickness."""
    rounding: float = 0.0

    @property
    def half_extents(self) -> tuple[float, float, float]:
        return *self.polygon.half_extents, self.depth

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        rounding = np.float32(min(self.rounding, self.depth))
        planar = self.polygon.distance(x, y) + rounding
        axial = np.abs(z) - np.float32(self.depth) + rounding
        outside = np.sqrt(np.square(np.maximum(planar, 0)) + np.square(np.maximum(axial, 0)))
        return outside + np.minimum(np.maximum(planar, axial), 0) - rounding


@dataclass(frozen=True)
class Lathe:
    """A solid of revolution around Y; the polygon's x is the distance from the axis."""

    polygon: Polygon
    """The profile; `lathe` extends its inner side beyond the axis."""

    @property
    def half_extents(self) -> tuple[float, float, float]:
        wide, high = self.polygon.half_extents
        return wide, high, wide

    def distance(self, x: ndarray, y: ndarray, z: ndarray) -> ndarray:
        return self.polygon.distance(np.sqrt(np.square(x) + np.square(z)), y)


def lathe(radii: Sequence[float], heights: Sequence[float]) -> Lathe:
    """A closed solid of revolution through (radius, height) points from bottom to top."""
    middle = (heights[0] + heights[-1]) / 2
    profile = [(float(r), float(h - middle)) for r, h in zip(radii, heights, strict=True)]
    inner = -0.2 * max(radii)  # beyond the axis, which must not act as a surface
    corners = ((inner, profile[0][1]), *profile, (inner, profile[-1][1]))
    return Lathe(Polygon(corners))


def polygon_distance(corners: ndarray, x: ndarray, y: ndarray) -> ndarray:
    """Exact signed distance to a polygon (N, 2), negative inside."""
    squared, inside = np.inf, np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = np.clip((px * ex + py * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
        squared = np.minimum(squared, np.square(px - along * ex) + np.square(py - along * ey))
        if ay != by:
            crosses = (ay <= y) != (by <= y)
            inside ^= crosses & (px < (y - ay) / (by - ay) * ex)
    return np.where(inside, -1.0, 1.0) * np.sqrt(squared)
