"""Smooth distortions of views, as multi-view models make them: images, normals and colours.

Every view but the first is distorted by itself: its pixels are displaced by a smooth random field,
its normals rotated by another and blurred, and its colours scaled by a third.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..checks import check_bounds
from ..imaging.warps import bicubic_image
from ..views import Views

REFERENCE_PX = 256
"""Image side for which displacements are given in pixels; they scale with the image."""
NORMAL_NODES = 5
GAIN_NODES = 5
NORMAL_SIGMA_DEG = 6.7
"""Standard deviation of each component of the normals' axis-angle rotations at the nodes."""
NORMAL_BLUR_PX = 1.0
"""Standard deviation of the blur at `REFERENCE_PX`."""
GAIN_SIGMA = 0.06
"""Standard deviation of each colour channel's gain at the nodes."""
_MIN_COVERAGE = 0.5 / 255.0
"""Pixels with less coverage are background in 8-bit images."""


@dataclass(frozen=True)
class DistortionConfig:
    """Strength of the displacements."""

    nodes: int = 5
    """Nodes along each axis of the image."""
    sigma_px: float = 2.0
    """Standard deviation of x and y at the nodes, in pixels of a 256 px image."""

    def __post_init__(self):
        check_bounds(self, "distortion", nodes=(2, 64), sigma_px=(0.0, 64.0))


@dataclass(frozen=True, eq=False)
class DistortedViews:
    """Distorted views and their displacements."""

    views: Views
    """With normals in the world frame, if there are any."""
    displacement_px: Tensor
    """(V, H, W, 2) x and y: the image at a pixel is the original at the pixel plus this."""


def distort_views(views: Views, config: DistortionConfig, seed: int) -> DistortedViews:
    """Distorts all views but the first; the same seed repeats bit for bit.

    Displacements, rotations and gains use independent random streams, so that two configurations
    differ only in their displacements.

    Args:
        views: V views with masks, on white.
        config: strength of the displacements.
        seed: random seed.
    """
    views = views.with_world_normals()
    streams = [np.random.default_rng([seed, stream]) for stream in (4, 5, 6)]
    height, width = views.masks.shape[1:]
    scale = max(height, width) / REFERENCE_PX
    colours, masks = views.colour.clone(), views.masks.clone()
    normals = None if views.normals is None else views.normals.clone()
    displacements = torch.zeros(len(views), height, width, 2)
    for view in range(1, len(views)):
        nodes_px = streams[0].normal(0.0, config.sigma_px * scale, (2, config.nodes, config.nodes))
        rotations = streams[1].normal(0.0, 1.0, (3, NORMAL_NODES, NORMAL_NODES))
        gains = streams[2].normal(0.0, GAIN_SIGMA, (3, GAIN_NODES, GAIN_NODES))
        displacement = smooth_field(nodes_px, height, width)  # (H, W, 2)
        displacements[view] = displacement
        gain = 1.0 + smooth_field(gains, height, width)
        mask = displaced(views.masks[view, ..., None], displacement)[..., 0].clamp(0.0, 1.0)
        mask = mask * (mask > _MIN_COVERAGE)  # splines oscillate next to edges
        masks[view] = mask
        colours[view] = _scaled(displaced(views.colour[view], displacement), mask, gain)
        if normals is not None:
            rotation_rad = math.radians(NORMAL_SIGMA_DEG) * smooth_field(rotations, height, width)
            normal = displaced(views.normals[view], displacement)
            normals[view] = _wrong_normals(normal, rotation_rad, mask, NORMAL_BLUR_PX * scale)
    distorted = replace(views, colour=colours, masks=masks, normals=normals)
    return DistortedViews(distorted, displacements)


def smooth_field(nodes: np.ndarray, height: int, width: int) -> Tensor:
    """(H, W, C) bicubic interpolation of nodes (C, n, n); the outer ones are corner pixels."""
    return bicubic_image(torch.from_numpy(nodes).float(), height, width)


def displaced(image: Tensor, displacement_px: Tensor) -> Tensor:
    """The image (H, W, C) sampled at each pixel plus its displacement (H, W, 2): cubic splines.

    Beyond the border the border is repeated; without a displacement the image is unchanged.
    """
    from scipy.ndimage import map_coordinates

    rows, columns = np.indices(image.shape[:2])
    column_shift, row_shift = displacement_px.double().numpy().transpose(2, 0, 1)
    position = np.stack([rows + row_shift, columns + column_shift])
    planes = [
        map_coordinates(plane, position, order=3, mode="nearest")
        for plane in image.double().numpy().transpose(2, 0, 1)
    ]
    return torch.from_numpy(np.stack(planes, axis=-1)).float()


def _scaled(colour: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
    """The colour (H, W, 3) on white with the object's part multiplied by the gain (H, W, 3)."""
    white = (1.0 - mask)[..., None]
    scaled = gain * (colour - white).clamp_min(0.0) + white
    return torch.where(mask[..., None] > 0.0, scaled, 1.0).clamp(0.0, 1.0)


def _wrong_normals(normal: Tensor, rotation_rad: Tensor, mask: Tensor, blur_px: float) -> Tensor:
    """Normals (H, W, 3) rotated by axis-angle vectors (H, W, 3) and blurred; unit on the mask."""
    from scipy.ndimage import gaussian_filter
    from scipy.spatial.transform import Rotation

    flat = rotation_rad.reshape(-1, 3).double().numpy()
    rotated = Rotation.from_rotvec(flat).apply(normal.reshape(-1, 3).double().numpy())
    blurred = gaussian_filter(rotated.reshape(normal.shape), (blur_px, blur_px, 0.0))
    blurred = torch.from_numpy(blurred).float()
    length = blurred.norm(dim=-1, keepdim=True)
    inside = (mask[..., None] > 0.0) & (length > 1e-3)
    return torch.where(inside, blurred / length.clamp_min(1e-3), 0.0)
