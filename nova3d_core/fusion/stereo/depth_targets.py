"""Depths of rays from multi-view stereo, and the loss that compares rendered depths with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...compute.warp_backend import kernel_error
from ..fields.base import Field
from ..fields.render_output import RenderOutput
from ..poses.pose_table import PoseTable
from ..rays import RayDataset
from . import torch_impl
from .agreement import agree
from .broad_offsets import broad_offsets
from .confidence import patch_confidence
from .constants import MAX_STEP_PX, MIN_MASK
from .patches import SurfaceMaps, make_patches
from .surface_maps import render_surface_maps
from .sweep import aggregate, find_peaks

STRIDE_PX = 2
"""Patches are centred on every n-th row and column by default."""
_STEP_PX = 0.5
"""Distance between the depths of a sweep, in widths of a pixel."""
_MIN_OFFSETS = 7
_AGGREGATION_RADIUS = 1
"""Radius of the square over which scores are averaged, in patches."""
_MIN_OPACITY = 0.5
"""The depth of rays with less opacity is not compared."""


@dataclass(frozen=True, eq=False)
class DepthTargets:
    """Depths of N rays by stereo."""

    depth: Tensor
    """(N,) distance along the ray."""
    weight: Tensor
    """(N,) confidence in 0..1."""


def depth_loss_gradients(
    rendered: RenderOutput, depth: Tensor, weight: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients (R,) of L_depth by opacity O and depth D.

    L_depth = w (sqrt(1 + r^2) - 1) with r = (D / O - depth) / scale: the Charbonnier loss of the
    distance to the stereo depth, in units of `scale`.

    Args:
        rendered: R rays.
        depth: (R,) targets.
        weight: (R,) their weights.
        scale: world distance from which on the loss is linear.
    """
    opacity = rendered.opacity.clamp_min(_MIN_OPACITY)
    mean = rendered.depth / opacity
    residual = (mean - depth) / scale
    grad_mean = weight * residual / (1.0 + residual.square()).sqrt() / scale
    grad_mean = grad_mean * (rendered.opacity >= _MIN_OPACITY)
    return -grad_mean * mean / opacity, grad_mean / opacity


def posed_cameras(cameras: Cameras, poses: PoseTable) -> Cameras:
    """The cameras in the field's world, under the current poses."""
    motions = poses.motions().to(cameras.world_to_camera)
    matrix = cameras.world_to_camera @ torch.linalg.inv(motions)
    return replace(cameras, world_to_camera=matrix)


def find_depth_targets(
    field: Field,
    poses: PoseTable,
    cameras: Cameras,
    rays: RayDataset,
    band: tuple[float, float],
    downsampling: int = 1,
    stride_px: int = STRIDE_PX,
    broad: bool = False,
) -> DepthTargets:
    """Sweeps a band around the field's surface for the depths at which the views agree best.

    Args:
        field: the present surface.
        poses: current poses.
        cameras: V input cameras.
        rays: N rays of all views with sharp masks.
        band: depth offsets, towards the camera and away from it, in world units.
        downsampling: factor by which images are downsampled for wide bands.
        stride_px: patches are centred on every n-th row and column of the downsampled images.
        broad: whether the surface keeps its details and is only moved as a whole, where stereo
            finds it too deep or too shallow over a wide area.
    """
    origin, direction = poses.transform_rays(rays.view, rays.origin, rays.direction)
    cameras = posed_cameras(cameras, poses)
    column, row = rays.pixel.long().unbind(dim=1)
    maps = render_surface_maps(field, cameras, rays.view, rays.pixel, origin, direction)
    images = _images(rays, cameras, row, column)
    surface_z = maps.depth_z[rays.view, row, column]  # (N,)
    if downsampling > 1:
        images, maps, cameras = downsample(images, maps, cameras, downsampling)
    offset, confidence = sweep_band(images, maps, cameras, band, stride_px)
    if broad:
        offset, confidence = broad_offsets(offset, confidence, _pixel_size(cameras, maps))
    side = downsampling * stride_px
    last_row, last_column = (size - 1 for size in offset.shape[1:])
    # downsampling drops the last row of an odd height
    at = (rays.view, (row // side).clamp_max(last_row), (column // side).clamp_max(last_column))
    along_axis = (direction * cameras.view_directions[rays.view]).sum(dim=1)
    depth = (surface_z + offset[at]) / along_axis
    return DepthTargets(depth, torch.where(surface_z > 0.0, confidence[at], 0.0))


def _images(rays: RayDataset, cameras: Cameras, row: Tensor, column: Tensor) -> Tensor:
    """(V, H, W, 4) colour and mask of the rays' pixels, zero elsewhere."""
    images = rays.colour.new_zeros(len(cameras), cameras.height, cameras.width, 4)
    colour = rays.colour / rays.mask.clamp_min(0.5)[:, None]
    images[rays.view, row, column] = torch.cat([colour, rays.mask[:, None]], dim=1)
    return images


def downsample(
    images: Tensor, maps: SurfaceMaps, cameras: Cameras, factor: int
) -> tuple[Tensor, SurfaceMaps, Cameras]:
    """Images (V, H, W, 4), maps and cameras, downsampled; the last rows and columns may be lost."""
    height, width = (side // factor for side in images.shape[1:3])
    if height < 2 or width < 2:
        return images, maps, cameras
    hit = (maps.depth_z > 0.0).to(maps.depth_z)[..., None]
    small = _block_mean(torch.cat([images, hit, maps.depth_z[..., None], maps.normal], -1), factor)
    count = small[..., 4]
    depth_z = torch.where(count > 0.5, small[..., 5] / count.clamp_min(0.5), 0.0)
    normal = torch.nn.functional.normalize(small[..., 6:], dim=-1) * (depth_z > 0.0)[..., None]
    scale = cameras.intrinsics.new_tensor([1.0 / factor, 1.0 / factor, 1.0])
    small_cameras = replace(
        cameras, intrinsics=cameras.intrinsics * scale[:, None], width=width, height=height
    )
    return small[..., :4].contiguous(), SurfaceMaps(depth_z.contiguous(), normal), small_cameras


def _block_mean(values: Tensor, factor: int) -> Tensor:
    """(V, H // f, W // f, C) means of blocks of values (V, H, W, C)."""
    planes = values.permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(planes, factor).permute(0, 2, 3, 1)


def sweep_band(
    images: Tensor,
    maps: SurfaceMaps,
    cameras: Cameras,
    band: tuple[float, float],
    stride_px: int = STRIDE_PX,
) -> tuple[Tensor, Tensor]:
    """Depth offsets and confidences (V, rows, columns) at every n-th pixel, n = `stride_px`.

    Args:
        images: (V, H, W, 4) colour and mask.
        maps: the present surface in these images.
        cameras: V cameras in the surface's world.
        band: largest depth offsets towards the camera and away from it, in world units.
        stride_px: n.
    """
    views, height, width = maps.depth_z.shape
    shape = (views, -(-height // stride_px), -(-width // stride_px))
    offset, confidence = (images.new_zeros(shape) for _ in range(2))
    pixel = ((maps.depth_z > 0.0) & (images[..., 3] > MIN_MASK)).nonzero()
    pixel = pixel[(pixel[:, 1:] % stride_px == 0).all(dim=1)]
    if len(pixel) == 0:
        return offset, confidence
    patches = make_patches(cameras, pixel, maps)
    pixel_size = _pixel_size(cameras, maps)
    count = max(round(sum(band) / (_STEP_PX * pixel_size)) + 1, _MIN_OFFSETS)
    offsets = torch.linspace(-band[0], band[1], count, device=images.device)
    perspective = cameras.kind == "perspective"
    scores = _implementation(images.device).sweep_scores(
        images, maps.depth_z, patches, offsets, MAX_STEP_PX * pixel_size, perspective
    )
    at = (pixel[:, 0], *(pixel[:, 1:] // stride_px).unbind(dim=1))
    index = (at[0] * shape[1] + at[1]) * shape[2] + at[2]
    peaks = find_peaks(aggregate(scores, index, shape, _AGGREGATION_RADIUS), offsets)
    offset[at], confidence[at] = peaks.offset, patch_confidence(peaks, pixel_size)
    agreed = agree(cameras, patches, maps, offset, confidence, stride_px, pixel_size)
    offset[at], confidence[at] = agreed
    return offset, confidence


def _implementation(device: torch.device) -> Any:
    """The warp implementation of the sweep where it runs, else the one in PyTorch."""
    if kernel_error(device, _kernels):
        return torch_impl
    from . import warp_impl

    return warp_impl


def _kernels() -> tuple[Any, ...]:
    from . import sweep_kernels

    return (sweep_kernels.sweep.module,)


def _pixel_size(cameras: Cameras, maps: SurfaceMaps) -> float:
    """World width of a pixel on the surface."""
    size = 1.0 / float(cameras.intrinsics[:, 0, 0].mean())
    if cameras.kind == "perspective":
        size *= float(maps.depth_z[maps.depth_z > 0].mean())
    return size
