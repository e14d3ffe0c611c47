"""Cost estimates before a forward pass of LGM: activation memory, and time on a CPU."""

from __future__ import annotations

import math

import torch

from ..diffusion.sampling.cost import CPU_OVERHEAD, cpu_flops_per_second
from .config import VIEW_COUNT
from .network import Lgm

PEAK_VALUES_PER_PIXEL = 9.4
"""Peak number of live values per input pixel of all views and channel of the first level.

Counted on the meta device at full width in three dtypes: 9.39. The peak is in the first level.
"""
LARGEST_LAYER_FACTOR = 18
"""Weights of the largest layer over the square of the widest level: 3x3 from 2 widths to 1."""
PER_OBJECT_LAYERS = ("emb_layers", "time_embed")
"""Layers that run once per object, not at every pixel."""


def activation_bytes(network: Lgm, size_px: int, dtype: torch.dtype) -> int:
    """Peak activation memory of one forward pass for one object, without the weights.

    Linear in the number of pixels, since torch's attention kernels keep no attention matrix. The
    weights of the largest layer are added once, for their cast or for workspace.

    Args:
        network: of any size.
        size_px: width and height of the input.
        dtype: the compute dtype.
    """
    config = network.config
    pixels = VIEW_COUNT * size_px**2
    values = PEAK_VALUES_PER_PIXEL * config.down_widths[0] * pixels
    values += LARGEST_LAYER_FACTOR * max(*config.down_widths, *config.up_widths) ** 2
    return int(values * dtype.itemsize)


def forward_flops(network: Lgm, size_px: int) -> float:
    """FLOPs of one forward pass for one object; a multiply-add counts as two."""
    total = 0.0
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2 or any(part in name for part in PER_OBJECT_LAYERS):
            continue
        positions = VIEW_COUNT * (size_px / 2 ** _level(name, network)) ** 2
        total += 2.0 * parameter.numel() * positions
        if name.endswith("attn.proj.weight"):
            total += 4.0 * parameter.shape[0] * positions**2
    return total


def _level(name: str, network: Lgm) -> int:
    """Number of halvings before a layer, by the name of its weight."""
    config, words = network.config, name.split(".")
    deepest = len(config.down_widths) - 1
    if words[1] == "down_blocks":
        return int(words[2]) + (words[3] == "downsample")
    if words[1] == "up_blocks":
        return deepest - int(words[2]) - (words[3] == "upsample")
    if words[1] == "mid_block":
        return deepest
    return 0 if words[1] == "conv_in" else int(math.log2(config.stride))


def estimate_cpu_seconds(network: Lgm, size_px: int, dtype: torch.dtype) -> float:
    """Estimated seconds of one forward pass for one object, from a timed matrix product."""
    return CPU_OVERHEAD * forward_flops(network, size_px) / cpu_flops_per_second(dtype)
