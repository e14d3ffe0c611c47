"""Weights and inputs of the comparison with LGM's and Ouroboros3D's own code; see data/recipes.

Imports only numpy, so that the recipe can load this file in another environment. numpy's
RandomState is the same in all versions.
"""

from __future__ import annotations

import zlib

import numpy as np

DOWN_WIDTHS, DOWN_ATTENTION = (32, 64, 64), (False, True, True)
UP_WIDTHS, UP_ATTENTION = (64, 64), (True, False)
SIZE_PX, SPLAT_PX = 16, 8
C_NOISE = 0.37
AZIMUTHS_DEG = (0, 90, 180, 270)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random weight by name: matrices scaled by their fan-in, norms around 1."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    noise = random.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return noise / np.float32(np.prod(shape[1:]) ** 0.5)
    offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return (0.1 * noise + offset).astype(np.float32)


def images() -> np.ndarray:
    """(4, 3, S, S) colours in 0..1."""
    return np.random.RandomState(7).rand(4, 3, SIZE_PX, SIZE_PX).astype(np.float32)
