"""Backbone weights and images from exact integer arithmetic: the same on every machine."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nova3d_core.perceptual.backbones import BACKBONES


def hashed(shape: tuple[int, ...], seed: int) -> Tensor:
    """Values in -1..1 that look random: a hash of their index (Wang's 32-bit mix)."""
    value = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(seed * 1_000_003)
    mask = np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value = ((value ^ (value >> np.uint64(shift))) * np.uint64(factor)) & mask
    value ^= value >> np.uint64(16)
    unit = value.astype(np.float64) / float(0xFFFFFFFF)
    return torch.from_numpy((2.0 * unit - 1.0).astype(np.float32)).reshape(shape)


def backbone_weights(net: str, recognisable: bool = True) -> dict[str, Tensor]:
    """Weights of a backbone that keep the variance of features, by keys such as "0.weight".

    Args:
        net: vgg or alex.
        recognisable: give the checked values those of the ImageNet weights.
    """
    backbone = BACKBONES[net]
    weights = {}
    for seed, (key, shape) in enumerate(backbone.shapes().items(), 1):
        bound = 0.1 if len(shape) == 1 else math.sqrt(6.0 / math.prod(shape[1:]))
        weights[key] = bound * hashed(shape, seed)
    if recognisable:
        values = torch.tensor(backbone.checked_values)
        weights[backbone.checked_key].view(-1)[: len(values)] = values
    return weights


def image(height: int, width: int, seed: int) -> Tensor:
    """(H, W, 3) in 0..1: smooth colours and noise."""
    small = hashed((1, 3, 5, 6), seed)
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")[0]
    return (0.5 + 0.35 * smooth + 0.15 * hashed((3, height, width), seed + 1)).movedim(0, -1)
