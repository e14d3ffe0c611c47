"""AdamW or Muon, and their learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .config import OptimiserConfig
from .muon import Muon


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """The learning rate of a step: grows from 0 in the warm-up, then stays or falls as a cosine."""
    warm = min((step + 1) / config.warm_up, 1.0) if config.warm_up else 1.0
    if config.curve == "constant":
        return config.learning_rate * warm
    share = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    falling = 0.5 * (1.0 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
    lowest = config.min_lr_ratio
    return config.learning_rate * warm * (lowest + (1.0 - lowest) * falling)


def make_optimiser(module: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """The optimiser of the weights that are trained; matrices decay, norms and biases do not."""
    trained = {name: w for name, w in module.named_parameters() if w.requires_grad}
    muon = config.method == "muon"
    hidden = {name: w for name, w in trained.items() if muon and _is_hidden(name, w)}
    rest = [weight for name, weight in trained.items() if name not in hidden]
    groups: list[dict[str, Any]] = [
        {"params": [w for w in rest if w.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [w for w in rest if w.dim() <= 1], "weight_decay": 0.0},
    ]
    said = {"lr": config.learning_rate, "betas": config.betas, "fused": _can_fuse(rest)}
    if not muon:
        return torch.optim.AdamW(groups, **said)
    groups.append(
        {
            "params": list(hidden.values()),
            "weight_decay": config.weight_decay,
            "orthogonal": True,
            "lr_ratio": config.muon_lr_ratio,
        }
    )
    return Muon(groups, config.betas[0], **said)


def _is_hidden(name: str, weight: nn.Parameter) -> bool:
    """Whether a weight lies between layers: neither end of the UNet, and not the encoder, whose
    numbers are few or mean something by themselves."""
    ends = ("unet.input_blocks.0.", "unet.out.", "encoder.")
    return weight.dim() > 1 and not name.startswith(ends)


def _can_fuse(weights: list[nn.Parameter]) -> bool | None:
    """Whether one kernel may update all weights: on a GPU, and on the CPU from torch 2.4 on."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    kinds = {weight.device.type for weight in weights}
    return True if kinds == {"cuda"} or (kinds == {"cpu"} and version >= (2, 4)) else None


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of all groups, each to its share of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("lr_ratio", 1.0)
