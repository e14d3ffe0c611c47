"""Gains of the views' colour channels, from what several views say about the same texels."""

from __future__ import annotations

import torch
from torch import Tensor

from .survey import Survey

_DARK, _BRIGHT = 0.03, 0.985
"""Beyond these a channel is cut off, and its ratio to other views says nothing."""
_FULL_WEIGHT_FROM = 0.4
"""A ratio's error grows as its colour darkens; from this value on it weighs the same."""
_FLAT = 0.1
"""Where colours around a pixel differ by this, its weight has fallen to a half."""
_CUT_OFF_VIEW_0 = 0.05
"""View 0 is right by definition: its cut-off whites count where there is nothing else."""
_MOST_TEXELS = 30_000
"""The tables hold these times the views."""
_SCALES = (0.3, 0.2, 0.1, 0.07, 0.05, 0.05, 0.05)
"""Residuals of the log ratios at which a sample loses most of its weight, round after round."""
_PRIOR = 2e-4
"""The belief that a view's gain is 1 weighs this share of what a view's samples weigh."""
_NO_GAIN = 0.002
"""Log gains of about this size are noise, and shrink."""


def estimate_gains(survey: Survey) -> Tensor:
    """The gains (V, 3) that the views' channels were multiplied by; 1 for view 0.

    Robust least squares on logarithms: log colour = log gain of the view + log of the true colour
    of the texel, where the texel's colour is the mean of what the views say once their gains are
    undone. Samples that contradict the others lose their weight, all three channels together.
    """
    logs, weights = _tables(survey)
    gains = torch.zeros(survey.views, 3, dtype=torch.float64)
    for scale in _SCALES:
        residual = logs - gains.float() - _texel_means(logs - gains.float(), weights)
        squared = torch.where(weights > 0, (residual / scale).square(), 0.0).sum(-1, keepdim=True)
        gains = _solve(logs, weights / (1.0 + squared).square())
    gains = gains * gains.square() / (gains.square() + _NO_GAIN**2)
    return gains.exp().float()


def _tables(survey: Survey) -> tuple[Tensor, Tensor]:
    """Log colours and weights, both (N, V, 3), of N texels that two views or more see."""
    several = torch.bincount(survey.texel, minlength=survey.texels) > 1
    chosen = torch.nonzero(several)[:, 0]
    chosen = chosen[:: max(-(-len(chosen) // _MOST_TEXELS), 1)]
    row = torch.full((survey.texels,), -1)
    row[chosen] = torch.arange(len(chosen))
    row = row[survey.texel]
    kept = row >= 0
    place = row[kept] * survey.views + survey.view[kept]
    colour, spread = survey.colour[kept], (survey.high - survey.low)[kept]
    size = (len(chosen) * survey.views, 3)
    logs, weights = torch.zeros(size), torch.zeros(size)
    logs[place] = colour.clamp_min(1e-3).log()
    weight = (survey.trust * survey.cosine)[kept, None] / (1.0 + (spread / _FLAT).square())
    weight = weight * (colour / _FULL_WEIGHT_FROM).clamp_max(1.0).square()
    of_view_0 = (survey.view[kept] == 0)[:, None]
    bright = torch.where(of_view_0, _CUT_OFF_VIEW_0, 0.0)
    weight = torch.where(survey.high[kept] > _BRIGHT, weight * bright, weight)
    weights[place] = torch.where(survey.low[kept] < _DARK, 0.0, weight)
    shape = (len(chosen), survey.views, 3)
    return logs.reshape(shape), weights.reshape(shape)


def _texel_means(logs: Tensor, weights: Tensor) -> Tensor:
    """(N, 1, 3) weighted means over the views of (N, V, 3)."""
    total = weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    return (logs * weights).sum(dim=1, keepdim=True) / total


def _solve(logs: Tensor, weights: Tensor) -> Tensor:
    """Log gains (V, 3) that fit best, with the texels' colours eliminated; 0 for view 0."""
    views = logs.shape[1]
    gains = torch.zeros(views, 3, dtype=torch.float64)
    differences = weights * (logs - _texel_means(logs, weights))
    shares = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    for channel in range(3):
        weight = weights[..., channel]
        system = torch.diag(weight.sum(dim=0)) - shares[..., channel].T @ weight  # (V, V)
        prior = _PRIOR * float(system.diagonal().mean()) + 1e-6
        system = system.double() + prior * torch.eye(views)
        right = differences[..., channel].sum(dim=0).double()
        if views > 1:
            gains[1:, channel] = torch.linalg.solve(system[1:, 1:], right[1:])
    return gains
