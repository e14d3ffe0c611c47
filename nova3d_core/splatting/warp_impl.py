"""Tiled rasteriser in warp, for CPUs and NVIDIA GPUs; the twin of `torch_impl.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..compute.warp_backend import as_warp, launch
from . import raster_kernels as kernels
from .constants import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE
from .projection import ProjectedSplats

CPU_TILE_PX = 8
GPU_TILE_PX = 16


def rasterise(
    projected: ProjectedSplats, opacities: Tensor, colours: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """As `torch_impl.rasterise`, for float32 and four channels.

    On the CPU, results and gradients repeat bit for bit, whatever the number of threads.
    """
    size = CPU_TILE_PX if colours.device.type == "cpu" else GPU_TILE_PX
    starts, splats = sort_into_tiles(projected, width, height, size)
    image, transmittance = _Rasterise.apply(
        projected.means,
        projected.conics,
        opacities,
        colours,
        (starts, splats, width, height, size),
    )
    return image.reshape(height, width, 4), transmittance.reshape(height, width)


def sort_into_tiles(
    projected: ProjectedSplats, width: int, height: int, size: int
) -> tuple[Tensor, Tensor]:
    """Lists of the splats that touch each tile, front to back.

    Returns:
        (tiles + 1,) int32 starts of the lists, tiles in rows from the top left; (P,) int32 splats.
    """
    columns, rows = -(-width // size), -(-height // size)
    means, extents = projected.means.detach(), projected.extents
    limit = means.new_tensor([columns, rows])
    low = ((means - extents) / size).floor().clamp_min(0.0)
    high = ((means + extents) / size).ceil()
    high = torch.minimum(high, limit)
    span = (high - low).clamp_min(0.0).long()  # (N, 2) tiles along x and y
    counts = span.prod(dim=1) * (extents > 0).all(dim=1)
    order = torch.argsort(projected.depths.detach(), stable=True)
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
    starts = torch.searchsorted(tiles, edges)
    return starts.int(), splats[by_tile].int()


class _Rasterise(torch.autograd.Function):
    """Compositing with its analytic gradients."""

    @staticmethod
    def forward(ctx: Any, means, conics, opacities, channels, tiling):
        starts, splats, width, height, size = tiling
        device = means.device
        inputs = [t.detach().contiguous() for t in (means, conics, opacities, channels)]
        image = torch.zeros(height * width, 4, device=device)
        transmittance = torch.zeros(height * width, device=device)
        last = torch.zeros(height * width, dtype=torch.int32, device=device)
        bundles = _bundles(tiling, inputs, (image, transmittance, last))
        kernel, count = _kernel("composite", tiling, device)
        launch(kernel, count, list(bundles), device)
        ctx.save_for_backward(*inputs, starts, splats, image, transmittance, last)
        ctx.size = (width, height, size)
        return image, transmittance

    @staticmethod
    def backward(ctx: Any, by_image: Tensor, by_transmittance: Tensor):
        saved = (tensor.detach() for tensor in ctx.saved_tensors)
        *inputs, starts, splats, image, transmittance, last = saved
        tiling = (starts, splats, *ctx.size)
        device, pairs = by_image.device, len(splats)
        tiles, result = _bundles(tiling, inputs, (image, transmittance, last))
        gradients = kernels.Gradients()
        gradients.channels = as_warp(by_image.contiguous())
        gradients.transmittance = as_warp(by_transmittance.contiguous())
        buffers = [torch.zeros(max(pairs, 1), *s, device=device) for s in ((2,), (3,), (), (4,))]
        names = ("pair_means", "pair_conics", "pair_opacities", "pair_channels")
        for name, buffer in zip(names, buffers, strict=True):
            setattr(gradients, name, as_warp(buffer))
        kernel, count = _kernel("differentiate", tiling, device)
        launch(kernel, count, [tiles, result, gradients], device)
        index = splats.long()
        return (
            *(
                torch.zeros_like(given).index_add_(0, index, buffer[:pairs])
                for given, buffer in zip(inputs, buffers, strict=True)
            ),
            None,
        )


def _kernel(name: str, tiling: tuple, device: torch.device) -> tuple[Any, int]:
    """The kernel for a device, and its number of threads."""
    starts, _, width, height, _ = tiling
    if device.type == "cpu":
        return getattr(kernels, f"{name}_tiles"), len(starts) - 1
    return getattr(kernels, f"{name}_pixels"), width * height


def _bundles(tiling: tuple, inputs: list[Tensor], result: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Arguments of the kernels: the tiles with their splats, and the composite."""
    starts, splats, width, height, size = tiling
    tiles = kernels.Tiles()
    tiles.starts, tiles.splats = as_warp(starts), as_warp(splats)
    means, conics, opacities, channels = map(as_warp, inputs)
    tiles.means, tiles.conics, tiles.opacities, tiles.channels = means, conics, opacities, channels
    tiles.columns, tiles.width, tiles.height, tiles.size = -(-width // size), width, height, size
    tiles.min_alpha, tiles.max_alpha = MIN_ALPHA, MAX_ALPHA
    tiles.min_transmittance = MIN_TRANSMITTANCE
    composite = kernels.Composite()
    composite.channels, composite.transmittance, composite.last = map(as_warp, result)
    return tiles, composite
