"""What the makers of objects share: chance, colours, and hands that place parts."""

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
"""Objects are no whiter than this, so that a white background can be told from them."""


class Builder:
    """Collects the parts of one object.

    Args:
        rng: decides everything that is left to chance.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.parts: list[SolidPart] = []
        self.colours = _palette(rng)

    # chance

    def uniform(self, low: float, high: float) -> float:
        """A number in a range."""
        return float(self.rng.uniform(low, high))

    def chance(self, fraction: float) -> bool:
        """True in this share of cases."""
        return bool(self.rng.random() < fraction)

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, choices: Sequence):
        """One of several things."""
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
        """Places a part."""
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
        """Places a part; `mirror` also places its mirror image at -x."""
        self.add(shape, pattern, at, rotation, blend, role)
        if mirror:
            mirrored = None if rotation is None else MIRROR_X @ rotation @ MIRROR_X
            self.add(shape, pattern, (-at[0], at[1], at[2]), mirrored, blend, role)

    def ellipsoid(
        self, radii: float | Point, pattern: ColourPattern | None, at: Point, **options: Any
    ) -> None:
        """Places an ellipsoid; `options` as in `place`."""
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
        """Places a box with half its sides; `options` as in `place`."""
        self.place(Box(half_extents, rounding), pattern, at, **options)

    def frustum(
        self,
        size: tuple[float, float, float],
        pattern: ColourPattern | None,
        at: Point,
        rounding: float = 0.0,
        **options: Any,
    ) -> None:
        """Places a cylinder or cone: height, radius below, radius above; `options` as in `place`."""
        self.place(Frustum(*size, rounding), pattern, at, **options)

    def torus(
        self, size: tuple[float, float], pattern: ColourPattern | None, at: Point, **options: Any
    ) -> None:
        """Places a torus: radius and that of its tube; `options` as in `place`."""
        self.place(Torus(*size), pattern, at, **options)

    def capsule(
        self,
        start: Point,
        end: Point,
        radii: tuple[float, float],
        pattern: ColourPattern,
        **options: Any,
    ) -> None:
        """Places a round stick between two points, with a radius at each; `options` as in `place`."""
        way = np.subtract(end, start)
        middle = tuple(float(v) for v in np.add(start, end) / 2)
        length = max(float(np.linalg.norm(way)), 1e-3)
        self.place(Capsule(length, *radii), pattern, middle, align_y_axis(way), **options)

    # colours

    def solid_colour(self, index: int | None = None) -> SolidColour:
        """One colour of the palette."""
        return SolidColour(self.colours[index] if index is not None else self.choice(self.colours))

    def pattern(self, index: int = 0, size: float = 1.0, plain: float = 0.3) -> ColourPattern:
        """A colouring in which one colour of the palette leads.

        Args:
            index: of that colour.
            size: of the part, in the object's units: patterns are scaled to it.
            plain: share of coats without a pattern.
        """
        colour = self.colours[index]
        other = self.choice([c for c in self.colours if c != colour])
        if self.chance(plain):
            return SolidColour(colour)
        kinds = (self._stripes, self._patches, self._spots, self._checks, self._fade, self._writing)
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

    def _checks(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
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

    def _fade(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        direction = [0.0, 0.0, 0.0]
        strength = self.choice((-1.0, 1.0)) * self.uniform(0.8, 1.4) / size
        direction[self.choice((0, 1, 1, 1, 2))] = strength
        return Gradient(colour, other, tuple(direction))

    def _writing(self, colour: Colour, other: Colour, size: float) -> ColourPattern:
        glyphs = tuple(GLYPHS[i] for i in self.rng.choice(len(GLYPHS), 4, replace=False))
        return Lettering(colour, other, glyphs, size * self.uniform(0.18, 0.4))


MIRROR_X = np.diag([-1.0, 1.0, 1.0])


def euler_rotation(x_deg: float = 0.0, y_deg: float = 0.0, z_deg: float = 0.0) -> ndarray:
    """(3, 3) rotation by z, then x, then y."""
    (cx, sx), (cy, sy), (cz, sz) = (
        (np.cos(a), np.sin(a)) for a in np.radians([x_deg, y_deg, z_deg])
    )
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def align_y_axis(way: Sequence[float]) -> ndarray:
    """(3, 3) rotation that turns +Y into a direction; the mirror image of both is such a pair."""
    y = np.asarray(way, np.float64) / max(float(np.linalg.norm(way)), 1e-9)
    aside = np.array([0.0, 0.0, 1.0]) if abs(y[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = np.cross(y, aside)
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def regular_polygon(
    count: int, radius: float, inner: float | None = None, start_deg: float = 90.0
) -> Polygon:
    """A regular polygon, or a star with `inner` as the radius of its dents."""
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
    """Five colours that go together: one or two hues, a contrast, a dark and a pale one."""
    hue = rng.random()
    step = rng.choice([0.0, 0.08, 0.33, 0.5])
    dull = rng.random() < 0.25

    def colour(
        hue_offset: float, saturation: tuple[float, float], value: tuple[float, float]
    ) -> Colour:
        strength = rng.uniform(*saturation) * (0.4 if dull else 1.0)
        rgb = colorsys.hsv_to_rgb((hue + hue_offset) % 1.0, strength, rng.uniform(*value))
        return tuple(float(min(v, MAX_BRIGHTNESS)) for v in rgb)

    return [
        colour(0.0, (0.45, 0.95), (0.45, 0.95)),
        colour(step + rng.uniform(-0.05, 0.05), (0.3, 0.95), (0.55, 0.95)),
        colour(0.5 + rng.uniform(-0.12, 0.12), (0.5, 1.0), (0.5, 0.95)),
        colour(rng.random(), (0.2, 0.7), (0.12, 0.35)),
        colour(rng.random(), (0.04, 0.25), (0.78, 0.93)),
    ]
