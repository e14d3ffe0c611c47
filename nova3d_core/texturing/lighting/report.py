"""Report of a removal of light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...wording import sentence_case
from .spherical_gaussians import SphericalGaussians


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
            "their shading is baked into the texture or weak, or its light moves. The views are "
            "unchanged; a gate of 0 removes it nevertheless."
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

    def to_text(self) -> str:
        """The report as text, with one line per lobe, brightest first."""
        lines = [
            sentence_case(self.reason),
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
