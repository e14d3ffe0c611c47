"""Which pixels of the views say what the other views say: each texel asks those that agree."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import BakeConfig
from .survey import Survey, for_each_count

_PAIRS_AT_ONCE = 1 << 21
_OUTVOTED, _CONFIRMED = 0.6, 0.9
"""With less than the first share of the winner's votes a sample counts nothing, with more than
the second it counts in full: a bare majority silences nobody."""
_REACH = 0.015
"""Doubt spreads over this share of the picture: what is wrong there fades out at its rim."""


def agreement_maps(survey: Survey, config: BakeConfig, height: int, width: int) -> Tensor:
    """How far each pixel of each view agrees with the other views.

    Two views agree about a texel when the colours around their pixels overlap, up to a tolerance:
    a texture's own edges, seen at different sharpness or a pixel aside, are no contradiction. Each
    view votes for those that it agrees with.

    Args:
        survey: samples with the views' gains undone.
        config: tolerance, limit and the first view's votes.
        height: of the pictures.
        width: of the pictures.

    Returns:
        (V, H, W) in 0..1, 1 where nothing speaks against the pixel.
    """
    agrees = torch.ones(len(survey.texel))
    # a flat view is less sharp but not less honest: its vote falls slower than its weight
    votes = survey.trust * survey.cosine
    votes = torch.where(survey.view == 0, config.first_view_votes * votes, votes)
    for samples in for_each_count(survey, _PAIRS_AT_ONCE):
        gaps = _gaps(survey.low[samples], survey.high[samples])  # (B, n, n)
        nearness = (config.agreement_limit - gaps) / (
            config.agreement_limit - config.agreement_tolerance
        )
        support = (_smooth(nearness) * votes[samples][:, None, :]).sum(dim=2)  # (B, n)
        share = support / support.amax(dim=1, keepdim=True).clamp_min(1e-12)
        agrees[samples] = _smooth((share - _OUTVOTED) / (_CONFIRMED - _OUTVOTED))
    return _as_maps(survey, agrees, height, width)


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


def _as_maps(survey: Survey, agrees: Tensor, height: int, width: int) -> Tensor:
    """Agreement (V, H, W) from that of the samples (S,); 1 where there are none."""
    column = survey.pixels[:, 0].long().clamp(0, width - 1)
    row = survey.pixels[:, 1].long().clamp(0, height - 1)
    place = (survey.view * height + row) * width + column
    size = survey.views * height * width
    objections = torch.zeros(size).index_add_(0, place, 1.0 - agrees)
    samples = torch.zeros(size).index_add_(0, place, torch.ones(len(place)))
    around = [
        torch.nn.functional.avg_pool2d(
            part.reshape(survey.views, 1, height, width), 3, stride=1, padding=1
        )
        for part in (objections, samples)
    ]
    doubt = around[0] / around[1].clamp_min(1e-6)  # (V, 1, H, W)
    reach = round(_REACH * max(height, width))
    spread = torch.nn.functional.max_pool2d(doubt, 2 * reach + 1, stride=1, padding=reach)
    return (1.0 - spread)[:, 0].clamp(0.0, 1.0)
