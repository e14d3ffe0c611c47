"""Builder of procedural objects: random choices, a colour palette, and placement of parts."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from .colour_patterns import (
    GLYPHS,
    Checkerboard,
    Colour,
    ColourPattern,
    Gradient,
    Lettering,
    Patches,
    SolidColour,
    Spots,
    Stripes,
)
from .shapes import Box, Capsule, Ellipsoid, Frustum, Polygon, Shape, Torus
from .surface import Role, SolidPart

Point = tuple[float, float, float]
MAX_BRIGHTNESS = 0.93
"""Limit of each colour channel, which keeps objects distinguishable from a white background."""


class Builder:
    """Collects the parts of one object.

    Args:
        rng: source of all random choices.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.parts: list[SolidPart] = []
        self.colours = _palette(rng)

    # random choices

    def uniform(self, low: float, high: float) -> float:
        """A uniformly distributed number."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def integer(self, low: int, high: int) -> int:
        """A uniformly distributed integer, bounds included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, choices: Sequence):
        """One of the choices, all equally likely."""
        return choices[int(self.rng.integers(len(choices)))]

    # parts

    def add(
        self,
        shape: Shape,
        pattern: ColourPattern | None,
        centre: Point = (0.0, 0.0, 0.0),
        rotation: ndarray | None = None,
        blend: float = 0.0,
        role: Role = "add",
    ) -> None:
        """Adds a part."""
        self.parts.append(SolidPart(shape, pattern, centre, rotation, blend, role))

    def place(
        self,
        shape: Shape,
        pattern: ColourPattern | None,
        at: Point,
        rotation: ndarray | None = None,
        blend: float = 0.0,
        mirror: bool = False,
        role: Role = "add",
    ) -> None:
        """Adds a part at a position; `mirror` also adds its mirror image at -x."""
        self.add(shape, pattern, at, rotation, blend, role)
        if mirror:
            mirrored = None if rotation is None else MIRROR_X @ rotation @ MIRROR_X
            self.add(shape, pattern, (-at[0], at[1], at[2]), mirrored, blend, role)

    def ellipsoid(
        self, radii: float | Point, pattern: ColourPattern | None, at: Point, **options: Any
    ) -> None:
        """Adds an ellipsoid; `options` as in `place`."""
        each = radii if isinstance(radii, tuple) else (radii,) * 3
        self.place(Ellipsoid(each), pattern, at, **options)

    def box(
        self,
        half_extents: Point,
        pattern: ColourPattern | None,
        at: Point,
        rounding: float = 0.0,
        **options: Any,
    ) -> None:
        """Adds a box; `options` as in `place`."""
        self.place(Box(half_extents, rounding), pattern, at, **options)

    def frustum(
        self,
        size: tuple[float, float, float],
        pattern: ColourPattern | None,
        at: Point,
        rounding: float = 0.0,
        **options: Any,
    ) -> None:
        """Adds a frustum of (height, bottom radius, top radius); `options` as in `place`."""
        self.place(Frustum(*size, rounding), pattern, at, **options)

    def torus(
        self, size: tuple[float, float], pattern: ColourPattern | None, at: Point, **options: Any
    ) -> None:
        """Adds a torus of (radius, tube radius); `options` as in `place`."""
        self.place(Torus(*size), pattern, at, **options)

    def capsule(
        self,
        start: Point,
        end: Point,
        radii: tuple[float, float],
        pattern: ColourPattern,
        **options: Any,
    ) -> None:
        """Adds a capsule between two points, with a radius at each; `options` as in `place`."""
        direction = np.subtract(end, start)
        middle = tuple(float(v) for v in np.add(start, end) / 2)
        length = max(float(np.linalg.norm(direction)), 1e-3)
        rotation = align_y_axis(direction)
        self.place(Capsule(length, *radii), pattern, middle, rotation, **options)

    # colours

    def solid_colour(self, index: int | None = None) -> SolidColour:
        """A colour of the palette, random without an index."""
        return SolidColour(self.colours[index] if index is not None else self.choice(self.colours))

    def pattern(self, index: int = 0, size: float = 1.0, plain: float = 0.3) -> ColourPattern:
        """A random pattern of two palette colours.

        Args:
            index: palette index of the main colour.
            size: size of the part in the object's units, to which the pattern is scaled.
            plain: probability of a solid colour instead.
        """
        colour = self.colours[index]
        other = self.choice([c for c in self.colours if c != colour])
        if self.chance(plain):
            return SolidColour(colour)
        kinds = (
            self._stripes,
            self._patches,
            self._spots,
            self._checkerboard,
            self._gradient,
            self._lettering,
        )
        which = int(self.rng.choice(len(kinds), p=(0.28, 0.26, 0.14, 0.1, 0.12, 0.1)))
        return kinds[which](colour, other, size)

    def _stripes(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        direction = np.zeros(3)
        direction[self.choice((0, 1, 1, 1, 2))] = 1.0
        if self.chance(0.25):
            direction = self.rng.normal(size=3)
        direction *= self.uniform(1.5, 4.0) / size / np.linalg.norm(direction)
        return Stripes(
            colour,
            other,
            tuple(float(v) for v in direction),
            phase=self.uniform(0, 1),
            fraction=self.uniform(0.25, 0.6),
            wave=self.uniform(0.1, 0.4) if self.chance(0.3) else 0.0,
        )

    def _checkerboard(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        return Checkerboard(colour, other, self.uniform(3.0, 6.0) / size)

    def _patches(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        directions = self.rng.normal(size=(8, 3)) * self.uniform(4, 9) / size
        waves = np.concatenate([directions, self.rng.uniform(0, 6.3, (8, 1))], axis=1)
        return Patches(
            colour,
            other,
            tuple(tuple(float(v) for v in wave) for wave in waves),
            level=self.uniform(-0.2, 0.7),
            sharpness=self.choice((0.5, 4.0, 8.0)),
        )

    def _spots(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        frequency, radius = self.uniform(2.5, 5.0) / size, self.uniform(0.25, 0.45)
        return Spots(colour, other, frequency, radius, self.integer(0, 9999))

    def _gradient(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        direction = [0.0, 0.0, 0.0]
        strength = self.choice((-1.0, 1.0)) * self.uniform(0.8, 1.4) / size
        direction[self.choice((0, 1, 1, 1, 2))] = strength
        return Gradient(colour, other, tuple(direction))

    def _lettering(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        glyphs = tuple(GLYPHS[i] for i in self.rng.choice(len(GLYPHS), 4, replace=False))
        return Lettering(colour, other, glyphs, size * self.uniform(0.18, 0.4))


MIRROR_X = np.diag([-1.0, 1.0, 1.0])


def euler_rotation(x_deg: float = 0.0, y_deg: float = 0.0, z_deg: float = 0.0) -> ndarray:
    """(3, 3) rotation about z, then x, then y."""
    (cx, sx), (cy, sy), (cz, sz) = (
        (np.cos(a), np.sin(a)) for a in np.radians([x_deg, y_deg, z_deg])
    )
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def align_y_axis(direction: Sequence[float]) -> ndarray:
    """(3, 3) rotation that takes +Y to a direction, equivariant under mirroring in x."""
    y = np.asarray(direction, np.float64) / max(float(np.linalg.norm(direction)), 1e-9)
    helper = np.array([0.0, 0.0, 1.0]) if abs(y[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = np.cross(y, helper)
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def regular_polygon(
    count: int, radius: float, inner: float | None = None, start_deg: float = 90.0
) -> Polygon:
    """A regular polygon, or a star with `inner` as its inner radius."""
    radii = [radius] if inner is None else [radius, inner]
    total = count * len(radii)
    angles = np.radians(start_deg + 360.0 * np.arange(total) / total)
    return Polygon(
        tuple(
            (float(radii[i % len(radii)] * np.cos(a)), float(radii[i % len(radii)] * np.sin(a)))
            for i, a in enumerate(angles)
        )
    )


def _palette(rng: np.random.Generator) -> list[Colour]:
    """Five matching colours: one or two hues, a contrasting, a dark and a pale one."""
    hue = rng.random()
    step = rng.choice([0.0, 0.08, 0.33, 0.5])
    muted = rng.random() < 0.25

    def colour(
        hue_offset: float, saturation: tuple[float, float], value: tuple[float, float]
    ) -> Colour:
        chroma = rng.uniform(*saturation) * (0.4 if muted else 1.0)
        rgb = colorsys.hsv_to_rgb((hue + hue_offset) % 1.0, chroma, rng.uniform(*value))
        return tuple(float(min(v, MAX_BRIGHTNESS)) for v in rgb)

    return [
        colour(0.0, (0.45, 0.95), (0.45, 0.95)),
        colour(step + rng.uniform(-0.05, 0.05), (0.3, 0.95), (0.55, 0.95)),
        colour(0.5 + rng.uniform(-0.12, 0.12), (0.5, 1.0), (0.5, 0.95)),
        colour(rng.random(), (0.2, 0.7), (0.12, 0.35)),
        colour(rng.random(), (0.04, 0.25), (0.78, 0.93)),
    ]
