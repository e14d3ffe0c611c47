"""Weights and inputs of the comparison with Ouroboros3D's own code; see data/recipes.

Imports only numpy, so that the recipe can load this file in another environment. numpy's
RandomState is the same in all versions.
"""

from __future__ import annotations

import zlib

import numpy as np

WIDTHS, HEAD_COUNTS = (32, 64, 128, 128), (2, 4, 8, 8)
CONTEXT_DIM, SCALAR_DIM = 48, 8
VIEWS, LATENT, FACTOR = 3, 16, 8
ADDED_IDS = (6.0, 127.0, 0.02)
C_NOISE = 0.37
CAMERAS = (0, 1, 7)
"""Views of the orbit that are used."""
MAP_PX = 32
FOCAL = 25.0 / 18.0


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random weight by its name in the public file: matrices scaled by their fan-in."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    noise = random.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return noise / np.float32(np.prod(shape[1:]) ** 0.5)
    offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return (0.1 * noise + offset).astype(np.float32)


def inputs() -> dict[str, np.ndarray]:
    """Latents (1, V, 8, h, w), context (1, 1, C), feedback (1, V, 3, H, W), depth (V, S, S)."""
    random, side = np.random.RandomState(11), LATENT * FACTOR
    return {
        "x": random.standard_normal((1, VIEWS, 8, LATENT, LATENT)).astype(np.float32),
        "context": random.standard_normal((1, 1, CONTEXT_DIM)).astype(np.float32),
        "colours": random.rand(1, VIEWS, 3, side, side).astype(np.float32),
        "coordinates": random.rand(1, VIEWS, 3, side, side).astype(np.float32),
        "depth": (random.rand(VIEWS, MAP_PX, MAP_PX) * 2.0 - 0.4).clip(0.0).astype(np.float32),
    }
