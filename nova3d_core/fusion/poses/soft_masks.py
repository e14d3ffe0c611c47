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

from ...cameras.cameras import Cameras
from ...compute.parallel import parallel_map
from ..rays import RayBank, pixel_side

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
    steepness = sharpness * pixel_side(bank, len(cameras))  # per pixel
    size = (cameras.height, cameras.width)
    # rays come view after view
    rays = torch.bincount(bank.view.cpu(), minlength=len(cameras)).tolist()
    columns = (bank.pixel.long().cpu(), bank.mask.cpu(), bank.colour.cpu())
    views = list(zip(*(column.split(rays) for column in columns), strict=True))
    softened = parallel_map(
        lambda view: _softened_view(*views[view], size, steepness), range(len(views))
    )
    mask, colour = (torch.cat(part) for part in zip(*softened, strict=True))
    return replace(bank, mask=mask.to(bank.mask), colour=colour.to(bank.colour))


def _softened_view(
    pixel: Tensor, mask: Tensor, colour: Tensor, size: tuple[int, int], steepness: float
) -> tuple[Tensor, Tensor]:
    """Soft mask (n,) and colour (n, 3) of one view's rays.

    Args:
        pixel: (n, 2) column and row.
        mask: (n,) coverage.
        colour: (n, 3) on black.
        size: height and width of the image.
        steepness: of the logistic, per pixel.
    """
    place = (pixel[:, 1], pixel[:, 0])
    masks, colours = torch.zeros(size), torch.zeros(*size, 3)
    masks[place], colours[place] = mask, colour
    distance, nearest = edge_distance_px(masks, _SATURATED / steepness)
    row, column = nearest[:, pixel[:, 1], pixel[:, 0]]
    own = colours[row, column] / masks[row, column, None].clamp_min(0.5)  # more than half covered
    soft = torch.sigmoid(steepness * distance[place])
    return soft, soft[:, None] * own.clamp(0.0, 1.0)


def edge_distance_px(mask: Tensor, far_px: float = math.inf) -> tuple[Tensor, Tensor]:
    """How far inside a mask (H, W) of coverages each pixel's centre is, and its nearest pixel.

    Args:
        mask: (H, W) in 0..1.
        far_px: distances beyond this come out as this, and are not measured.

    Returns:
        (H, W) pixels to the edge, below 0 outside; and (2, H, W) row and column of the nearest
        pixel more than half covered, itself where it is. A mask without an edge is as far from one
        as its image is large.
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
