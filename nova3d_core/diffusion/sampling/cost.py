"""Cost estimates before sampling: activation memory of the UNet, and time on a CPU."""

from __future__ import annotations

import time

import torch

from ..network.config import UNetConfig
from ..network.feedback_adapters import BLOCKS_PER_LEVEL
from ..network.token_transformer import TokenTransformer
from ..network.token_transformer_config import TokenTransformerConfig
from ..network.unet import VideoUNet
from ..network.unet_2d import MultiviewUNet2D
from ..network.unet_2d_config import UNet2DConfig

Network = VideoUNet | MultiviewUNet2D | TokenTransformer

PEAK_VALUES_PER_POSITION = 19.1
"""Peak number of live values per latent position and channel of the first level.

Counted on the meta device at full width (320 channels): 19.03 for 21 views of 72x72 and 32x32
latents, and for 16 views in two domains of 32x32, in float32 and bfloat16. The peak is in the MLP
of the first level's cross-view attention.
"""
PEAK_VALUES_PER_POSITION_2D = 20.1
"""The same for Wonder3D's 2D UNet: 20.03 for 6 views in two domains of 32x32, 64x64 and 96x96
latents. The peak is in the MLP of the first level."""
PEAK_VALUES_PER_POSITION_FEEDBACK = 20.8
"""The same for Ouroboros3D's UNet, which also holds the adapters' features: 19.23 in float32 and
20.63 in bfloat16, where rays stay in float32, for 8 views of 64x64 latents."""
PEAK_VALUES_PER_TOKEN = 11.4
"""The same for the token transformer, per token and channel: 11.3 for 16 views of 16x16 latents, in
float32 and bfloat16. The peak is in the MLP, whose hidden layer is held with its activation."""
LARGEST_LAYER_FACTOR = 288
"""Weights of the largest layer over `model_channels`^2: a 3x3 convolution from 8 to 4 widths."""
CPU_OVERHEAD = 1.5
"""Time of a forward pass over that of its FLOPs at the speed of a plain matrix product."""
PROBE_SHAPE = (256, 1280, 1280)


def activation_bytes(
    config: UNetConfig | UNet2DConfig | TokenTransformerConfig,
    objects: int,
    views: int,
    height: int,
    width: int,
    dtype: torch.dtype,
) -> int:
    """Peak activation memory of one forward pass, without the weights.

    Linear in the number of positions, since torch's attention kernels keep no attention matrix. The
    weights of the largest layer are added once, for their cast or for workspace.

    Args:
        config: the architecture.
        objects: B; doubled where both passes of guidance run as one batch.
        views: V.
        height: latent rows.
        width: latent columns.
        dtype: the compute dtype.
    """
    if isinstance(config, TokenTransformerConfig):
        values = _transformer_values(config, objects * views * height * width)
        return int(values * dtype.itemsize)
    positions = config.domains * objects * views * height * width
    per_position = PEAK_VALUES_PER_POSITION
    if isinstance(config, UNet2DConfig):
        per_position = PEAK_VALUES_PER_POSITION_2D
    elif config.feedback_factor:
        per_position = PEAK_VALUES_PER_POSITION_FEEDBACK
    values = per_position * config.model_channels * positions
    values += LARGEST_LAYER_FACTOR * config.model_channels**2
    return int(values * dtype.itemsize)


def _transformer_values(config: TokenTransformerConfig, positions: int) -> float:
    """Peak number of live values of the token transformer, for B V h w latent positions."""
    tokens = positions / config.patch_size**2 * config.tokens_per_patch
    patch = config.domains * positions * config.in_channels
    return PEAK_VALUES_PER_TOKEN * config.channels * tokens + patch


def forward_flops(unet: Network, views: int, height: int, width: int) -> float:
    """FLOPs of one forward pass for one object; a multiply-add counts as two."""
    config = unet.config
    if isinstance(config, TokenTransformerConfig):
        return _transformer_flops(unet, views, height, width)
    images = config.domains * views
    is_2d = isinstance(config, UNet2DConfig)
    levels = _level_function_2d(config) if is_2d else _level_function(config)
    total = 0.0
    for name, parameter in unet.named_parameters():
        if parameter.dim() < 2 or any(part in name for part in PER_IMAGE_LAYERS):
            continue
        level = levels(name)
        total += 2.0 * parameter.numel() * images * (height * width / 4**level)
        if name.endswith("to_q.weight") and ".attn2." not in name:
            positions = height * width / 4**level
            sequence = views if "time_stack" in name else positions
            sequence *= config.domains if "attn_align" in name or "attn_joint" in name else 1
            sequence *= views if is_2d and ".attn1." in name else 1
            total += 4.0 * parameter.shape[0] * images * positions * sequence
    return total


def _transformer_flops(network: TokenTransformer, views: int, height: int, width: int) -> float:
    """FLOPs of one forward pass of a token transformer."""
    config, patch = network.config, network.config.patch_size
    rows, columns = height // patch, width // patch
    patches = views * rows * columns
    tokens = patches * config.tokens_per_patch
    total = 0.0
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            continue
        count = tokens if name.startswith(("blocks.", "patch_embed.", "out.")) else views
        count = 1 if name.startswith(("time_embed.", "context_embed.")) else count
        count = config.domains * views if name.startswith("camera_task_emb.") else count
        count = patches if name.startswith("ray_embed.") else count
        total += 2.0 * parameter.numel() * count
    sequences = {"view": rows * columns, "row": views * columns, "full": patches}
    for index in range(config.depth):
        sequence = sequences[config.span(index)] * config.tokens_per_patch
        total += 4.0 * config.channels * tokens * sequence
    return total


PER_IMAGE_LAYERS = (
    "emb_layers",
    "time_emb",
    "label_emb",
    "class_embedding",
    "camera_task_emb",
    "time_pos",
    "attn2",
)
"""Layers that run once per image, not at every position."""


def _level_function(config: UNetConfig):
    """Returns a function from a parameter's name to its resolution level, 0 for the finest."""
    deepest = len(config.channel_mult) - 1

    def level(name: str) -> int:
        words = name.split(".")
        if words[0] == "input_blocks":
            return int(words[1]) // (config.num_res_blocks + 1)  # downsampling starts a level
        if words[0] == "output_blocks":
            index = deepest - int(words[1]) // (config.num_res_blocks + 1)
            # the convolution of an upsampling layer runs at the next finer level
            return index - 1 if words[-2] == "conv" else index
        if words[0] == "cond_encoder":
            return int(words[3]) // BLOCKS_PER_LEVEL if words[2] == "body" else 0
        if words[0] == "down_plucker":
            return int(words[1])
        if words[0] == "up_plucker":
            return deepest - int(words[1])
        return deepest if words[0] in ("middle_block", "mid_plucker") else 0

    return level


def _level_function_2d(config: UNet2DConfig):
    """The same for the names of the 2D UNet, which are diffusers'."""
    deepest = len(config.channel_mult) - 1

    def level(name: str) -> int:
        words = name.split(".")
        if words[0] == "down_blocks":
            return int(words[1]) + (words[2] == "downsamplers")
        if words[0] == "up_blocks":
            return deepest - int(words[1]) - (words[2] == "upsamplers")
        return deepest if words[0] == "mid_block" else 0

    return level


def estimate_cpu_seconds(
    unet: Network, views: int, height: int, width: int, dtype: torch.dtype
) -> float:
    """Estimated seconds of one forward pass for one object, from a timed matrix product."""
    flops = forward_flops(unet, views, height, width)
    return CPU_OVERHEAD * flops / cpu_flops_per_second(dtype)


def cpu_flops_per_second(dtype: torch.dtype) -> float:
    """Speed of this CPU in a plain matrix product, timed in some milliseconds."""
    rows, inner, columns = PROBE_SHAPE
    # ones, not random numbers: the global generator must keep its state
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    seconds = []
    for _ in range(4):  # the first run warms up; the minimum ignores other load
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return 2.0 * rows * inner * columns / max(min(seconds), 1e-9)
