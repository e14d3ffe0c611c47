"""Shelf packing of rectangles."""

from __future__ import annotations

import numpy as np


def pack_shelves(sizes: np.ndarray, max_width: float) -> np.ndarray:
    """Packs rectangles into rows, in the given order.

    Args:
        sizes: (C, 2) widths and heights, by descending height.
        max_width: maximum width of a row.

    Returns:
        (C, 2) float64 corners of the rectangles with the smallest coordinates.
    """
    width, height = sizes.T
    ends = np.cumsum(width)
    corners = np.zeros(sizes.shape)
    first, floor = 0, 0.0
    while first < len(sizes):
        before = ends[first - 1] if first else 0.0
        after = max(int(np.searchsorted(ends, before + max_width, side="right")), first + 1)
        corners[first:after, 0] = ends[first:after] - width[first:after] - before
        corners[first:after, 1] = floor
        floor += height[first]
        first = after
    return corners
