"""Estimates the peak memory of a fusion from its views and settings."""

from __future__ import annotations

import logging

import torch

from ..compute.host_memory import available_bytes, check_memory
from ..fusion.device import CPU, CPU_MEMORY_GIB, memory_budget_gib
from ..fusion.fields.grid.constants import STORED_SAMPLES
from ..fusion.fields.grid.field import GRID_MEMORY_FRACTION
from ..fusion.fields.grid.state import PAD_CELLS, bytes_per_voxel
from ..fusion.working_size import object_extents_px, reduction_factor
from ..views import Views
from .config import FuseConfig

logger = logging.getLogger(__name__)

_LIBRARY_BYTES = 345 * 2**20
"""Libraries besides torch (warp with its compiler, trimesh, Embree, SciPy), and memory that the
allocator retains."""
_RAY_BYTES = 72 + 16 + 84
"""Per ray: its data, soft mask and colour, and its blurred targets with their gradients."""
_SAMPLE_BYTES = 2 * 16
"""Per stored sample of the rays of a step: value and colour."""
_CHECK_BYTES = 17
"""Per pixel during the checks of the views' normals."""
_HULL_BYTES = 34
"""Per pixel while the hull is carved: distances, gradients, thickness and temporaries."""
_CONFIDENCE_BYTES = 8
"""Per pixel while baking: confidence and conflict."""
_BAKED_VIEW_BYTES = 120
"""Per pixel of the view that is currently baked."""
_TEXEL_BYTES = 150
"""Per texel while baking."""


def estimate_memory_bytes(
    views: Views, config: FuseConfig, device: torch.device | str = "cpu"
) -> int:
    """Peak host memory of `fuse_views` in bytes, beyond the views and the interpreter.

    Within 25 % of the measured peak of processes on a CPU. On a GPU, grid and rays are stored
    there.

    Args:
        views: V views with masks.
        config: settings of all stages.
        device: the device of the optimisation.
    """
    count, height, width = views.masks.shape
    pixels = count * height * width
    texture = config.bake.texture_px**2 * _TEXEL_BYTES
    baking = pixels * _CONFIDENCE_BYTES + height * width * _BAKED_VIEW_BYTES + texture
    sdf = config.sdf.complete()
    finest = sdf.levels[-1].resolution if config.method == "sdf" else config.hull.resolution
    factor = max(reduction_factor(views, finest), 1)
    small = pixels / factor**2
    held = (views.colour.shape[-1] + 1 + (3 if views.normals is not None else 0)) * 4
    reduced = small * held if factor > 1 else 0
    carving = reduced + small * _HULL_BYTES
    if config.method != "sdf":
        return int(_LIBRARY_BYTES + max(carving, baking))
    rays = small * float((views.masks > 0).float().mean()) * 1.1
    per_step = max(level.num_rays(round(rays), sdf.min_rays) for level in sdf.levels)
    samples = min(per_step, sdf.ray_chunk_size) * STORED_SAMPLES * _SAMPLE_BYTES
    fusing = reduced + rays * _RAY_BYTES + samples + _grid_bytes(views, config, device)
    checking = pixels * _CHECK_BYTES if views.normals is not None and sdf.check_inputs else 0
    return int(_LIBRARY_BYTES + max(fusing, checking, carving, baking))


def check_fusion_memory(
    views: Views, config: FuseConfig, device: torch.device | str = "cpu"
) -> None:
    """Logs the estimate, and raises InputError if it exceeds the available memory.

    Args:
        views: V views with masks, already in memory.
        config: settings of all stages.
        device: the device of the optimisation.
    """
    needed = estimate_memory_bytes(views, config, device)
    size = f"{len(views)} views of {views.cameras.width}x{views.cameras.height} px"
    logger.info("fusing %s needs about %.1f GiB in addition to the views", size, needed / 2**30)
    check_memory(
        f"fusing {size}",
        needed,
        available_bytes(),
        "Close other programs, use fewer or smaller images, or choose the preset 'draft'.",
    )


def _grid_bytes(views: Views, config: FuseConfig, device: torch.device | str) -> float:
    """Bytes of the dense grid of the finest level, for the bounding box that the masks show.

    The budget of a GPU is for its own memory: a fusion that falls back from it to the CPU uses at
    most the CPU's budget of host memory.
    """
    sdf = config.sdf.complete()
    resolution = sdf.levels[-1].resolution
    extents = object_extents_px(views.masks)  # (V, 2)
    wide, tall = extents.amax(dim=0).tolist()
    narrow = float(extents[:, 0].min())
    longest = max(wide, tall, 1.0)
    sides = (torch.tensor([wide, tall, narrow]) / longest * resolution).ceil() + 2 * PAD_CELLS
    budget_gib = memory_budget_gib(sdf.memory_gib, CPU)
    if torch.device(device).type != "cpu":
        budget_gib = min(budget_gib, CPU_MEMORY_GIB)
    return min(
        float(sides.prod()) * bytes_per_voxel(CPU), budget_gib * 2**30 * GRID_MEMORY_FRACTION
    )
