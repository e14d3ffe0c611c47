"""DeepSpeed's ZeRO-2: weights are whole in every process, the optimiser's moments are split.

DeepSpeed keeps a float32 copy of its own of each weight, in one long row with the moments, and
hands single ones out by methods that it puts on the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .dtensor import is_sharded

MOMENTS = ("exp_avg", "exp_avg_sq")


def is_of_zero(weight: Tensor) -> bool:
    """Whether DeepSpeed holds the moments of this weight."""
    return getattr(weight, "_hp_mapping", None) is not None or hasattr(weight, "_dp_group")


def is_sharded_module(module: nn.Module) -> bool:
    """Whether each process holds only a part of the weights, or of their moments."""
    return any(is_sharded(weight) or is_of_zero(weight) for weight in module.parameters())


class Moment:
    """One moment of a weight, put together when it is asked for: by all processes at a time."""

    dtype = torch.float32

    def __init__(self, weight: nn.Parameter, kind: str):
        self._weight, self._kind = weight, kind
        self.shape = weight.shape

    def detach(self) -> Moment:
        """Itself; there is nothing to detach."""
        return self

    def full_tensor(self) -> Tensor:
        """All of it."""
        return self._weight.get_full_hp_param(self._kind)


def moments_of_zero(module: nn.Module, optimiser: Any) -> Iterator[tuple[str, Tensor | Moment]]:
    """The moments by kind and weight's name, and how many steps were taken for each weight."""
    steps = _steps(optimiser)
    _link(optimiser)
    for name, weight in module.named_parameters():
        if is_of_zero(weight):
            for kind in MOMENTS:
                yield f"{kind}.{name}", Moment(weight, kind)
            yield f"step.{name}", torch.tensor(float(steps))


def give_weights_to_zero(module: nn.Module) -> None:
    """Makes the weights as they are now the ones that DeepSpeed goes on from."""
    for weight in module.parameters():
        if is_of_zero(weight):
            weight.set_full_hp_param(weight.detach().float())


def give_moments_to_zero(module: nn.Module, optimiser: Any, named: dict[str, Tensor]) -> None:
    """Gives DeepSpeed the moments that `moments_of_zero` took."""
    plain, steps = _plain(optimiser), 0.0
    for group in plain.param_groups:
        for row in group["params"]:  # this process's part of all weights of a group
            empty = {kind: torch.zeros_like(row) for kind in MOMENTS}
            plain.state[row] = {"step": torch.tensor(0.0), **empty}
    _link(optimiser)
    for name, weight in module.named_parameters():
        if is_of_zero(weight):
            for kind in MOMENTS:
                weight.set_full_hp_param(named[f"{kind}.{name}"].to(weight.device), kind)
            steps = float(named[f"step.{name}"])
    for state in plain.state.values():
        state["step"] = torch.full_like(torch.as_tensor(state["step"]), steps)


def _steps(optimiser: Any) -> float:
    """Steps that the optimiser took."""
    taken = [float(state["step"]) for state in _plain(optimiser).state.values() if "step" in state]
    return max(taken, default=0.0)


def _link(optimiser: Any) -> None:
    """Lets the weights know where their moments lie.

    DeepSpeed does so in its first step, but when only the first group of weights has any.
    """
    while not hasattr(optimiser, "_hp_optimizer_states_linked"):
        optimiser = optimiser.optimizer
    optimiser._hp_optimizer_states_linked = False
    optimiser._lazy_init_hp_params_optimizer_state()


def _plain(optimiser: Any) -> torch.optim.Optimizer:
    """The torch optimiser inside DeepSpeed's and accelerate's."""
    while not isinstance(optimiser, torch.optim.AdamW):
        optimiser = optimiser.optimizer
    return optimiser
