"""Warp implementation of the plane sweep; `torch_impl.py` has the same function in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...compute.warp_backend import as_warp, launch
from . import sweep_kernels
from .patches import StereoPatches


def sweep_scores(
    images: Tensor,
    depth_z: Tensor,
    patches: StereoPatches,
    offsets: Tensor,
    max_step: float,
    perspective: bool,
) -> Tensor:
    """(M, D) score of each patch at each depth; see `torch_impl.sweep_scores`."""
    scores = torch.empty(len(patches) * len(offsets), device=images.device)
    arrays = {
        "images": images,
        "depth_z": depth_z,
        "patches": patches.pixel.int(),
        "neighbours": patches.neighbours.int().reshape(-1),
        "origin": patches.origin.reshape(-1, 3),
        "axis": patches.axis.reshape(-1, 3),
        "column_step": patches.column_step.reshape(-1, 3),
        "row_step": patches.row_step.reshape(-1, 3),
        "offsets": offsets,
    }
    arrays = {name: each.contiguous() for name, each in arrays.items()}  # alive during the launch
    arguments = sweep_kernels.Sweep()
    for name, each in arrays.items():
        setattr(arguments, name, as_warp(each))
    arguments.num_neighbours = patches.neighbours.shape[1]
    arguments.max_step, arguments.perspective = max_step, int(perspective)
    launch(sweep_kernels.sweep, len(patches), [arguments, scores], images.device)
    return scores.view(len(patches), len(offsets))
