"""Which pixels of the views say what the other views say: each texel asks those that agree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .config import BakeConfig
from .observations import Observations, group_by_view_count

_PAIRS_PER_CHUNK = 1 << 21
_OUTVOTED, _CONFIRMED = 0.6, 0.9
"""With less than the first share of the winner's votes a sample counts nothing, with more than
the second it counts in full: a bare majority silences nobody."""
_BESIDE = 0.004
"""Samples within this share of the image speak for a pixel."""
_CORE = 0.004
"""Doubt that fills this share of the image around a pixel is a patch; where geometry is a little
wrong, doubt comes in thin lines."""
_REACH = 0.015
"""A patch spreads so far: what is wrong there fades out at its rim, too faintly to be told."""


def consistency_maps(
    survey: Observations, config: BakeConfig, height: int, width: int, onto: Tensor | None = None
) -> Tensor:
    """How far each pixel of each view agrees with the other views.

    Two views agree about a texel when the colours around their pixels overlap, up to a tolerance:
    a texture's own edges, seen at different sharpness or a pixel aside, are no contradiction. Each
    view votes for those that it agrees with.

    Args:
        survey: samples with the views' gains undone.
        config: tolerance, limit and the first view's votes.
        height: of the images.
        width: of the images.
        onto: (V, H, W) values that are multiplied in place, instead of ones.

    Returns:
        (V, H, W) in 0..1, 1 where nothing speaks against the pixel.
    """
    agrees = torch.ones(len(survey.texel))
    # a flat view is less sharp but not less honest: its vote falls slower than its weight
    votes = survey.trust * survey.cosine
    votes = torch.where(survey.view == 0, config.reference_view_votes * votes, votes)
    for samples in group_by_view_count(survey, _PAIRS_PER_CHUNK):
        gaps = _gaps(survey.low[samples], survey.high[samples])  # (B, n, n)
        nearness = (config.consistency_limit - gaps) / (
            config.consistency_limit - config.consistency_tolerance
        )
        support = (_smooth(nearness) * votes[samples][:, None, :]).sum(dim=2)  # (B, n)
        share = support / support.amax(dim=1, keepdim=True).clamp_min(1e-12)
        agrees[samples] = _smooth((share - _OUTVOTED) / (_CONFIRMED - _OUTVOTED))
    if onto is None:
        onto = torch.ones(survey.views, height, width)
    return _multiplied(onto, survey, agrees)


def _gaps(low: Tensor, high: Tensor) -> Tensor:
    """Distances (B, n, n) between boxes of colours with corners (B, n, 3); 0 where they overlap."""
    squared = 0.0
    for channel in range(3):
        below, above = low[..., channel], high[..., channel]
        over = below[:, :, None] - above[:, None, :]  # how far i lies over j
        squared = squared + torch.maximum(over, over.transpose(1, 2)).clamp_min(0.0).square()
    return squared.sqrt()


def _smooth(x: Tensor) -> Tensor:
    """A smooth step from 0 at 0 to 1 at 1."""
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _multiplied(maps: Tensor, survey: Observations, agrees: Tensor) -> Tensor:
    """Maps (V, H, W) times the agreement of the samples (S,), in place; 1 where there are none."""
    height, width = maps.shape[1:]
    column = survey.pixels[:, 0].long().clamp(0, width - 1)
    row = survey.pixels[:, 1].long().clamp(0, height - 1)
    place = row * width + column
    for view in range(survey.views):  # one at a time bounds the memory
        own = survey.view == view
        maps[view] *= _as_map(place[own], agrees[own], height, width)
    return maps


def _as_map(place: Tensor, agrees: Tensor, height: int, width: int) -> Tensor:
    """Agreement (H, W) of one view from that of its samples (S,) at linear pixel indices (S,)."""
    objections = torch.zeros(height * width).index_add_(0, place, 1.0 - agrees)
    samples = torch.zeros(height * width).index_add_(0, place, torch.ones(len(place)))
    shape = (1, 1, height, width)
    beside, core, reach = (max(round(x * max(height, width)), 1) for x in (_BESIDE, _CORE, _REACH))
    asked = _means_around(samples.reshape(shape), beside)
    doubt = _means_around(objections.reshape(shape), beside) / asked.clamp_min(1e-6)
    # what nobody asked about, as behind the silhouette, does not make a patch smaller
    patch = -_largest_around(-torch.where(asked > 0, doubt, 1.0), core)
    spread = _largest_around(torch.where(asked > 0, patch, 0.0), core + reach)
    return (1.0 - torch.maximum(doubt, spread))[0, 0].clamp(0.0, 1.0)


def _means_around(images: Tensor, reach: int) -> Tensor:
    return functional.avg_pool2d(images, 2 * reach + 1, stride=1, padding=reach)


def _largest_around(images: Tensor, reach: int) -> Tensor:
    """Largest value of an image (1, 1, H, W) in the square of `reach` pixels around each pixel."""
    rows = functional.max_pool2d(images, (1, 2 * reach + 1), stride=1, padding=(0, reach))
    return functional.max_pool2d(rows, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
