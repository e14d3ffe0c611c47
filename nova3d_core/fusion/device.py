"""Device of a fusion, and the memory budget of its grid."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch

from ..compute.devices import GIB, free_memory_bytes, with_device_index
from ..progress import SILENT, Progress
from .config import FieldKind
from .fields.grid import warp_support

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
CPU_MEMORY_GIB = 3.0
"""The grid's memory budget on a CPU."""
FREE_MEMORY_FRACTION = 0.8
"""Fraction of a GPU's free memory that is the grid's memory budget there."""
MIN_MEMORY_GIB = 0.5


class FusionDevice(NamedTuple):
    """The device of a fusion."""

    device: torch.device
    """The device, with its index."""
    reason: str
    """Reason for falling back to it; empty if it was requested."""


def choose_fusion_device(
    requested: torch.device | str, field: FieldKind = "grid", progress: Progress = SILENT
) -> FusionDevice:
    """The requested device, or the CPU where the field runs faster.

    The dense grid's warp kernels take about half a minute on two CPU cores. Its PyTorch
    implementation launches thousands of small kernels per step and would take many minutes on a
    GPU, so it is used only where warp runs on no device. The hash grid is plain PyTorch. Both
    PyTorch fields need float64 for the cameras, which some GPUs lack.

    Args:
        requested: a device of this machine.
        field: "grid" or "hashgrid".
        progress: reports kernel compilation.
    """
    device = with_device_index(torch.device(requested))
    if device.type == "cpu":
        if field == "grid":
            warp_support.kernel_error(device, progress)
        return FusionDevice(device, "")
    if field == "hashgrid":
        return _with_float64(device)
    problem = warp_support.kernel_error(device, progress)
    if warp_support.can_run_on(device):
        return FusionDevice(device, "")
    warp_support.kernel_error(CPU, progress)
    if not warp_support.can_run_on(CPU):
        return _with_float64(device)
    return FusionDevice(CPU, problem)


def _with_float64(device: torch.device) -> FusionDevice:
    """The device, or the CPU if the device has no float64: Apple's, and some of Intel's."""
    lacks = device.type == "mps"
    if device.type == "xpu":
        lacks = not getattr(torch.xpu.get_device_properties(device), "has_fp64", True)
    return FusionDevice(CPU, "PyTorch has no float64 there.") if lacks else FusionDevice(device, "")


def fusion_device(
    requested: torch.device | str, field: FieldKind = "grid", progress: Progress = SILENT
) -> torch.device:
    """The device of `choose_fusion_device`, with a warning if it is not the requested one."""
    chosen = choose_fusion_device(requested, field, progress)
    if chosen.reason:
        logger.warning(
            "the fusion runs on the CPU (use the preset 'fast') instead of %s: %s",
            torch.device(requested),
            chosen.reason,
        )
    return chosen.device


def memory_budget_gib(requested: float, device: torch.device) -> float:
    """Memory budget of the grid on a device.

    Args:
        requested: `SdfFusionConfig.memory_gib`; 0: most of a GPU's free memory, 3 GiB on a CPU.
        device: device of the grid.
    """
    if requested > 0:
        return requested
    free = free_memory_bytes(device)
    if free is None:
        return CPU_MEMORY_GIB
    return max(FREE_MEMORY_FRACTION * free / GIB, MIN_MEMORY_GIB)
