"""Exposure compensation: estimates gains of the views' colour channels from shared texels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .observations import Observations

_DARK, _BRIGHT = 0.03, 0.985
"""Darker channels are noise and brighter ones saturated: their ratios are not used."""
_FULL_WEIGHT_COLOUR = 0.4
"""Ratios of darker colours are less accurate and get less weight."""
_HALF_WEIGHT_RANGE = 0.1
"""Local colour range at which the weight of a sample is halved."""
_SATURATED_VIEW_0_WEIGHT = 0.05
"""View 0 is the reference: its saturated colours count where there is nothing else."""
_MAX_TEXELS = 30_000
"""Bounds the size of the tables, texels times views."""
_ROBUST_SCALES = (0.3, 0.2, 0.1, 0.07, 0.05, 0.05, 0.05)
"""Scale of the robust kernel on log ratios in each iteration."""
_PRIOR_WEIGHT = 2e-4
"""Weight of the prior gain of 1, as a fraction of a view's total weight."""
_NOISE_LOG_GAIN = 0.002
"""Log gains of this magnitude are noise, and shrink towards 0."""
_MAX_LOG_GAIN = 0.7
"""Views with larger log gains differ by more than exposure."""
_MIN_INLIER_RATIO, _FULL_INLIER_RATIO = 0.2, 0.4
"""Fraction of a view's weight that agrees with the other views after compensation; gains fade in
between the two. Real views reach 0.7, even with wrong poses; views with unrelated colours 0.05."""

_MIN_CONFIDENCE_GAIN, _MIN_CONFIDENCE = 1.05, 0.02
"""Gain from which saturated pixels have the minimum confidence: their true colour is lost."""


@dataclass(frozen=True, eq=False)
class SharedTexels:
    """N texels that at least two of V views see; values of views that do not see them are 0."""

    logs: Tensor
    """(N, V, 3) log colours."""
    weights: Tensor
    """(N, V, 3)"""
    pixels: Tensor
    """(N, V, 2) x and y in the view's image."""


def estimate_gains(observations: Observations) -> Tensor:
    """Gains (V, 3) of the views' colour channels, relative to view 0, whose gains are 1.

    Iteratively reweighted least squares on logarithms: log colour = log gain of the view + log
    colour of the texel, where a texel's colour is the weighted mean over the views with their gains
    undone. Outliers lose the weight of all three channels. Views without shared texels keep a gain
    of 1, and so do views that hardly agree with the others at any gain: they differ by more than
    exposure.
    """
    gains = torch.ones(observations.num_views, 3)
    present, view = torch.unique(observations.view, return_inverse=True)
    if len(present) < 2:
        return gains
    shared = shared_texels(observations, view, len(present), _MAX_TEXELS)
    logs, weights = shared.logs, shared.weights
    has_reference = int(present[0]) == 0
    log_gains = torch.zeros(len(present), 3)
    for scale in _ROBUST_SCALES:
        robust = robust_weights(logs - log_gains, weights, scale)
        log_gains = _solve(logs, robust, has_reference)
    log_gains = log_gains * inlier_confidence(robust, weights)[:, None]
    log_gains = log_gains * log_gains.square() / (log_gains.square() + _NOISE_LOG_GAIN**2)
    gains[present] = log_gains.clamp(-_MAX_LOG_GAIN, _MAX_LOG_GAIN).exp()
    return gains


def saturation_confidence(image: Tensor, gain: Tensor) -> Tensor:
    """Confidence (H, W) of each pixel in 0..1, reduced where a gain has saturated its colour.

    Args:
        image: (H, W, 3) before compensation.
        gain: (3,) or (H, W, 3) estimated gains of its channels.
    """
    reduced = (_MIN_CONFIDENCE_GAIN - gain) / (_MIN_CONFIDENCE_GAIN - 1.0)  # 1 without gain
    of_channels = torch.where(image > _BRIGHT, reduced.clamp(_MIN_CONFIDENCE, 1.0), 1.0)
    return of_channels.amin(dim=-1)


def robust_weights(logs: Tensor, weights: Tensor, scale: float) -> Tensor:
    """(N, V, 3) weights, reduced where a sample differs from its texel's mean.

    Args:
        logs: (N, V, 3) log colours after compensation.
        weights: (N, V, 3) of the samples.
        scale: of the robust kernel.
    """
    residual = (logs - texel_means(logs, weights)) / scale
    squared = torch.where(weights > 0, residual.square(), 0.0).sum(dim=-1, keepdim=True)
    return weights / (1.0 + squared).square()


def inlier_confidence(robust: Tensor, weights: Tensor) -> Tensor:
    """(V,) in 0..1: 0 for views that hardly agree with the others after compensation.

    Args:
        robust: (N, V, 3) weights of the samples after compensation.
        weights: (N, V, 3) before.
    """
    inliers = robust.sum(dim=(0, 2)) / weights.sum(dim=(0, 2)).clamp_min(1e-9)
    confidence = (inliers - _MIN_INLIER_RATIO) / (_FULL_INLIER_RATIO - _MIN_INLIER_RATIO)
    return confidence.clamp(0.0, 1.0)


def shared_texels(
    observations: Observations, view: Tensor, views: int, max_texels: int
) -> SharedTexels:
    """Texels that at least two views see, at most `max_texels` of them.

    Args:
        observations: S samples.
        view: (S,) index among the views that have samples.
        views: number of views that have samples, V.
        max_texels: bounds the size of the tables.
    """
    num_views = torch.bincount(observations.texel, minlength=observations.num_texels)
    shared = torch.nonzero(num_views > 1)[:, 0]
    chosen = shared[:: max(-(-len(shared) // max_texels), 1)]
    row = torch.full((observations.num_texels,), -1)
    row[chosen] = torch.arange(len(chosen))
    kept = torch.nonzero(row[observations.texel] >= 0)[:, 0]
    index = row[observations.texel[kept]] * views + view[kept]
    size = len(chosen) * views
    logs, weights, pixels = torch.zeros(size, 3), torch.zeros(size, 3), torch.zeros(size, 2)
    logs[index] = observations.colour[kept].clamp_min(1e-3).log()
    weights[index] = _ratio_weights(observations)[kept]
    pixels[index] = observations.pixels[kept]
    tables = (table.unflatten(0, (len(chosen), views)) for table in (logs, weights, pixels))
    return SharedTexels(*tables)


def _ratio_weights(observations: Observations) -> Tensor:
    """(S, 3) weights of each sample's channels in the estimation of gains."""
    spread = observations.high - observations.low
    weight = (observations.confidence * observations.cosine)[:, None] / (
        1.0 + (spread / _HALF_WEIGHT_RANGE).square()
    )
    weight = weight * (observations.colour / _FULL_WEIGHT_COLOUR).clamp_max(1.0).square()
    saturated = torch.where(observations.view == 0, _SATURATED_VIEW_0_WEIGHT, 0.0)[:, None]
    weight = torch.where(observations.high > _BRIGHT, weight * saturated, weight)
    return torch.where(observations.low < _DARK, 0.0, weight)


def texel_means(logs: Tensor, weights: Tensor) -> Tensor:
    """(N, 1, 3) weighted means over the views of (N, V, 3)."""
    total = weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    return (logs * weights).sum(dim=1, keepdim=True) / total


def _solve(logs: Tensor, weights: Tensor, first_is_fixed: bool) -> Tensor:
    """Least-squares log gains (V, 3), with the texels' colours eliminated (Schur complement)."""
    views, first = logs.shape[1], int(first_is_fixed)
    gains = torch.zeros(views, 3, dtype=torch.float64)
    differences = weights * (logs - texel_means(logs, weights))
    normalised = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    for channel in range(3):
        weight = weights[..., channel]
        system = torch.diag(weight.sum(dim=0)) - normalised[..., channel].T @ weight  # (V, V)
        prior = _PRIOR_WEIGHT * float(system.diagonal().mean()) + 1e-6
        system = system.double() + prior * torch.eye(views)
        rhs = differences[..., channel].sum(dim=0).double()
        gains[first:, channel] = torch.linalg.solve(system[first:, first:], rhs[first:])
    return gains.float()
