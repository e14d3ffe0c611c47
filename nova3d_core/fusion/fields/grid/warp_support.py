"""Whether the dense grid's warp kernels run on a device, and the warning where they do not."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ....compute import warp_backend
from ....progress import SILENT, Progress

logger = logging.getLogger(__name__)

REMEDY = (
    "Install it with: pip install warp-lang; if it is installed, set WARP_CACHE_PATH to a writable "
    "folder."
)


def grid_kernels() -> tuple[Any, ...]:
    """The warp modules of the dense grid."""
    from . import ray_kernels, voxel_kernels

    return ray_kernels.render_forward.module, voxel_kernels.accumulate.module


def kernel_error(device: torch.device, progress: Progress = SILENT) -> str:
    """Why the grid's kernels do not run on a device; see `warp_backend.kernel_error`."""
    return warp_backend.kernel_error(device, grid_kernels, progress)


def can_run_on(device: torch.device) -> bool:
    """Whether warp is installed and the grid's kernels load on a device."""
    return not kernel_error(device)


def warn_about_torch_fallback(device: torch.device) -> None:
    """Warns that a field runs in PyTorch because warp does not, how slow that is, and why.

    Called once per field, so once per fusion.
    """
    logger.warning(
        "the fusion runs in plain PyTorch, %s slower than with warp: %s. %s",
        "6 to 8 times" if device.type == "cpu" else "far more than 10 times",
        kernel_error(device).rstrip(".") or "warp is disabled",
        REMEDY,
    )
