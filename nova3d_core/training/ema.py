"""A moving average of the weights, which samples better than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .dtensor import reshard_all, local_shard, shard_like


class Ema:
    """The average of a module's trained weights over the steps of a run.

    Kept in float32 beside the weights, on their device. Where weights are split over processes
    (FSDP2), each process keeps and averages its own part.

    Args:
        module: whose weights that are trained are followed.
        decay: how much of the average stays at each update, once there were many.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self._module = module
        self._followed = {
            name: weight for name, weight in module.named_parameters() if weight.requires_grad
        }
        self.weights: dict[str, Tensor] = {
            name: weight.detach().float().clone() for name, weight in self._followed.items()
        }

    def current_decay(self) -> float:
        """The decay of the next update: (1 + n) / (10 + n) at first, so that short runs forget
        their beginning."""
        return min(self.decay, (1.0 + self.updates) / (10.0 + self.updates))

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights of one more step in: average += (1 - decay) (weight - average)."""
        decay = self.current_decay()
        averages = [local_shard(average) for average in self.weights.values()]
        weights = [local_shard(weight.detach()) for weight in self._followed.values()]
        if any(weight.dtype != torch.float32 for weight in weights):
            weights = [weight.float() for weight in weights]
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
        self.updates += 1

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """The module computes with the average inside, and has its own weights back afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weight in self._followed.items():
            here, average = local_shard(weight.detach()), local_shard(self.weights[name])
            own = here.clone()
            here.copy_(average)
            average.copy_(own)
        reshard_all(self._module)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Goes on from a checkpoint's average, which must have the same names."""
        for name, average in self.weights.items():
            local_shard(average).copy_(local_shard(shard_like(weights[name], average)))
        self.updates = updates
