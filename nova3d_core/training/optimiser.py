"""AdamW or Muon, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .config import OptimiserConfig
from .muon import Muon


def scheduled_lr(config: OptimiserConfig, step: int) -> float:
    """Learning rate of a step: linear warm-up from 0, then constant or cosine."""
    warmup = min((step + 1) / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
    if config.lr_schedule == "constant":
        return config.learning_rate * warmup
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    minimum = config.min_lr_ratio
    return config.learning_rate * warmup * (minimum + (1.0 - minimum) * cosine)


def make_optimiser(module: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """The optimiser of a module's trainable weights; matrices decay, norms and biases do not."""
    trained = {name: w for name, w in module.named_parameters() if w.requires_grad}
    muon = config.name == "muon"
    hidden = {name: w for name, w in trained.items() if muon and _is_hidden(name, w)}
    rest = [weight for name, weight in trained.items() if name not in hidden]
    groups: list[dict[str, Any]] = [
        {"params": [w for w in rest if w.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [w for w in rest if w.dim() <= 1], "weight_decay": 0.0},
    ]
    defaults = {"lr": config.learning_rate, "betas": config.betas, "fused": _can_fuse(rest)}
    if not muon:
        return torch.optim.AdamW(groups, **defaults)
    groups.append(
        {
            "params": list(hidden.values()),
            "weight_decay": config.weight_decay,
            "orthogonal": True,
            "lr_ratio": config.muon_lr_ratio,
        }
    )
    return Muon(groups, config.betas[0], **defaults)


def _is_hidden(name: str, weight: nn.Parameter) -> bool:
    """Whether a weight is a hidden matrix: not a network's first or last layer, nor the encoder."""
    excluded = (
        "unet.input_blocks.0.",
        "unet.patch_embed.",
        "unet.out.",
        "encoder.",
        "conditioner.",
        "reconstruction.conv.",
        "reconstruction.unet.conv_in.",
        "reconstruction.unet.conv_out.",
    )
    return weight.dim() > 1 and not name.startswith(excluded)


def _can_fuse(weights: list[nn.Parameter]) -> bool | None:
    """Whether AdamW may be fused: on a GPU, and on the CPU from torch 2.4 on."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    device_types = {weight.device.type for weight in weights}
    cpu = device_types == {"cpu"} and version >= (2, 4)
    return True if device_types == {"cuda"} or cpu else None


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of all groups, each times its `lr_ratio`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("lr_ratio", 1.0)
