"""AdamW, its learning rate, and gradients that are not finite."""

from __future__ import annotations

import math

import torch
from torch import nn

from .config import OptimiserConfig


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """The learning rate of a step: grows from 0 in the warm-up, then stays or falls as a cosine."""
    warm = min((step + 1) / config.warm_up, 1.0) if config.warm_up else 1.0
    if config.curve == "constant":
        return config.learning_rate * warm
    share = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    falling = 0.5 * (1.0 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
    lowest = config.lowest_share
    return config.learning_rate * warm * (lowest + (1.0 - lowest) * falling)


def adamw(module: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW of the weights that are trained; matrices decay, norms and biases do not."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in trained if w.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [w for w in trained if w.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, fused=_can_fuse(trained)
    )


def _can_fuse(weights: list[nn.Parameter]) -> bool | None:
    """Whether one kernel may update all weights: on a GPU, and on the CPU from torch 2.4 on."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    kinds = {weight.device.type for weight in weights}
    return True if kinds == {"cuda"} or (kinds == {"cpu"} and version >= (2, 4)) else None


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate
