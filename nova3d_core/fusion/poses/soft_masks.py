"""Input masks blurred to the softness of rendered silhouettes.

NeuS renders an edge as a logistic of the distance from ray to surface, wider than a pixel. No
surface fits a sharp mask: residuals remain along every silhouette, far above those caused by a
rotation of the view, and bias surface and poses together. A mask softened by the same logistic can
be fitted, except for the twentieth that is truncated by the band; truncating the masks likewise
gave worse poses.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...compute.parallel import parallel_map
from ..rays import RayDataset, pixel_side

_EMPTY, _FULL = 0.02, 0.98
"""Pixels with coverage between these contain the edge."""
_SATURATION = 20.0
"""The logistic of this is 1 in float32."""


def soften_masks(rays: RayDataset, cameras: Cameras, sharpness: float) -> RayDataset:
    """The same rays with masks and premultiplied colours as soft as a field's edges.

    Args:
        rays: N rays of all views, sorted by view, with pixel coverage as masks.
        cameras: V input cameras.
        sharpness: NeuS' s, per world unit.

    Returns:
        Masks 1 / (1 + exp(-s d)) at d world units inside the silhouette, and colours times that;
        outside the silhouette the colour of the nearest pixel is used. Normals are unchanged.
    """
    steepness = sharpness * pixel_side(rays, len(cameras))  # per pixel
    size = (cameras.height, cameras.width)
    counts = torch.bincount(rays.view.cpu(), minlength=len(cameras)).tolist()
    columns = (rays.pixel.long().cpu(), rays.mask.cpu(), rays.colour.cpu())
    views = list(zip(*(column.split(counts) for column in columns), strict=True))
    softened = parallel_map(
        lambda view: _soften_view(*views[view], size, steepness), range(len(views))
    )
    mask, colour = (torch.cat(part) for part in zip(*softened, strict=True))
    return replace(rays, mask=mask.to(rays.mask), colour=colour.to(rays.colour))


def _soften_view(
    pixel: Tensor, mask: Tensor, colour: Tensor, size: tuple[int, int], steepness: float
) -> tuple[Tensor, Tensor]:
    """Soft mask (n,) and colour (n, 3) of one view's rays.

    Args:
        pixel: (n, 2) column and row.
        mask: (n,) coverage.
        colour: (n, 3) premultiplied by the mask.
        size: height and width of the image.
        steepness: steepness of the logistic, per pixel.
    """
    index = (pixel[:, 1], pixel[:, 0])
    masks, colours = torch.zeros(size), torch.zeros(*size, 3)
    masks[index], colours[index] = mask, colour
    distance, nearest = edge_distance_px(masks, _SATURATION / steepness)
    row, column = nearest[:, pixel[:, 1], pixel[:, 0]]
    own = colours[row, column] / masks[row, column, None].clamp_min(0.5)  # more than half covered
    soft = torch.sigmoid(steepness * distance[index])
    return soft, soft[:, None] * own.clamp(0.0, 1.0)


def edge_distance_px(mask: Tensor, far_px: float = math.inf) -> tuple[Tensor, Tensor]:
    """Sub-pixel distance of each pixel's centre to the edge of a coverage mask, positive inside.

    Args:
        mask: (H, W) in 0..1.
        far_px: distances are clamped to this, which saves time.

    Returns:
        (H, W) pixels to the edge, negative outside; and (2, H, W) row and column of the nearest
        pixel that is more than half covered. Without an edge all distances are H + W.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import cKDTree

    coverage = mask.numpy()
    inside = coverage > 0.5
    indices = np.indices(coverage.shape)
    if inside.all() or not inside.any():
        far_px = min(far_px, float(sum(coverage.shape)))
        distance = np.where(inside, far_px, -far_px)
        return torch.from_numpy(distance).float(), torch.from_numpy(indices)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    tree = cKDTree(_crossings(coverage))
    centres = indices.reshape(2, -1).T
    distance = tree.query(centres, distance_upper_bound=far_px)[0].clip(max=far_px)
    distance = distance.reshape(inside.shape)
    distance = np.where(inside, distance, -distance)
    cut = (coverage > _EMPTY) & (coverage < _FULL) & (np.abs(distance) < 1.0)
    distance = np.where(cut, coverage - 0.5, distance)
    return torch.from_numpy(distance).float(), torch.from_numpy(nearest).long()


def _crossings(coverage: np.ndarray) -> np.ndarray:
    """(K, 2) rows and columns where the edge crosses the lines between pixel centres.

    Interpolated between the coverages of both pixels; where one of them is empty or full, the
    coverage of the other gives the distance.
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
        fraction = np.where(a_whole, beyond, np.where(b_whole, own, a / (a - b)))
        found.append(at + fraction[:, None] * np.array(step))
    return np.concatenate(found)
