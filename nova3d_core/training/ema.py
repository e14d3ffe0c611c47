"""Exponential moving average (EMA) of the weights, which samples better than the weights.

Like diffusers' EMAModel, but it averages local shards under FSDP2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .dtensor import local_shard, reshard_all, shard_like


class Ema:
    """EMA of a module's trainable weights.

    In float32, on the device of the weights. Under FSDP2 each process averages its own shards.

    Args:
        module: its trainable weights are averaged.
        decay: final decay; see `current_decay`.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self._module = module
        self._trained = {
            name: weight for name, weight in module.named_parameters() if weight.requires_grad
        }
        self.weights: dict[str, Tensor] = {
            name: weight.detach().float().clone() for name, weight in self._trained.items()
        }

    def current_decay(self) -> float:
        """Decay of the next update, min(decay, (1 + n) / (10 + n)), so that short runs forget
        their initial weights."""
        return min(self.decay, (1.0 + self.updates) / (10.0 + self.updates))

    @torch.no_grad()
    def update(self) -> None:
        """ema += (1 - decay) (weight - ema)."""
        decay = self.current_decay()
        averages = [local_shard(average) for average in self.weights.values()]
        weights = [local_shard(weight.detach()) for weight in self._trained.values()]
        if any(weight.dtype != torch.float32 for weight in weights):
            weights = [weight.float() for weight in weights]
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
        self.updates += 1

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Context in which the module has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._trained.items():
            current, average = local_shard(weight.detach()), local_shard(self.weights[name])
            backup = current.clone()
            current.copy_(average)
            average.copy_(backup)
        reshard_all(self._module)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Loads the EMA of a checkpoint, which must have the same names."""
        for name, average in self.weights.items():
            local_shard(average).copy_(local_shard(shard_like(weights[name], average)))
        self.updates = updates
