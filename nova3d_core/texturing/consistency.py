"""Multi-view colour consistency: views vote at each texel, and outvoted pixels lose weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..progress import SILENT, Progress
from .config import BakeConfig
from .observations import Observations, group_by_view_count
from .texels import STAGE

_PAIRS_PER_CHUNK = 1 << 21
_MIN_VOTE_RATIO, _FULL_VOTE_RATIO = 0.6, 0.9
"""A sample with less than the first fraction of the winner's votes has weight 0, with more than the
second weight 1: a narrow majority does not suppress the others."""
_NEIGHBOURHOOD_RATIO = 0.004
"""Radius of the samples that are averaged at a pixel, as a fraction of the image side."""
_PATCH_RATIO = 0.004
"""Minimum radius of an inconsistent patch, as a fraction of the image side; inaccurate geometry
causes thin inconsistent lines instead."""
_SPREAD_RATIO = 0.015
"""Distance by which a patch is dilated, as a fraction of the image side: wrong colours fade out at
its boundary, too faintly to be detected."""
_MAX_SIDE_PX = 1024
"""Longest side of the grid on which a map is computed. The windows grow with the image, so that its
cost would grow with the fourth power of the side, and the sampled texels are sparser than this."""


def consistency_maps(
    observations: Observations,
    config: BakeConfig,
    height: int,
    width: int,
    out: Tensor | None = None,
    progress: Progress = SILENT,
) -> Tensor:
    """How consistent each pixel of each view is with the other views.

    Two views agree at a texel if the colour ranges around their pixels overlap, up to a tolerance:
    texture edges that are blurred differently or displaced by a pixel do not count as
    inconsistent. Each view votes for the views that it agrees with.

    Args:
        observations: samples with the views' gains undone.
        config: tolerance, limit and the votes of view 0.
        height: image height in pixels.
        width: image width in pixels.
        out: (V, H, W) values to multiply in place; ones by default.
        progress: checked for a cancel.

    Returns:
        (V, H, W) in 0..1, 1 where no other view disagrees.
    """
    agreement = torch.ones(len(observations.texel))
    # views at grazing angles are blurred but not wrong: votes fall slower than blending weights
    votes = observations.confidence * observations.cosine
    votes = torch.where(observations.view == 0, config.reference_view_votes * votes, votes)
    for samples in group_by_view_count(observations, _PAIRS_PER_CHUNK):
        progress.check(STAGE)
        low, high = observations.low[samples], observations.high[samples]
        similarity = (config.consistency_limit - _colour_distances(low, high)) / (
            config.consistency_limit - config.consistency_tolerance
        )  # (B, n, n)
        support = (_smoothstep(similarity) * votes[samples][:, None, :]).sum(dim=2)  # (B, n)
        ratio = support / support.amax(dim=1, keepdim=True).clamp_min(1e-12)
        agreement[samples] = _smoothstep(
            (ratio - _MIN_VOTE_RATIO) / (_FULL_VOTE_RATIO - _MIN_VOTE_RATIO)
        )
    if out is None:
        out = torch.ones(observations.num_views, height, width)
    return _multiply_maps(out, observations, agreement, progress)


def _colour_distances(low: Tensor, high: Tensor) -> Tensor:
    """Distances (B, n, n) between colour boxes with corners (B, n, 3); 0 where they overlap."""
    squared = 0.0
    for channel in range(3):
        below, above = low[..., channel], high[..., channel]
        over = below[:, :, None] - above[:, None, :]  # distance of i above j
        squared = squared + torch.maximum(over, over.transpose(1, 2)).clamp_min(0.0).square()
    return squared.sqrt()


def _smoothstep(x: Tensor) -> Tensor:
    """Hermite interpolation 3 x^2 - 2 x^3 from 0 at 0 to 1 at 1, clamped outside."""
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _multiply_maps(
    maps: Tensor, observations: Observations, agreement: Tensor, progress: Progress
) -> Tensor:
    """Multiplies maps (V, H, W) in place by the agreement of the samples (S,)."""
    height, width = maps.shape[1:]
    factor = -(-max(height, width) // _MAX_SIDE_PX)
    rows, columns = -(-height // factor), -(-width // factor)
    column = observations.pixels[:, 0].long().clamp(0, width - 1) // factor
    row = observations.pixels[:, 1].long().clamp(0, height - 1) // factor
    cell = row * columns + column
    for view in range(observations.num_views):  # one at a time bounds the memory
        progress.check(STAGE)
        own = observations.view == view
        consistency = _consistency_map(cell[own], agreement[own], rows, columns)
        if factor > 1:
            size = (rows * factor, columns * factor)
            planes = functional.interpolate(consistency[None, None], size, mode="bilinear")
            consistency = planes[0, 0, :height, :width]
        maps[view] *= consistency
    return maps


def _consistency_map(cell: Tensor, agreement: Tensor, height: int, width: int) -> Tensor:
    """Consistency (H, W) of one view on a grid of cells, 1 without samples.

    Args:
        cell: (S,) linear cell indices of the samples.
        agreement: (S,) of the samples, in 0..1.
        height: rows of the grid.
        width: columns of the grid.
    """
    disagreement = torch.zeros(height * width).index_add_(0, cell, 1.0 - agreement)
    samples = torch.zeros(height * width).index_add_(0, cell, torch.ones(len(cell)))
    shape, side = (1, 1, height, width), max(height, width)
    radius, patch_radius, spread_radius = (
        max(round(ratio * side), 1) for ratio in (_NEIGHBOURHOOD_RATIO, _PATCH_RATIO, _SPREAD_RATIO)
    )
    density = _box_mean(samples.reshape(shape), radius)
    inconsistency = _box_mean(disagreement.reshape(shape), radius) / density.clamp_min(1e-6)
    # erosion treats pixels without samples, such as the background, as inconsistent
    patch = -_box_max(-torch.where(density > 0, inconsistency, 1.0), patch_radius)
    spread = _box_max(torch.where(density > 0, patch, 0.0), patch_radius + spread_radius)
    return (1.0 - torch.maximum(inconsistency, spread))[0, 0].clamp(0.0, 1.0)


def _box_mean(image: Tensor, radius: int) -> Tensor:
    """Mean of an image (1, 1, H, W) in the square of `radius` pixels around each pixel."""
    return functional.avg_pool2d(image, 2 * radius + 1, stride=1, padding=radius)


def _box_max(image: Tensor, radius: int) -> Tensor:
    """Maximum of an image (1, 1, H, W) in the square of `radius` pixels around each pixel."""
    rows = functional.max_pool2d(image, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return functional.max_pool2d(rows, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
