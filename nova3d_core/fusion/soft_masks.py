"""Given silhouettes made as soft as the field shows them.

NeuS renders an edge as a logistic of the distance from ray to surface, wider than a pixel. Against
a sharp mask no surface fits: differences remain along every silhouette, far above those that tell
how a view is turned, and surface and poses bend together to lessen them. A mask softened by the
same logistic can be met, but for the twentieth that the band cuts off; masks cut off like that
were tried and gave worse poses.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..threads import side_by_side
from .rays import RayBank, pixel_side

_EMPTY, _FULL = 0.02, 0.98
"""A pixel with coverage between these is cut by the edge."""
_SATURATED = 20.0
"""The logistic of this is 1 in single precision."""


def softened_bank(bank: RayBank, cameras: Cameras, sharpness: float) -> RayBank:
    """The same rays with masks, and colours times them, as soft as a field's edges.

    Args:
        bank: N rays of all views, their masks as given: coverage of pixels.
        cameras: V given cameras.
        sharpness: NeuS' s, per world unit.

    Returns:
        Masks 1 / (1 + exp(-s d)) at d world units within the silhouette, and colours times that
        share; beyond the silhouette the nearest pixel's colour goes on. Normals stay as they are.
    """
    count = len(cameras)
    place = (bank.view.cpu(), bank.pixel[:, 1].long().cpu(), bank.pixel[:, 0].long().cpu())
    masks = torch.zeros(count, cameras.height, cameras.width)
    colours = torch.zeros(count, cameras.height, cameras.width, 3)
    masks[place], colours[place] = bank.mask.cpu(), bank.colour.cpu()
    steepness = sharpness * pixel_side(bank, count)  # per pixel
    far_px = _SATURATED / steepness
    measured = side_by_side(lambda view: edge_distance_px(masks[view], far_px), range(count))
    distances, nearest = (torch.stack(part) for part in zip(*measured, strict=True))
    own = colours / masks[..., None].clamp_min(0.5)  # of pixels more than half covered
    view, row, column = place
    row, column = nearest[view, :, row, column].unbind(dim=1)
    soft = torch.sigmoid(steepness * distances[place])  # (N,)
    colour = soft[:, None] * own[view, row, column].clamp(0.0, 1.0)
    return replace(bank, mask=soft.to(bank.mask), colour=colour.to(bank.colour))


def edge_distance_px(mask: Tensor, far_px: float = math.inf) -> tuple[Tensor, Tensor]:
    """How far inside a mask (H, W) of coverages each pixel's centre is, and its nearest pixel.

    Args:
        mask: (H, W) in 0..1.
        far_px: distances beyond this come out as this, and are not measured.

    Returns:
        (H, W) pixels to the edge, below 0 outside; and (2, H, W) row and column of the nearest
        pixel more than half covered, itself where it is. A mask without an edge is as far from one
        as its picture is large.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import cKDTree

    coverage = mask.numpy()
    inside = coverage > 0.5
    index = np.indices(coverage.shape)
    if inside.all() or not inside.any():
        far_px = min(far_px, float(sum(coverage.shape)))
        distance = np.where(inside, far_px, -far_px)
        return torch.from_numpy(distance).float(), torch.from_numpy(index)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    tree = cKDTree(_crossings(coverage))
    places = index.reshape(2, -1).T
    distance = tree.query(places, distance_upper_bound=far_px)[0].clip(max=far_px)
    distance = distance.reshape(inside.shape)
    distance = np.where(inside, distance, -distance)
    cut = (coverage > _EMPTY) & (coverage < _FULL) & (np.abs(distance) < 1.0)
    distance = np.where(cut, coverage - 0.5, distance)
    return torch.from_numpy(distance).float(), torch.from_numpy(nearest).long()


def _crossings(coverage: np.ndarray) -> np.ndarray:
    """(K, 2) rows and columns where the edge crosses the lines between pixel centres.

    A pixel's own coverage says how far the edge is from its centre. Where one of two neighbours is
    whole, the other's says it.
    """
    inside = coverage > 0.5
    whole = (coverage <= _EMPTY) | (coverage >= _FULL)
    found = []
    for step in ((0, 1), (1, 0)):
        one = tuple(slice(None, size - by) for size, by in zip(coverage.shape, step, strict=True))
        other = tuple(slice(by, None) for by in step)
        at = np.argwhere(inside[one] != inside[other])
        a, b = (coverage[side][tuple(at.T)] - 0.5 for side in (one, other))
        a_whole, b_whole = (whole[side][tuple(at.T)] for side in (one, other))
        towards = np.where(a > 0, 1.0, -1.0)
        own, beyond = towards * a, 1.0 + towards * b
        share = np.where(a_whole, beyond, np.where(b_whole, own, a / (a - b)))
        found.append(at + share[:, None] * np.array(step))
    return np.concatenate(found)
