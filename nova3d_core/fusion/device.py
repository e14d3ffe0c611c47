"""Where a fusion runs, and how much memory its grid may take there."""

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
FREE_SHARE = 0.8
"""Of a GPU's free memory, the grid's memory budget there."""
LEAST_MEMORY_GIB = 0.5


class FusionDevice(NamedTuple):
    """Where a fusion runs."""

    device: torch.device
    """With its index."""
    reason: str
    """Why it is not the requested one; empty if it is."""


def choose_fusion_device(
    requested: torch.device | str, field: FieldKind = "grid", progress: Progress = SILENT
) -> FusionDevice:
    """The requested device, or the CPU if the field runs fast there only.

    The grid in warp takes about half a minute on two CPU cores. Its plain PyTorch twin launches
    thousands of small kernels a step, so it would take many minutes on a GPU: it is left to
    machines where warp runs nowhere. The hash grid is plain PyTorch. Neither of these two runs on
    a GPU without float64, which the cameras need.

    Args:
        requested: a device of this machine.
        field: "grid" or "hashgrid".
        progress: told while kernels compile.
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
    """The same, with a warning if it is not the requested device."""
    chosen = choose_fusion_device(requested, field, progress)
    if chosen.reason:
        logger.warning(
            "the fusion runs on the CPU, for which the preset 'fast' is made, and not on %s: %s",
            torch.device(requested),
            chosen.reason,
        )
    return chosen.device


def memory_budget_gib(wanted: float, device: torch.device) -> float:
    """What a grid may take on a device.

    Args:
        wanted: the setting; 0 takes most of a GPU's free memory, or 3 GiB on a CPU.
        device: where the grid will be.
    """
    if wanted > 0:
        return wanted
    free = free_memory_bytes(device)
    if free is None:
        return CPU_MEMORY_GIB
    return max(FREE_SHARE * free / GIB, LEAST_MEMORY_GIB)
