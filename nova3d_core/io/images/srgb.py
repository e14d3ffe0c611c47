"""The sRGB transfer function, for file formats with linear colours."""

from __future__ import annotations

import numpy as np


def linear_from_srgb(values: np.ndarray) -> np.ndarray:
    """Converts sRGB values in 0..1, of any shape, to linear ones in 0..1."""
    values = np.clip(values, 0.0, 1.0)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(values: np.ndarray) -> np.ndarray:
    """Converts linear values in 0..1, of any shape, to sRGB ones in 0..1."""
    values = np.clip(values, 0.0, 1.0)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
