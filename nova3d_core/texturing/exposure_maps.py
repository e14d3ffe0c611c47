"""Exposure that varies smoothly over a view, estimated from texels that several views share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..imaging.warps import smooth_image, spline_weights
from ..progress import SILENT, Progress
from .exposure import (
    SharedTexels,
    inlier_confidence,
    robust_weights,
    shared_texels,
    texel_means,
)
from .observations import Observations
from .texels import STAGE

logger = logging.getLogger(__name__)

_NODES = 7
"""Nodes of the splines along each axis of an image."""
_MAX_TEXELS, _MAX_SAMPLES = 6_000, 200_000
"""Bound the size of the tables: texels, and texels times views."""
_ROBUST_SCALES = (0.2, 0.12, 0.08, 0.06)
"""Scale of the robust kernel on log ratios in each iteration."""
_SIGMA, _DIFFERENCE_SIGMA = 0.1, 0.08
"""Prior standard deviations of log gains at the nodes, and of differences of neighbours."""
_CORRELATED_SAMPLES = 4.0
"""Number of neighbouring samples with correlated errors, which count as one observation."""
_MIN_VARIANCE = 1e-5
"""Minimum variance of log colours: images of 8 bits are no better."""
_MIN_RMS = 0.015
"""Smooth gains are undone if the median of the views' root mean square log gains is larger: blur
and inaccurate geometry cause less."""
_NO_GAINS_RMS = 0.005
"""Estimates stop below it: further iterations would not triple the gains. Exact views have 0.002,
generated ones 0.03."""


@dataclass(frozen=True, eq=False)
class GainMaps:
    """Gains of the views' colour channels, smooth over each image."""

    log_nodes: Tensor
    """(V, 3, n, n) log gains at the nodes of splines, 0 for view 0."""

    def of_view(self, view: int, height: int, width: int) -> Tensor:
        """(H, W, 3) gains of a view's pixels."""
        return smooth_image(self.log_nodes[view], height, width).exp()

    def undone(self, observations: Observations, height: int, width: int) -> Observations:
        """The samples with the gains at their pixels undone."""
        basis = _basis(observations.pixels, height, width, self.log_nodes.shape[-1])
        flat = self.log_nodes.flatten(2)  # (V, 3, K)
        log_gain = torch.zeros_like(observations.colour)
        for view in range(len(flat)):
            ids = (observations.view == view).nonzero()[:, 0]
            log_gain[ids] = basis[ids] @ flat[view].T
        gain = log_gain.exp()
        return replace(
            observations,
            colour=observations.colour / gain,
            low=observations.low / gain,
            high=observations.high / gain,
        )


def estimate_gain_maps(
    observations: Observations, height: int, width: int, progress: Progress = SILENT
) -> GainMaps | None:
    """Smooth gains of the views relative to view 0; None if the views differ by less.

    Iteratively reweighted least squares on logarithms: log colour = spline of the view at the pixel
    + log colour of the texel, with the texels' colours eliminated and a prior of small, smooth
    gains. Views that hardly agree with the others at any gain keep a gain of 1.

    Args:
        observations: samples with the views' mean gains undone.
        height: of the views, in pixels.
        width: of the views, in pixels.
        progress: checked for a cancel.

    Raises:
        Cancelled: through `progress`.
    """
    present, view = torch.unique(observations.view, return_inverse=True)
    views = len(present)
    if views < 2:
        return None
    count = max(min(_MAX_TEXELS, _MAX_SAMPLES // views), 1)
    shared = shared_texels(observations, view, views, count)
    basis = _basis(shared.pixels.flatten(0, 1), height, width, _NODES).unflatten(0, (-1, views))
    has_reference = int(present[0]) == 0
    nodes = torch.zeros(views, 3, _NODES * _NODES)
    for scale in _ROBUST_SCALES:
        robust = robust_weights(shared.logs - _log_gains(basis, nodes), shared.weights, scale)
        nodes = _solve(shared.logs, robust, basis, has_reference, progress)
        if float(_rms(shared, basis, nodes)[int(has_reference) :].median()) < _NO_GAINS_RMS:
            return None
    nodes = nodes * inlier_confidence(robust, shared.weights)[:, None, None]
    rms = _rms(shared, basis, nodes)[int(has_reference) :]
    logger.info("views differ by smooth gains of %.1f %%", 100.0 * float(rms.median()))
    if float(rms.median()) < _MIN_RMS:
        return None
    log_nodes = torch.zeros(observations.num_views, 3, _NODES, _NODES)
    log_nodes[present] = nodes.unflatten(2, (_NODES, _NODES))
    return GainMaps(log_nodes)


def _basis(pixels: Tensor, height: int, width: int, nodes: int) -> Tensor:
    """(S, K) weights of the K = nodes^2 nodes at pixels (S, 2), row by row."""
    columns = spline_weights(pixels[:, 0] / width, nodes)
    rows = spline_weights(pixels[:, 1] / height, nodes)
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def _log_gains(basis: Tensor, nodes: Tensor) -> Tensor:
    """(N, V, 3) log gains of samples with basis (N, V, K) and nodes (V, 3, K)."""
    return torch.einsum("nvk,vck->nvc", basis, nodes)


def _rms(shared: SharedTexels, basis: Tensor, nodes: Tensor) -> Tensor:
    """(V,) root mean square log gain of each view's samples."""
    squared = _log_gains(basis, nodes).square() * shared.weights
    return (squared.sum(dim=(0, 2)) / shared.weights.sum(dim=(0, 2)).clamp_min(1e-9)).sqrt()


def _solve(
    logs: Tensor, weights: Tensor, basis: Tensor, first_is_fixed: bool, progress: Progress
) -> Tensor:
    """(V, 3, K) nodes by least squares, with the texels' colours eliminated (Schur complement).

    Args:
        logs: (N, V, 3) log colours.
        weights: (N, V, 3)
        basis: (N, V, K)
        first_is_fixed: whether the gains of the first view are 1.
        progress: checked for a cancel at each channel.
    """
    _, views, count = basis.shape
    first = int(first_is_fixed)
    result = torch.zeros(views, 3, count)
    differences = logs - texel_means(logs, weights)
    seen = weights.amax(dim=2) > 0.0  # (N, V)
    pairs = [
        (a, b, (seen[:, a] & seen[:, b]).nonzero()[:, 0])
        for a in range(first, views)
        for b in range(a, views)
    ]
    for channel in range(3):
        progress.check(STAGE)
        weight, difference = weights[..., channel], differences[..., channel]
        total = weight.sum(dim=1).clamp_min(1e-9)
        variance = float((weight * difference.square()).sum() / total.sum())
        noise = _CORRELATED_SAMPLES * max(variance, _MIN_VARIANCE)
        system = torch.zeros(views, count, views, count, dtype=torch.float64)
        for a, b, ids in pairs:
            both = -weight[ids, a] * weight[ids, b] / total[ids]
            if a == b:
                both = both + weight[ids, a]
            block = basis[ids, a].T @ (both[:, None] * basis[ids, b])
            system[a, :, b] = block
            system[b, :, a] = block.T
        system[range(views), :, range(views)] += noise * _stiffness().double()
        right = torch.einsum("nvk,nv->vk", basis, weight * difference).double()
        size = (views - first) * count
        solution = torch.linalg.solve(
            system[first:, :, first:].reshape(size, size), right[first:].flatten()
        )
        result[first:, channel] = solution.reshape(views - first, count).float()
    return result


def _stiffness() -> Tensor:
    """(K, K) inverse covariance of the nodes of one channel."""
    eye = torch.eye(_NODES * _NODES).reshape(-1, _NODES, _NODES)
    differences = torch.cat([eye.diff(dim=axis).flatten(1) for axis in (1, 2)], dim=1)
    return torch.eye(_NODES * _NODES) / _SIGMA**2 + differences @ differences.T / (
        _DIFFERENCE_SIGMA**2
    )
