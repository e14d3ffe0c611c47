"""Muon: AdamW with orthogonalised updates for matrices.

Where the number of steps limits a run, as on a CPU, it needs half as many as AdamW. Reference:
K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, with the update
scale of J. Liu et al., "Muon is scalable for LLM training", 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial a s + b s^3 + c s^5, which maps singular values in 0..1 close to 1."""
NEWTON_SCHULZ_STEPS = 5
"""Iterations of the polynomial; values above 0.01 end between 0.68 and 1.14."""
ADAMW_RMS = 0.2
"""RMS of AdamW's updates, to which orthogonalised updates are scaled."""
_EPS = 1e-7


class Muon(torch.optim.AdamW):
    """AdamW, except for groups with `"orthogonal": True`.

    Weights of such a group, flattened to matrices (out, in), are updated by the orthogonalised
    momentum of their gradient. Their state is one tensor, `momentum`.

    Args:
        groups: as for AdamW; `orthogonal` groups hold weights of two dimensions or more.
        momentum: of `orthogonal` groups, with Nesterov look-ahead.
        adamw: arguments of AdamW.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], momentum: float = 0.9, **adamw: Any):
        groups = [{"orthogonal": False, "momentum": momentum, **group} for group in groups]
        super().__init__(groups, **adamw)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # AdamW's own expects its state for every weight
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Performs one optimisation step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["orthogonal"]]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        return loss

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            momentum = state["momentum"].lerp_(weight.grad, 1.0 - group["momentum"])
            nesterov = weight.grad.lerp(momentum, group["momentum"]).flatten(1)  # (out, in)
            by_shape.setdefault(tuple(nesterov.shape), []).append((weight, nesterov))
        for shape, pairs in by_shape.items():  # batched products for all matrices of a shape
            updates = orthogonalise(torch.stack([update for _, update in pairs]))  # (n, out, in)
            scale = group["lr"] * ADAMW_RMS * max(shape) ** 0.5
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-scale)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximates the nearest orthogonal matrix U V^T of each U S V^T by Newton-Schulz iteration.

    Each iteration multiplies X by a polynomial P of X X^T, so all but the first and the last
    product are between square matrices of the shorter side: a third of the work for a 3x3
    convolution.

    Args:
        matrices: (n, out, in).

    Returns:
        (n, out, in) float32; directions with very small singular values stay small.
    """
    x = matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + _EPS)
    gram = x @ x.mT  # (n, m, m), m the shorter side
    factor = product = newton_schulz_polynomial(gram)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        gram = factor @ gram @ factor
        factor = newton_schulz_polynomial(gram)
        product = factor @ product
    x = product @ x
    return x.mT.contiguous() if tall else x


def newton_schulz_polynomial(gram: Tensor) -> Tensor:
    """a I + b A + c A^2 of symmetric matrices A (n, m, m)."""
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    factor = b * gram + c * (gram @ gram)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
