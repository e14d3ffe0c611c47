"""Gains of the views' colour channels, from what several views say about the same texels."""

from __future__ import annotations

import torch
from torch import Tensor

from .observations import Observations

_DARK, _BRIGHT = 0.03, 0.985
"""Beyond these a channel is cut off, and its ratio to other views says nothing."""
_FULL_WEIGHT_FROM = 0.4
"""A ratio's error grows as its colour darkens; from this value on it weighs the same."""
_FLAT = 0.1
"""Where colours around a pixel differ by this, its weight has fallen to a half."""
_CUT_OFF_VIEW_0 = 0.05
"""View 0 is right by definition: its cut-off whites count where there is nothing else."""
_MAX_TEXELS = 30_000
"""The tables hold these times the views."""
_SCALES = (0.3, 0.2, 0.1, 0.07, 0.05, 0.05, 0.05)
"""Residuals of the log ratios at which a sample loses most of its weight, round after round."""
_PRIOR = 2e-4
"""The belief that a view's gain is 1 weighs this share of what a view's samples weigh."""
_NO_GAIN = 0.002
"""Log gains of about this size are noise, and shrink."""
_MOST_GAIN = 0.7
"""No log gain is larger: such views do not differ by exposure."""
_EXPLAINED_NOTHING, _EXPLAINED_ENOUGH = 0.2, 0.4
"""Share of a view's weight that its gains must bring to agree with the others. Real views, wrong
poses and contradictions included, reach 0.7; views that each invented their colours 0.05."""

_TRUSTS_LITTLE_FROM, _LITTLE = 1.05, 0.02
"""From this gain on, cut-off pixels count so much: all that is left is that they were bright."""


def estimate_gains(survey: Observations) -> Tensor:
    """The gains (V, 3) that the views' channels were multiplied by; 1 for view 0.

    Robust least squares on logarithms: log colour = log gain of the view + log of the true colour
    of the texel, where the texel's colour is the mean of what the views say once their gains are
    undone. Samples that contradict the others lose their weight, all three channels together.
    Views that share no texel with others keep a gain of 1, and so do views that agree with them
    hardly anywhere whatever their gains: they differ by more than exposure.
    """
    gains = torch.ones(survey.views, 3)
    present, view = torch.unique(survey.view, return_inverse=True)
    if len(present) < 2:
        return gains
    logs, weights = _tables(survey, view, len(present))
    fixed = int(present[0]) == 0
    found = torch.zeros(len(present), 3)
    for scale in _SCALES:
        undone = logs - found
        residual = (undone - _texel_means(undone, weights)) / scale
        squared = torch.where(weights > 0, residual.square(), 0.0).sum(dim=-1, keepdim=True)
        agreeing = weights / (1.0 + squared).square()
        found = _solve(logs, agreeing, fixed)
    explained = agreeing.sum(dim=(0, 2)) / weights.sum(dim=(0, 2)).clamp_min(1e-9)  # (V,)
    trust = (explained - _EXPLAINED_NOTHING) / (_EXPLAINED_ENOUGH - _EXPLAINED_NOTHING)
    found = found * trust.clamp(0.0, 1.0)[:, None]
    found = found * found.square() / (found.square() + _NO_GAIN**2)
    gains[present] = found.clamp(-_MOST_GAIN, _MOST_GAIN).exp()
    return gains


def saturation_confidence(image: Tensor, gain: Tensor) -> Tensor:
    """How much each pixel counts (H, W), in 0..1: less where a gain has cut its colour off at 1.

    Args:
        image: (H, W, 3) as given.
        gain: (3,) that its channels were multiplied by.
    """
    lost = (_TRUSTS_LITTLE_FROM - gain) / (_TRUSTS_LITTLE_FROM - 1.0)  # 1 without gain
    of_channels = torch.where(image > _BRIGHT, lost.clamp(_LITTLE, 1.0), 1.0)
    return of_channels.amin(dim=-1)


def _tables(survey: Observations, view: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Log colours and weights, both (N, V, 3), of N texels that two views or more see.

    Args:
        survey: S samples.
        view: (S,) in 0..views.
        views: V, without those that have no samples.
    """
    several = torch.nonzero(torch.bincount(survey.texel, minlength=survey.texels) > 1)[:, 0]
    chosen = several[:: max(-(-len(several) // _MAX_TEXELS), 1)]
    row = torch.full((survey.texels,), -1)
    row[chosen] = torch.arange(len(chosen))
    kept = torch.nonzero(row[survey.texel] >= 0)[:, 0]
    place = row[survey.texel[kept]] * views + view[kept]
    size = (len(chosen) * views, 3)
    logs, weights = torch.zeros(size), torch.zeros(size)
    logs[place] = survey.colour[kept].clamp_min(1e-3).log()
    weights[place] = _ratio_weights(survey)[kept]
    shape = (len(chosen), views, 3)
    return logs.reshape(shape), weights.reshape(shape)


def _ratio_weights(survey: Observations) -> Tensor:
    """(S, 3): how much each sample's channels tell about gains."""
    spread = survey.high - survey.low
    weight = (survey.trust * survey.cosine)[:, None] / (1.0 + (spread / _FLAT).square())
    weight = weight * (survey.colour / _FULL_WEIGHT_FROM).clamp_max(1.0).square()
    of_cut_off = torch.where(survey.view == 0, _CUT_OFF_VIEW_0, 0.0)[:, None]
    weight = torch.where(survey.high > _BRIGHT, weight * of_cut_off, weight)
    return torch.where(survey.low < _DARK, 0.0, weight)


def _texel_means(logs: Tensor, weights: Tensor) -> Tensor:
    """(N, 1, 3) weighted means over the views of (N, V, 3)."""
    total = weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    return (logs * weights).sum(dim=1, keepdim=True) / total


def _solve(logs: Tensor, weights: Tensor, first_is_fixed: bool) -> Tensor:
    """Log gains (V, 3) that fit best, with the texels' colours eliminated."""
    views, first = logs.shape[1], int(first_is_fixed)
    gains = torch.zeros(views, 3, dtype=torch.float64)
    differences = weights * (logs - _texel_means(logs, weights))
    shares = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    for channel in range(3):
        weight = weights[..., channel]
        system = torch.diag(weight.sum(dim=0)) - shares[..., channel].T @ weight  # (V, V)
        prior = _PRIOR * float(system.diagonal().mean()) + 1e-6
        system = system.double() + prior * torch.eye(views)
        right = differences[..., channel].sum(dim=0).double()
        gains[first:, channel] = torch.linalg.solve(system[first:, first:], right[first:])
    return gains.float()
