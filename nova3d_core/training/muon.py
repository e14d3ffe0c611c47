"""Muon: AdamW whose matrices take steps of equal size in all directions.

Where the number of steps is what limits a run, as on a CPU, it learns in half as many as AdamW.
Reference: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, with
the step size of J. Liu et al., "Muon is scalable for LLM training", 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial a s + b s^3 + c s^5, which brings singular values in 0..1 near 1."""
NEWTON_SCHULZ_STEPS = 5
"""How often it is applied: values from about 0.01 on end between 0.68 and 1.14."""
SCALE = 0.2
"""An orthogonal step of this size times the root of the longer side is as long as AdamW's."""
_EPS = 1e-7


class Muon(torch.optim.AdamW):
    """AdamW, but for the groups that say `"orthogonalise": True`.

    The weights of such a group, flattened to matrices (out, in), get the nearest orthogonal matrix
    of their averaged gradient instead. Their state is one tensor, `momentum`.

    Args:
        groups: as for AdamW; `orthogonalise` groups hold weights of two dimensions or more.
        momentum: decay of the orthogonal groups' averaged gradient, which is looked ahead of.
        adamw: arguments of AdamW.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], momentum: float = 0.9, **adamw: Any):
        said = [{"orthogonalise": False, "momentum": momentum, **group} for group in groups]
        super().__init__(said, **adamw)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # AdamW's own looks for its numbers in the state of every weight
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Takes one step with the gradients that the weights hold."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["orthogonalise"]]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonalise"]:
                self._orthogonal_step(group)
        return loss

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            average = state["momentum"].lerp_(weight.grad, 1.0 - group["momentum"])
            prefetch_batches = weight.grad.lerp(average, group["momentum"]).flatten(1)  # (out, in)
            alike.setdefault(tuple(prefetch_batches.shape), []).append((weight, prefetch_batches))
        for shape, pairs in alike.items():  # one chain of products for all matrices of a shape
            steps = orthogonalise(torch.stack([prefetch_batches for _, prefetch_batches in pairs]))  # (n, out, in)
            length = group["lr"] * SCALE * max(shape) ** 0.5
            for (weight, _), step in zip(pairs, steps, strict=True):
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.add_(step.view_as(weight), alpha=-length)


def orthogonalise(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each: U V^T of U S V^T.

    The polynomial of X is P X with P a polynomial of X X^T, so all but the first and the last
    product are between matrices of the shorter side: a third of the work for a 3x3 convolution.

    Args:
        matrices: (n, out, in).

    Returns:
        (n, out, in) float32; directions that a matrix hardly has stay small.
    """
    x = matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + _EPS)
    square = x @ x.mT  # (n, m, m), m the shorter side
    factor = product = polynomial(square)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        square = factor @ square @ factor
        factor = polynomial(square)
        product = factor @ product
    x = product @ x
    return x.mT.contiguous() if tall else x


def polynomial(square: Tensor) -> Tensor:
    """a I + b A + c A^2 of symmetric matrices A (n, m, m)."""
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    factor = b * square + c * (square @ square)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
