"""Weights and inputs of the comparison with Wonder3D's own code; see tests/data/recipes.

Imports only numpy, so that the recipe can load this file in another environment. numpy's
RandomState is the same in all versions.
"""

from __future__ import annotations

import zlib

import numpy as np

WIDTHS = (32, 64, 64, 64)
GROUPS, HEADS, CONTEXT = 8, 4, 24
LATENT_PX, IMAGE_PX = 8, 64
VAE_WIDTHS = (32, 32, 32, 32)
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "projection_dim": CONTEXT,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_PX,
    "patch_size": 16,
}
UNET_SEED, VAE_SEED, CLIP_SEED = 1, 2, 3
TIMESTEP = 421
STEPS = 5
VIEWS = ("front", "front_right", "right", "back", "left", "front_left")
ETAS, SCALES = (0.0, 1.0), (1.0, 3.0)


def _random(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed % 2**32)


def weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A random weight by name: matrices scaled by their fan-in, norms around 1."""
    noise = _random(zlib.crc32(name.encode()) + seed).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return noise / np.float32(np.prod(shape[1:]) ** 0.5)
    offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return (0.1 * noise + offset).astype(np.float32)


def unet_inputs(class_dim: int) -> dict[str, np.ndarray]:
    """Inputs with the axes (domain, guidance half, view, ...), normals before colours."""
    random = _random(class_dim)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    return {
        "x": normal(2, 2, 6, 8, LATENT_PX, LATENT_PX),
        "context": np.broadcast_to(normal(1, 2, 1, 1, CONTEXT), (2, 2, 6, 1, CONTEXT)).copy(),
        "camera_task": normal(2, 2, 6, class_dim),
    }


def image(size: int = IMAGE_PX) -> np.ndarray:
    """(S, S, 3) uint8: a shaded disk on white."""
    y, x = np.mgrid[:size, :size] / (size - 1.0) - 0.5
    inside = (x**2 + (1.3 * y) ** 2 < 0.14)[..., None]
    colour = np.stack([0.5 + x, 0.4 + 0.8 * y, 0.5 + 0.4 * np.sin(20 * x * y)], axis=-1)
    return np.round(255 * np.where(inside, colour.clip(0, 1), 1.0)).astype(np.uint8)


def noise() -> tuple[np.ndarray, np.ndarray]:
    """Start noise (12, 4, h, w) and noise of each step (STEPS, 12, 4, h, w), normals first."""
    random = _random(7)
    shape = (12, 4, LATENT_PX, LATENT_PX)
    start = random.standard_normal(shape).astype(np.float32)
    return start, random.standard_normal((STEPS, *shape)).astype(np.float32)


def sample_name(eta: float, scale: float) -> str:
    """Name of a sample in the file."""
    return f"sample_eta{eta:g}_scale{scale:g}"
