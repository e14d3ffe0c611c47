"""Images of the shading of views and of a light."""

from __future__ import annotations

import torch
from torch import Tensor

from ...io.images.srgb import srgb_from_linear
from .spherical_gaussians import SphericalGaussians
from .unlight import Unlit

WHITE_QUANTILE = 0.99
"""Quantile of the shading, or of the radiance, that is shown as white."""
MAX_QUANTILE_VALUES = 1 << 22


def shading_images(unlit: Unlit) -> Tensor:
    """(V, H, W, 3) sRGB greyscale images of the shading on white; 99 % of it is below white."""
    shading, masks = unlit.shading, unlit.masks
    values = shading[masks > 0.5]
    white = _white_level(values) if len(values) else 1.0
    grey = _srgb(shading / white)
    return (grey * masks + 1.0 - masks)[..., None].repeat(1, 1, 1, 3)


def light_image(light: SphericalGaussians, width: int = 256, height: int = 128) -> Tensor:
    """(1, H, W, 3) sRGB greyscale environment map, its 99 % quantile white."""
    radiance = light.environment_map(width, height)
    return _srgb(radiance / _white_level(radiance.flatten()))[None, ..., None].repeat(1, 1, 1, 3)


def _white_level(values: Tensor) -> float:
    """A high quantile of values (N,), at least a small number."""
    step = -(-len(values) // MAX_QUANTILE_VALUES)
    return max(float(torch.quantile(values[::step], WHITE_QUANTILE)), 1e-6)


def _srgb(linear: Tensor) -> Tensor:
    return torch.from_numpy(srgb_from_linear(linear.numpy())).float()
