"""Colourings of solids: functions of the place on the solid, in its own axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy import ndarray

Colour = tuple[float, float, float]
"""sRGB in 0..1."""


class ColourPattern(Protocol):
    """A solid's colouring."""

    def colours(self, points: ndarray) -> ndarray:
        """sRGB (N, 3) at places (N, 3) in the solid's axes, both float32."""


@dataclass(frozen=True)
class SolidColour:
    """One colour."""

    colour: Colour

    def colours(self, points: ndarray) -> ndarray:
        return np.broadcast_to(np.float32(self.colour), points.shape)


@dataclass(frozen=True)
class Stripes:
    """Bands of two colours across a direction, straight or wavy."""

    colour: Colour
    other: Colour
    direction: tuple[float, float, float]
    """Across the bands; its length is bands (pairs) per unit."""
    phase: float = 0.0
    fraction: float = 0.5
    """Of the other colour."""
    wave: float = 0.0
    """How far bands swing, in bands."""

    def colours(self, points: ndarray) -> ndarray:
        across = points @ np.float32(self.direction) + np.float32(self.phase)
        if self.wave:
            euler_rotation = points @ np.roll(np.float32(self.direction), 1)
            across = across + np.float32(self.wave) * np.sin(euler_rotation * np.float32(6.3))
        level = np.cos(np.float32(2 * np.pi) * across)
        return _blend(
            self.colour, self.other, level - np.cos(np.float32(np.pi * self.fraction)), 3.0
        )


@dataclass(frozen=True)
class Checkerboard:
    """A board of two colours in space."""

    colour: Colour
    other: Colour
    frequency: float

    def colours(self, points: ndarray) -> ndarray:
        waves = np.sin(points * np.float32(np.pi * self.frequency) + np.float32(0.7))
        return _blend(self.colour, self.other, waves.prod(axis=1), 8.0)


@dataclass(frozen=True)
class Patches:
    """Blotches: two colours where a smooth noise is low and high."""

    colour: Colour
    other: Colour
    waves: tuple[tuple[float, float, float, float], ...]
    """Of the noise: direction times frequency in radians per unit, and phase."""
    level: float = 0.0
    """The noise, about -1..1, above which the other colour begins."""
    sharpness: float = 4.0
    """How hard the border is; below 1 the colours run into each other."""

    def colours(self, points: ndarray) -> ndarray:
        waves = np.float32(self.waves)  # (K, 4)
        noise = np.sin(points @ waves[:, :3].T + waves[:, 3]).sum(axis=1) / np.sqrt(len(waves) / 2)
        return _blend(self.colour, self.other, noise - np.float32(self.level), self.sharpness)


@dataclass(frozen=True)
class Spots:
    """Round spots, one in each cell of a lattice, shifted at random."""

    colour: Colour
    other: Colour
    frequency: float
    """Cells per unit."""
    radius: float
    """Of a spot, in cells, below 0.5."""
    seed: int = 0
    """Chooses the shifts."""

    def colours(self, points: ndarray) -> ndarray:
        at = points * np.float32(self.frequency) + np.float32(64.0)
        cell = np.floor(at)
        key = (cell @ np.float32([1.0, 57.0, 113.0])).astype(np.int64) + self.seed
        shifts = np.stack([_hash(key + 7919 * axis) for axis in range(3)], axis=1)
        room = np.float32(1 - 2 * self.radius)
        centre = cell + np.float32(self.radius) + room * shifts
        off = np.sqrt(np.square(at - centre).sum(axis=1))
        return _blend(self.colour, self.other, np.float32(self.radius) - off, 8.0)


@dataclass(frozen=True)
class Gradient:
    """One colour running into another along a direction."""

    colour: Colour
    other: Colour
    direction: tuple[float, float, float]
    """From the first colour to the other; 1 / its length is the way from one to the other."""

    def colours(self, points: ndarray) -> ndarray:
        fraction = np.clip(points @ np.float32(self.direction) + np.float32(0.5), 0, 1)[:, None]
        return np.float32(self.colour) * (1 - fraction) + np.float32(self.other) * fraction


@dataclass(frozen=True)
class Lettering:
    """Rows of letter-like marks on the sides that face ±Z, as on a label."""

    colour: Colour
    other: Colour
    glyphs: tuple[tuple[int, ...], ...]
    """Each mark's 7 rows of 5 bits, from the top."""
    height: float
    """Of a mark."""

    def colours(self, points: ndarray) -> ndarray:
        pixel = self.height / 7.0
        x = points[:, 0] * np.where(points[:, 2] < 0, -1, 1)  # readable from the back too
        column = np.floor(x / pixel + 300.5).astype(np.int64)
        row = np.floor(-points[:, 1] / pixel + 270.5).astype(np.int64)
        mark, across = column // 6, column % 6
        line, down = row // 9, row % 9
        bits = np.zeros((len(self.glyphs), 9, 6), np.float32)
        for index, rows in enumerate(self.glyphs):
            for height, value in enumerate(rows):
                bits[index, height + 1, :5] = [value >> (4 - bit) & 1 for bit in range(5)]
        which = (_hash(mark * 31 + line * 17) * len(self.glyphs)).astype(np.int64)
        ink = bits[which % len(self.glyphs), down, across][:, None]
        return np.float32(self.colour) * (1 - ink) + np.float32(self.other) * ink


GLYPHS: tuple[tuple[int, ...], ...] = (
    (14, 17, 17, 31, 17, 17, 17),
    (30, 17, 17, 30, 17, 17, 30),
    (31, 16, 16, 30, 16, 16, 31),
    (17, 17, 17, 31, 17, 17, 17),
    (17, 18, 20, 24, 20, 18, 17),
    (16, 16, 16, 16, 16, 16, 31),
    (17, 27, 21, 21, 17, 17, 17),
    (17, 25, 21, 19, 17, 17, 17),
    (14, 17, 17, 17, 17, 17, 14),
    (30, 17, 17, 30, 16, 16, 16),
    (15, 16, 16, 14, 1, 1, 30),
    (31, 4, 4, 4, 4, 4, 4),
    (17, 17, 10, 4, 10, 17, 17),
    (31, 1, 2, 4, 8, 16, 31),
    (4, 12, 4, 4, 4, 4, 14),
    (14, 17, 1, 6, 8, 16, 31),
)
"""Letters and digits as 7 rows of 5 bits."""


def _blend(colour: Colour, other: Colour, level: ndarray, sharpness: float) -> ndarray:
    """The first colour where a level is below 0, the other above; `sharpness` is the border's slope."""
    fraction = np.clip(level * np.float32(sharpness) + np.float32(0.5), 0, 1).astype(np.float32)[
        :, None
    ]
    return np.float32(colour) * (1 - fraction) + np.float32(other) * fraction


def _hash(keys: ndarray) -> ndarray:
    """Numbers in 0..1, float32, that look random, of whole numbers."""
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)) / np.float64(1 << 24)).astype(np.float32)
