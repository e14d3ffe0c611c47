"""Projection and tiled rasteriser in warp, for CPUs and NVIDIA GPUs.

The twins are `projection.project_splats` and `torch_impl.rasterise`. On the CPU, results and
gradients repeat bit for bit, whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..compute.warp_backend import as_warp, launch, warp
from . import project_kernels, raster_kernels, tile_kernels
from .constants import BLUR_PX2, MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, NEAR
from .memory import check_pairs
from .projection import ProjectedSplats, frustum_limits

GPU_TILE_PX = 16
_MIN_TILES = 64
"""Images with fewer tiles are rasterised in one launch."""


def modules(device_type: str) -> tuple[Any, ...]:
    """The warp modules that a device needs."""
    if device_type == "cpu":
        return (project_kernels.project.module, tile_kernels.composite_tiles.module)
    return (project_kernels.project.module, raster_kernels.composite_pixels.module)


def project(
    positions: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    camera: Cameras,
    blur_px2: float = BLUR_PX2,
) -> ProjectedSplats:
    """As `project_splats`, for float32."""
    given = _camera(camera, blur_px2)
    return ProjectedSplats(*_Project.apply(positions, scales, rotations, opacities.detach(), given))


def rasterise(
    projected: ProjectedSplats, opacities: Tensor, channels: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """As `torch_impl.rasterise`, for float32 and four channels."""
    image, transmittance = _Rasterise.apply(
        projected.means, projected.conics, opacities, channels, projected, (width, height)
    )
    return image.reshape(height, width, 4), transmittance.reshape(height, width)


def _by_tile(device: torch.device) -> bool:
    """Whether a thread handles a tile, as on CPUs, or a pixel."""
    return device.type == "cpu"


def _camera(camera: Cameras, blur_px2: float) -> project_kernels.Camera:
    wp = warp()
    pose = camera.world_to_camera[0].cpu()
    intrinsics = camera.intrinsics[0].cpu()
    low, high = frustum_limits(camera)
    result = project_kernels.Camera()
    result.rotation = wp.mat33(*pose[:3, :3].flatten().tolist())
    result.translation = wp.vec3(*pose[:3, 3].tolist())
    result.focal = wp.vec2(*intrinsics.diagonal()[:2].tolist())
    result.centre = wp.vec2(*intrinsics[:2, 2].tolist())
    result.low, result.high = wp.vec2(*low.tolist()), wp.vec2(*high.tolist())
    result.perspective = int(camera.kind == "perspective")
    result.near, result.blur, result.min_alpha = NEAR, blur_px2, MIN_ALPHA
    return result


def _struct(kind: Any, tensors: tuple[Tensor | None, ...]) -> Any:
    """A warp struct of arrays that share the memory of contiguous tensors, in its order."""
    result = kind()
    for name, tensor in zip(kind.vars, tensors, strict=False):
        if tensor is not None:
            setattr(result, name, as_warp(tensor))
    return result


class _Project(torch.autograd.Function):
    """Projection with its analytic gradients."""

    @staticmethod
    def forward(ctx: Any, positions, scales, rotations, opacities, camera):
        given = [t.detach().contiguous() for t in (positions, scales, rotations)]
        count, new = len(positions), positions.detach().new_empty
        result = (new(count, 2), new(count, 3), new(count), new(count, 2))
        arguments = [
            camera,
            _struct(project_kernels.Parameters, given),
            opacities.contiguous(),
            _struct(project_kernels.Projected, result),
        ]
        launch(project_kernels.project, count, arguments, positions.device)
        ctx.save_for_backward(*given, *result)
        ctx.camera = camera
        ctx.mark_non_differentiable(result[3])
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        saved = [tensor.detach() for tensor in ctx.saved_tensors]
        given, projected = saved[:3], saved[3:]
        by_given = [torch.zeros_like(tensor) for tensor in given]
        arguments = [
            ctx.camera,
            _struct(project_kernels.Parameters, given),
            _struct(project_kernels.Projected, projected),
            _struct(project_kernels.Projected, [g.contiguous() for g in gradients[:3]]),
            _struct(project_kernels.Parameters, by_given),
        ]
        launch(project_kernels.project_backward, len(given[0]), arguments, given[0].device)
        return (*by_given, None, None)


class _Rasterise(torch.autograd.Function):
    """Compositing with its analytic gradients."""

    @staticmethod
    def forward(ctx: Any, means, conics, opacities, channels, projected, size):
        width, height = size
        inputs = [t.detach().contiguous() for t in (means, conics, opacities, channels)]
        extents, depths = projected.extents.contiguous(), projected.depths.detach()
        tiling = sort_into_tiles(inputs[0], extents, depths, width, height)
        image = inputs[0].new_empty(height * width, 4)
        transmittance = inputs[0].new_empty(height * width)
        last = torch.empty(height * width, dtype=torch.int32, device=means.device)
        tiles = _tiles(tiling, inputs, extents, width, height)
        result = _struct(tile_kernels.Composite, (image, transmittance, last))
        _launch_raster("composite", tiles, [result], width, height, means.device)
        ctx.save_for_backward(*inputs, extents, *tiling, image, transmittance, last)
        ctx.size = size
        return image, transmittance

    @staticmethod
    def backward(ctx: Any, by_image: Tensor, by_transmittance: Tensor):
        saved = [tensor.detach() for tensor in ctx.saved_tensors]
        inputs, extents, tiling, result = saved[:4], saved[4], saved[5:9], saved[9:]
        width, height = ctx.size
        slots, first_slots = tiling[2:]
        device, count = by_image.device, len(inputs[0])
        tiles = _tiles(tiling, inputs, extents, width, height)
        composite = _struct(tile_kernels.Composite, result)
        # on the CPU each pair has a slot, on a GPU each splat
        rows = max(len(slots), 1) if _by_tile(device) else count
        pairs = torch.zeros(rows, tile_kernels.GRADIENT_SIZE, device=device)
        gradients = (by_image.contiguous(), by_transmittance.contiguous(), slots, pairs)
        gradients = _struct(tile_kernels.Gradients, gradients)
        _launch_raster("differentiate", tiles, [composite, gradients], width, height, device)
        total = pairs
        if _by_tile(device):
            total = torch.zeros(count, tile_kernels.GRADIENT_SIZE)
            launch(tile_kernels.sum_slots, count, [first_slots, pairs, total], device)
        by_mean, by_conic, by_opacity, by_channels = total.split([2, 3, 1, 4], dim=1)
        return by_mean, by_conic, by_opacity[:, 0], by_channels, None, None


def _launch_raster(
    name: str, tiles: Any, arguments: list, width: int, height: int, device: torch.device
) -> None:
    """Runs a raster kernel: one thread per tile on the CPU, per pixel on a GPU."""
    if _by_tile(device):
        count = tiles.columns * -(-height // tile_kernels.TILE_PX)
        kernel = getattr(tile_kernels, f"{name}_tiles")
        launch(kernel, count, [tiles, *arguments], device, min_parallel=_MIN_TILES)
        return
    kernel = getattr(raster_kernels, f"{name}_pixels")
    launch(kernel, width * height, [tiles, GPU_TILE_PX, *arguments], device)


def _tiles(
    tiling: Any, inputs: list[Tensor], extents: Tensor, width: int, height: int
) -> tile_kernels.Tiles:
    starts, splats = tiling[:2]
    means, conics, opacities, channels = inputs
    tiles = _struct(
        tile_kernels.Tiles, (starts, splats, means, conics, extents, opacities, channels)
    )
    size = tile_kernels.TILE_PX if _by_tile(means.device) else GPU_TILE_PX
    tiles.columns, tiles.width, tiles.height = -(-width // size), width, height
    tiles.min_alpha, tiles.max_alpha = MIN_ALPHA, MAX_ALPHA
    tiles.min_transmittance = MIN_TRANSMITTANCE
    return tiles


def sort_into_tiles(
    means: Tensor, extents: Tensor, depths: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lists of the splats that touch each tile, front to back.

    Args:
        means: (N, 2) in pixels.
        extents: (N, 2) half-widths in pixels, 0 for invisible splats.
        depths: (N,) along the viewing axis.
        width: of the image in pixels.
        height: of the image in pixels.

    Returns:
        (tiles + 1,) int32 starts of the lists, tiles in rows from the top left; (P,) int32 splats;
        (P,) int32 slot of the gradients of each pair; (N + 1,) int32 starts of each splat's slots.
    """
    order = torch.argsort(depths, stable=True).int()
    if _by_tile(means.device):
        return _sort_on_cpu(means, extents, order, width, height)
    return _sort_on_gpu(means, extents, order.long(), width, height)


def _sort_on_cpu(
    means: Tensor, extents: Tensor, order: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wp = warp()
    columns, rows = -(-width // tile_kernels.TILE_PX), -(-height // tile_kernels.TILE_PX)
    splat_pairs = torch.zeros(len(means) + 1, dtype=torch.int32)
    tile_pairs = torch.zeros(columns * rows + 1, dtype=torch.int32)
    tiles = tile_kernels.Tiles()
    tiles.means, tiles.extents, tiles.columns = as_warp(means), as_warp(extents), columns
    counts = [as_warp(splat_pairs[1:]), as_warp(tile_pairs[1:])]
    wp.launch(tile_kernels.count_pairs, dim=1, inputs=[tiles, rows, *counts], device="cpu")
    check_pairs(int(splat_pairs.sum()), means.device)
    first_slots = splat_pairs.cumsum(0, dtype=torch.int32)
    starts = tile_pairs.cumsum(0, dtype=torch.int32)
    splats, slots = torch.empty(2, int(starts[-1]), dtype=torch.int32)
    ends = starts[:-1].clone()
    tiles.splats = as_warp(splats)
    lists = [as_warp(order), as_warp(first_slots), as_warp(ends), as_warp(slots)]
    wp.launch(tile_kernels.fill_tiles, dim=1, inputs=[tiles, rows, *lists], device="cpu")
    return starts, splats, slots, first_slots


def _sort_on_gpu(
    means: Tensor, extents: Tensor, order: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = GPU_TILE_PX
    columns, rows = -(-width // size), -(-height // size)
    limit = means.new_tensor([columns, rows])
    low = ((means - extents) / size).floor().clamp_min(0.0)
    high = torch.minimum(((means + extents) / size).ceil(), limit)
    span = (high - low).clamp_min(0.0).long()  # (N, 2) tiles along x and y
    counts = span.prod(dim=1) * (extents > 0).all(dim=1)
    check_pairs(int(counts.sum()), means.device)
    order = order[counts[order] > 0]
    counts = counts[order]
    splats = torch.repeat_interleave(order, counts)  # (P,) in order of depth
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    within = torch.arange(len(splats), device=splats.device) - first
    across = span[splats, 0]
    corner = low.long()[splats]
    tiles = (corner[:, 1] + within // across) * columns + corner[:, 0] + within % across
    tiles, by_tile = torch.sort(tiles, stable=True)
    edges = torch.arange(columns * rows + 1, device=tiles.device)
    starts = torch.searchsorted(tiles, edges).int()
    splats = splats[by_tile].int()
    return starts, splats, splats, torch.arange(len(means) + 1, device=means.device).int()
