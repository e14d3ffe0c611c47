"""What a sample costs before it is made: memory of the network's run, and time on a CPU."""

from __future__ import annotations

import time

import torch

from ..network.config import UNetConfig
from ..network.unet import VideoUNet

PEAK_VALUES_PER_POSITION = 19.1
"""Most numbers that are alive at once, for each place of a latent and channel of the first level.

Counted on the meta device, allocation by allocation, at full width (320 channels): 19.03 for
21 views of 72x72 and 32x32 latents, for 16 views in two domains of 32x32, in float32 and bfloat16.
The feed-forward network of the view attention at the first level holds them.
"""
LARGEST_LAYER_FACTOR = 288
"""Weights of the largest layer over squared channels: a 3x3 convolution from 8 to 4 widths."""
CPU_OVERHEAD = 1.5
"""How much longer a pass takes than its multiplications at the speed of a plain product."""
PROBE_SHAPE = (256, 1280, 1280)


def activation_bytes(
    config: UNetConfig, objects: int, views: int, height: int, width: int, dtype: torch.dtype
) -> int:
    """Memory that one pass of the network takes beside its weights.

    All of it grows with the number of places: attention by torch's kernels keeps no matrix of
    token pairs. The largest layer's weights are added once, for their cast or for workspace.

    Args:
        config: the network's shape.
        objects: B; twice as many where both halves of guidance run in one batch.
        views: V.
        height: latent rows.
        width: latent columns.
        dtype: what the network computes in.
    """
    places = config.domains * objects * views * height * width
    numbers = (
        PEAK_VALUES_PER_POSITION * config.model_channels * places
        + LARGEST_LAYER_FACTOR * config.model_channels**2
    )
    return int(numbers * dtype.itemsize)


def forward_flops(unet: VideoUNet, views: int, height: int, width: int) -> float:
    """Floating point operations of one pass for one object, a multiply-add as two."""
    config = unet.config
    images = config.domains * views
    levels = _level_of_weights(config)
    total = 0.0
    for name, parameter in unet.named_parameters():
        if parameter.dim() < 2 or any(part in name for part in PER_IMAGE_LAYERS):
            continue
        level = levels(name)
        total += 2.0 * parameter.numel() * images * (height * width / 4**level)
        if name.endswith("to_q.weight") and ".attn2." not in name:
            places = height * width / 4**level
            sequence = views if "time_stack" in name else places
            sequence *= config.domains if "attn_align" in name else 1
            total += 4.0 * parameter.shape[0] * images * places * sequence
    return total


PER_IMAGE_LAYERS = ("emb_layers", "time_embed", "label_emb", "camera_task_emb", "time_pos", "attn2")
"""Layers that run on one vector an image, not on every place of it."""


def _level_of_weights(config: UNetConfig):
    """A function from a parameter's name to its level, 0 the finest."""
    deepest = len(config.channel_mult) - 1

    def level(name: str) -> int:
        words = name.split(".")
        if words[0] == "input_blocks":
            return int(words[1]) // (config.num_res_blocks + 1)  # a downsampler opens its level
        if words[0] == "output_blocks":
            own = deepest - int(words[1]) // (config.num_res_blocks + 1)
            # an upsampler's convolution runs at the finer level that it leads to
            return own - 1 if words[-2] == "conv" else own
        return deepest if words[0] == "middle_block" else 0

    return level


def estimate_cpu_seconds(
    unet: VideoUNet, views: int, height: int, width: int, dtype: torch.dtype
) -> float:
    """About how long one pass for one object takes here, from a quick product of matrices."""
    rows, inner, columns = PROBE_SHAPE
    # no random numbers: the process's own generator stays as others seeded it
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    spent_s = []
    for _ in range(4):  # the first warms up, and others may be at work
        start = time.perf_counter()
        left @ right
        spent_s.append(time.perf_counter() - start)
    flops_a_second = 2.0 * rows * inner * columns / max(min(spent_s), 1e-9)
    return CPU_OVERHEAD * forward_flops(unet, views, height, width) / flops_a_second
