"""Parameters of splats during an optimisation, with their Adam moments."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..splats import Splats

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-15
LEARNING_RATES = MappingProxyType(
    {
        "positions": (2e-3, 2e-4),
        "log_scales": (0.1, 0.01),
        "rotations": (0.1, 0.01),
        "opacity_logits": (0.1, 0.01),
        "colours": (0.01, 0.001),
    }
)
"""Learning rates at the start and at the end, exponential in between; positions relative to the
longest side of the object."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copy of all parameters and moments."""

    tensors: tuple[dict[str, Tensor], ...]
    steps: int


class SplatParameters:
    """Unconstrained parameters of N splats and their Adam moments.

    Args:
        splats: initial values.
        device: of the optimisation.
    """

    def __init__(self, splats: Splats, device: torch.device):
        values = {
            "positions": splats.positions,
            "log_scales": splats.scales.log(),
            "rotations": splats.rotations,
            "opacity_logits": torch.logit(splats.opacities, eps=1e-6),
            "colours": splats.colours,
        }
        self.values = {
            name: value.detach().to(device).clone().requires_grad_()
            for name, value in values.items()
        }
        self.first = {name: torch.zeros_like(value) for name, value in self.values.items()}
        """First moments of the gradients."""
        self.second = {name: torch.zeros_like(value) for name, value in self.values.items()}
        """Second moments of the gradients."""
        self.steps = 0

    def __len__(self) -> int:
        return len(self.values["positions"])

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def step(self, done: float) -> None:
        """One step of Adam with the gradients of the parameters, which are cleared.

        Args:
            done: fraction of all steps, for the learning rates.
        """
        self.steps += 1
        beta1, beta2 = ADAM_BETAS
        correction = (1.0 - beta2**self.steps) ** 0.5 / (1.0 - beta1**self.steps)
        with torch.no_grad():
            for name, value in self.values.items():
                start, end = LEARNING_RATES[name]
                rate = start * (end / start) ** done
                first, second, gradient = self.first[name], self.second[name], value.grad
                first.lerp_(gradient, 1.0 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
                value.addcdiv_(first, second.sqrt().add_(ADAM_EPS), value=-rate * correction)
                value.grad = None

    def keep(self, kept: Tensor) -> None:
        """Removes splats; the others keep their moments.

        Args:
            kept: (N,) bool.
        """
        self.values = {
            name: value.detach()[kept].requires_grad_() for name, value in self.values.items()
        }
        self.first = {name: value[kept] for name, value in self.first.items()}
        self.second = {name: value[kept] for name, value in self.second.items()}

    def snapshot(self) -> Snapshot:
        """A copy of parameters and moments."""
        parts = (self.values, self.first, self.second)
        copies = tuple({name: t.detach().clone() for name, t in part.items()} for part in parts)
        return Snapshot(copies, self.steps)

    def restore(self, snapshot: Snapshot) -> None:
        """Returns to a snapshot, which may be restored again."""
        values, first, second = (
            {name: t.clone() for name, t in part.items()} for part in snapshot.tensors
        )
        self.values = {name: value.requires_grad_() for name, value in values.items()}
        self.first, self.second, self.steps = first, second, snapshot.steps

    def splats(self) -> Splats:
        """The splats on the CPU, colours limited to 0..1.

        Raises:
            InputError: parameters are NaN or infinite.
        """
        given = {name: value.detach().cpu() for name, value in self.values.items()}
        return Splats(
            positions=given["positions"],
            scales=given["log_scales"].exp(),
            rotations=given["rotations"],
            opacities=given["opacity_logits"].sigmoid(),
            colours=given["colours"].clamp(0.0, 1.0),
        )

    def is_finite(self) -> bool:
        """Whether no parameter is NaN or infinite."""
        return all(bool(value.isfinite().all()) for value in self.values.values())
