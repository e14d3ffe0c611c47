"""PyTorch implementation of the plane sweep, for any device; same function as `warp_impl.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import MIN_MASK, MIN_TAPS, NO_SCORE, NOISE, NOT_SEEN, REACH_PX
from .patches import StereoPatches

_CHUNK_SIZE = 1 << 14
"""Pairs of patches at one depth that are correlated together."""


def sweep_scores(
    images: Tensor,
    depth_z: Tensor,
    patches: StereoPatches,
    offsets: Tensor,
    max_step: float,
    perspective: bool,
) -> Tensor:
    """Mean of the best two normalised cross-correlations with neighbouring views, at each depth.

    The surface around a patch's centre is shifted as a whole, with its present shape.

    Args:
        images: (V, H, W, 4) colour and mask.
        depth_z: (V, H, W) depth of the present surface along the viewing axes; 0 without surface.
        patches: M patches of the views.
        offsets: (D,) offsets of the depth along the viewing axis.
        max_step: taps whose depth differs by more from the centre's belong to another surface.
        perspective: whether the cameras are perspective.

    Returns:
        (M, D) in -1..1, -1 where no neighbour shows the patch; a single neighbour counts alone.
    """
    scores = torch.full((len(patches), len(offsets)), NO_SCORE, device=images.device)
    size = max(_CHUNK_SIZE // max(patches.neighbours.shape[1], 1), 1)
    for first in range(0, len(patches), size):
        part = slice(first, first + size)
        chunk = patches.at(part)
        taps = _own_taps(images, depth_z, chunk, max_step)
        for depth, offset in enumerate(offsets):
            pairs = _correlations(images, chunk, taps, offset, perspective)
            scores[part, depth] = _best_two(pairs)
    return scores


@dataclass(frozen=True, eq=False)
class _Taps:
    """T taps of M patches in their own views."""

    dx: Tensor
    """(T,) columns from the centre."""
    dy: Tensor
    """(T,) rows from the centre."""
    colour: Tensor
    """(M, T, 3)"""
    depth_z: Tensor
    """(M, T)"""
    valid: Tensor
    """(M, T) bool: on the surface of the centre."""


def _own_taps(images: Tensor, depth_z: Tensor, patches: StereoPatches, max_step: float) -> _Taps:
    """Taps of the patches in their own views."""
    height, width = images.shape[1:3]
    steps = torch.arange(-REACH_PX, REACH_PX + 1, device=images.device)
    dx, dy = torch.meshgrid(steps, steps, indexing="xy")
    even = (dx + dy) % 2 == 0
    dx, dy = dx[even], dy[even]
    view, row, column = (part[:, None] for part in patches.pixel.unbind(dim=1))
    r, c = row + dy, column + dx  # (M, T)
    inside = (r >= 0) & (c >= 0) & (r < height) & (c < width)
    at = (view, r.clamp(0, height - 1), c.clamp(0, width - 1))
    own, z = images[at], depth_z[at]
    step = (z - depth_z[view, row, column]).abs()
    valid = inside & (own[..., 3] > MIN_MASK) & (z > 0.0) & (step < max_step)
    return _Taps(dx, dy, own[..., :3], z, valid)


def _best_two(scores: Tensor) -> Tensor:
    """(M,) mean of the two largest correlations (M, K) that exist."""
    if scores.shape[1] == 0:
        return scores.new_full((len(scores),), NO_SCORE)
    best = scores.topk(min(2, scores.shape[1]), dim=1).values
    mean = torch.where(best[:, -1] > NOT_SEEN, best.mean(dim=1), best[:, 0])
    return torch.where(best[:, 0] > NOT_SEEN, mean, NO_SCORE)


def _correlations(
    images: Tensor, patches: StereoPatches, taps: _Taps, offset: Tensor, perspective: bool
) -> Tensor:
    """(M, K) normalised cross-correlations at one depth, NOT_SEEN where a view shows too little."""
    height, width = images.shape[1:3]
    z = (taps.depth_z + offset)[:, None, :, None]  # (M, 1, T, 1)
    scale = z if perspective else 1.0
    names = ("origin", "axis", "column_step", "row_step")
    origin, axis, column_step, row_step = (getattr(patches, name)[:, :, None] for name in names)
    along_x, along_y = taps.dx[:, None], taps.dy[:, None]
    h = origin + z * axis + scale * (along_x * column_step + along_y * row_step)  # (M, K, T, 3)
    in_front = h[..., 2] > 1e-6
    divisor = torch.where(in_front, h[..., 2], 1.0)
    x, y = h[..., 0] / divisor - 0.5, h[..., 1] / divisor - 0.5
    inside = in_front & (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)
    seen = _bilinear(images, patches.neighbours.clamp_min(0)[..., None], x, y)  # (M, K, T, 4)
    valid = inside & (seen[..., 3] > MIN_MASK) & taps.valid[:, None]
    valid &= (patches.neighbours >= 0)[..., None]
    return _normalised(taps.colour[:, None], seen[..., :3], valid)


def _normalised(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """(M, K) correlation of colours a (M, 1, T, 3) and b (M, K, T, 3) at valid taps (M, K, T)."""
    weight = valid.to(b)[..., None]  # (M, K, T, 1)
    count = weight.sum(dim=2).clamp_min(1.0)  # (M, K, 1)
    a, b = a * weight, b * weight
    mean_a, mean_b = a.sum(dim=2) / count, b.sum(dim=2) / count
    a, b = a - mean_a[:, :, None] * weight, b - mean_b[:, :, None] * weight
    var_a, var_b, cov = (
        (one * other).sum(dim=(2, 3)) / count[..., 0] for one, other in ((a, a), (b, b), (a, b))
    )
    score = cov / ((var_a + NOISE) * (var_b + NOISE)).sqrt()
    return torch.where(valid.sum(dim=2) >= MIN_TAPS, score, NOT_SEEN)


def _bilinear(images: Tensor, view: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(..., 4) bilinear values of images (V, H, W, 4) at positions, clamped at the border."""
    height, width = images.shape[1:3]
    i = x.floor().clamp(0, width - 2).long()
    j = y.floor().clamp(0, height - 2).long()
    u, v = (x - i)[..., None], (y - j)[..., None]
    top = (1.0 - u) * images[view, j, i] + u * images[view, j, i + 1]
    bottom = (1.0 - u) * images[view, j + 1, i] + u * images[view, j + 1, i + 1]
    return (1.0 - v) * top + v * bottom
