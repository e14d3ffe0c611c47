"""Solid colour patterns: functions of the position in a solid's local space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy import ndarray

Colour = tuple[float, float, float]
"""sRGB in 0..1."""


class ColourPattern(Protocol):
    """The colours of a solid."""

    def colours(self, points: ndarray) -> ndarray:
        """sRGB (N, 3) at local points (N, 3), both float32."""


@dataclass(frozen=True)
class SolidColour:
    """One colour."""

    colour: Colour

    def colours(self, points: ndarray) -> ndarray:
        return np.broadcast_to(np.float32(self.colour), points.shape)


@dataclass(frozen=True)
class Stripes:
    """Straight or wavy stripes of two colours."""

    colour: Colour
    other: Colour
    direction: tuple[float, float, float]
    """Perpendicular to the stripes; its length is the number of stripe pairs per unit."""
    phase: float = 0.0
    fraction: float = 0.5
    """Fraction of the other colour."""
    wave: float = 0.0
    """Amplitude of the waves, in stripe pairs."""

    def colours(self, points: ndarray) -> ndarray:
        across = points @ np.float32(self.direction) + np.float32(self.phase)
        if self.wave:
            along = points @ np.roll(np.float32(self.direction), 1)
            across = across + np.float32(self.wave) * np.sin(along * np.float32(6.3))
        level = np.cos(np.float32(2 * np.pi) * across)
        return _blend(
            self.colour, self.other, level - np.cos(np.float32(np.pi * self.fraction)), 3.0
        )


@dataclass(frozen=True)
class Checkerboard:
    """A smooth 3D checkerboard of two colours."""

    colour: Colour
    other: Colour
    frequency: float
    """Half periods per unit."""

    def colours(self, points: ndarray) -> ndarray:
        waves = np.sin(points * np.float32(np.pi * self.frequency) + np.float32(0.7))
        return _blend(self.colour, self.other, waves.prod(axis=1), 8.0)


@dataclass(frozen=True)
class Patches:
    """Blotches of two colours: a thresholded sum of sine waves."""

    colour: Colour
    other: Colour
    waves: tuple[tuple[float, float, float, float], ...]
    """Wave vectors in radians per unit, and phases."""
    level: float = 0.0
    """Threshold of the noise, which is about -1..1, for the other colour."""
    sharpness: float = 4.0
    """Contrast at the border; below 1 the colours blend gradually."""

    def colours(self, points: ndarray) -> ndarray:
        waves = np.float32(self.waves)  # (K, 4)
        noise = np.sin(points @ waves[:, :3].T + waves[:, 3]).sum(axis=1) / np.sqrt(len(waves) / 2)
        return _blend(self.colour, self.other, noise - np.float32(self.level), self.sharpness)


@dataclass(frozen=True)
class Spots:
    """Round spots, one at a random position in each cell of a lattice."""

    colour: Colour
    other: Colour
    frequency: float
    """Cells per unit."""
    radius: float
    """Radius of a spot in cells, below 0.5."""
    seed: int = 0
    """Seed of the positions."""

    def colours(self, points: ndarray) -> ndarray:
        position = points * np.float32(self.frequency) + np.float32(64.0)
        cell = np.floor(position)
        key = (cell @ np.float32([1.0, 57.0, 113.0])).astype(np.int64) + self.seed
        offsets = np.stack([_hash(key + 7919 * axis) for axis in range(3)], axis=1)
        room = np.float32(1 - 2 * self.radius)
        centre = cell + np.float32(self.radius) + room * offsets
        distance = np.sqrt(np.square(position - centre).sum(axis=1))
        return _blend(self.colour, self.other, np.float32(self.radius) - distance, 8.0)


@dataclass(frozen=True)
class Gradient:
    """A linear gradient between two colours."""

    colour: Colour
    other: Colour
    direction: tuple[float, float, float]
    """From the first colour to the other; the gradient spans 1 / its length."""

    def colours(self, points: ndarray) -> ndarray:
        fraction = np.clip(points @ np.float32(self.direction) + np.float32(0.5), 0, 1)[:, None]
        return np.float32(self.colour) * (1 - fraction) + np.float32(self.other) * fraction


@dataclass(frozen=True)
class Lettering:
    """Rows of letters, projected along Z, as on a label."""

    colour: Colour
    other: Colour
    glyphs: tuple[tuple[int, ...], ...]
    """7 rows of 5 bits of each glyph, from the top."""
    height: float
    """Height of a glyph."""

    def colours(self, points: ndarray) -> ndarray:
        pixel = self.height / 7.0
        x = points[:, 0] * np.where(points[:, 2] < 0, -1, 1)  # readable from the back too
        column = np.floor(x / pixel + 300.5).astype(np.int64)
        row = np.floor(-points[:, 1] / pixel + 270.5).astype(np.int64)
        glyph, across = column // 6, column % 6
        line, down = row // 9, row % 9
        bits = np.zeros((len(self.glyphs), 9, 6), np.float32)
        for index, rows in enumerate(self.glyphs):
            for height, value in enumerate(rows):
                bits[index, height + 1, :5] = [value >> (4 - bit) & 1 for bit in range(5)]
        which = (_hash(glyph * 31 + line * 17) * len(self.glyphs)).astype(np.int64)
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
    """The first colour below level 0, the other above; `sharpness` is the slope at the border."""
    weight = np.clip(level * np.float32(sharpness) + np.float32(0.5), 0, 1)
    weight = weight.astype(np.float32)[:, None]
    return np.float32(colour) * (1 - weight) + np.float32(other) * weight


def _hash(keys: ndarray) -> ndarray:
    """Hashes integers to pseudo-random float32 in 0..1."""
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)) / np.float64(1 << 24)).astype(np.float32)
