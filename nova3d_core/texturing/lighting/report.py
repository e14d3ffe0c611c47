"""Report and images of a removal of light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...io.images.srgb import srgb_from_linear
from .spherical_gaussians import SphericalGaussians

if TYPE_CHECKING:
    from .unlight import Unlit

WHITE_QUANTILE = 0.99
"""Quantile of the shading, or of the radiance, that is shown as white."""
MAX_QUANTILE_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class UnlightReport:
    """What was found about the light, and whether it was removed."""

    spread: float
    """Standard deviation of the shading over its mean, on the surface that the views see."""
    evidence: float
    """By how many nats the light lowers the entropy of the colours of the surface."""
    gate: float
    """Spread below which nothing is removed."""
    strength: float
    """Fraction of the shading that was to be removed."""
    is_applied: bool
    """Whether the views were changed."""
    points: int
    """Number of surface points that the light was fitted to."""
    contradiction: float
    """Median spread of a point's log brightness among the views."""
    light: SphericalGaussians
    """The lobes, with a mean shading of 1."""

    @property
    def reason(self) -> str:
        """One sentence: what was done to the views, and why."""
        if self.is_applied:
            return (
                f"the shading varies by {self.spread:.0%} over the surface: {self.strength:.0%} of "
                "it was removed."
            )
        if self.strength == 0.0:
            return "the strength is 0: the views are unchanged."
        if self.spread < self.gate:
            return (
                f"the shading varies by {self.spread:.0%} over the surface, less than the gate of "
                f"{self.gate:.0%}: the views count as unlit and are unchanged."
            )
        return (
            f"no light explains the colours of all materials (evidence {self.evidence:.2f} nats): "
            "their shading is painted, or its light moves. The views are unchanged; a gate of 0 "
            "removes it nevertheless."
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain containers."""
        return {
            "is_applied": self.is_applied,
            "spread": self.spread,
            "evidence": self.evidence,
            "gate": self.gate,
            "strength": self.strength,
            "points": self.points,
            "contradiction": self.contradiction,
            "lobes": [
                {"axis": axis, "sharpness": sharpness, "amplitude": amplitude}
                for axis, sharpness, amplitude in zip(
                    self.light.axes.tolist(),
                    self.light.sharpness.tolist(),
                    self.light.amplitude.tolist(),
                    strict=True,
                )
            ],
        }

    def text(self) -> str:
        """The report as text, with one line per lobe, brightest first."""
        lines = [
            self.reason[0].upper() + self.reason[1:],
            f"Evidence for a light: {self.evidence:.2f} nats.",
            f"{len(self.light)} spherical Gaussians fitted to {self.points} surface points; the "
            f"views differ by {self.contradiction:.0%} at the same point.",
            "  axis x     y     z  sharpness  amplitude",
        ]
        for lobe in self.light.amplitude.argsort(descending=True).tolist():
            x, y, z = self.light.axes[lobe].tolist()
            lines.append(
                f"  {x:6.2f}{y:6.2f}{z:6.2f}  {float(self.light.sharpness[lobe]):9.2f}"
                f"  {float(self.light.amplitude[lobe]):9.3f}"
            )
        return "\n".join(lines) + "\n"


def shading_images(unlit: Unlit) -> Tensor:
    """(V, H, W, 3) sRGB greyscale images of the shading on white; 99 % of it is below white."""
    shading, masks = unlit.shading, unlit.masks
    values = shading[masks > 0.5]
    white = _white_level(values) if len(values) else 1.0
    grey = _srgb(shading / white)
    return (grey * masks + 1.0 - masks)[..., None].repeat(1, 1, 1, 3)


def light_image(light: SphericalGaussians, width: int = 256, height: int = 128) -> Tensor:
    """(1, H, W, 3) sRGB greyscale environment map, its 99 % quantile white."""
    radiance = light.environment_map(width, height)
    return _srgb(radiance / _white_level(radiance.flatten()))[None, ..., None].repeat(1, 1, 1, 3)


def _white_level(values: Tensor) -> float:
    """A high quantile of values (N,), at least a small number."""
    step = -(-len(values) // MAX_QUANTILE_VALUES)
    return max(float(torch.quantile(values[::step], WHITE_QUANTILE)), 1e-6)


def _srgb(linear: Tensor) -> Tensor:
    return torch.from_numpy(srgb_from_linear(linear.numpy())).float()
