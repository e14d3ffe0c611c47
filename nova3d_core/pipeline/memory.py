"""How much memory a fusion takes, predicted before the work from views and settings."""

from __future__ import annotations

import logging

import torch

from ..compute.host_memory import available_bytes, check_memory
from ..fusion.device import CPU, CPU_MEMORY_GIB, memory_budget_gib
from ..fusion.fields.grid.field import GRID_SHARE
from ..fusion.fields.grid.state import PAD_CELLS, bytes_a_voxel
from ..fusion.working_size import object_extents_px, reduction_factor
from ..views import Views
from .config import FuseConfig

logger = logging.getLogger(__name__)

_LIBRARIES = 345 * 2**20
"""What the stages load besides torch (warp with its compiler, trimesh, Embree, SciPy), and what the
allocator keeps."""
_RAY_BYTES = 72 + 16 + 84
"""A ray in the bank, its soft mask and colour, and its blurred targets with their gradients."""
_CHECK_BYTES = 17
"""A pixel while the views' normals are checked."""
_HULL_BYTES = 34
"""A pixel while the hull is carved: distances, their gradients, thickness, and their making."""
_TRUST_BYTES = 8
"""A pixel while baking: its trust and its conflict."""
_VIEW_BYTES = 120
"""A pixel of the one view that is being baked."""
_TEXEL_BYTES = 150


def estimate_memory_bytes(views: Views, config: FuseConfig, device: torch.device | str = "cpu") -> int:
    """The most memory that `fuse_views` holds beyond views and interpreter, in bytes.

    Measured against whole processes on a CPU it is right within a quarter. Optimising on a GPU
    moves grid and rays there.

    Args:
        views: V views with masks.
        config: settings of all stages.
        device: where to optimise.
    """
    count, height, width = views.masks.shape
    pixels = count * height * width
    texture = config.bake.texture_px**2 * _TEXEL_BYTES
    baking = pixels * _TRUST_BYTES + height * width * _VIEW_BYTES + texture
    sdf = config.sdf.complete()
    finest = sdf.levels[-1].resolution if config.method == "sdf" else config.hull.resolution
    factor = max(reduction_factor(views, finest), 1)
    small = pixels / factor**2
    held = (views.colour.shape[-1] + 1 + (3 if views.normals is not None else 0)) * 4
    reduced = small * held if factor > 1 else 0
    carving = reduced + small * _HULL_BYTES
    if config.method != "sdf":
        return int(_LIBRARIES + max(carving, baking))
    rays = small * float((views.masks > 0).float().mean()) * 1.1
    fusing = reduced + rays * _RAY_BYTES + _grid_bytes(views, config, device)
    checking = pixels * _CHECK_BYTES if views.normals is not None and sdf.check_inputs else 0
    return int(_LIBRARIES + max(fusing, checking, carving, baking))


def check_fusion_memory(
    views: Views, config: FuseConfig, device: torch.device | str = "cpu"
) -> None:
    """Logs the prediction, and raises InputError if it is more than is free.

    Args:
        views: V views with masks, in memory already.
        config: settings of all stages.
        device: where to optimise.
    """
    needed = estimate_memory_bytes(views, config, device)
    size = f"{len(views)} views of {views.cameras.width}x{views.cameras.height} px"
    logger.info("fusing %s takes about %.1f GiB more than the views", size, needed / 2**30)
    check_memory(
        f"fusing {size}",
        needed,
        available_bytes(),
        "Close other programs, give fewer or smaller images, or choose the preset 'draft'.",
    )


def _grid_bytes(views: Views, config: FuseConfig, device: torch.device | str) -> float:
    """The dense grid of the finest level, for an object whose box the masks show.

    A GPU's budget is of its own memory: of the host's, a fusion there takes no more than the CPU's,
    which it falls back to.
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
    return min(float(sides.prod()) * bytes_a_voxel(CPU), budget_gib * 2**30 * GRID_SHARE)
