"""Settings of splat fitting and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

Perceptual = Literal["aligned", "lpips", "none"]
PERCEPTUAL_CHOICES: tuple[str, ...] = get_args(Perceptual)
SplatInit = Literal["auto", "surface", "hull"]
SPLAT_INITS: tuple[str, ...] = get_args(SplatInit)
SplatPreset = Literal["fast", "quality"]
SPLAT_PRESETS: tuple[str, ...] = get_args(SplatPreset)
_COUNTS: dict[str, tuple[int, int]] = {"fast": (20_000, 600), "quality": (60_000, 2_000)}
"""Splats and steps of each preset."""


@dataclass(frozen=True)
class SplatFitConfig:
    """Settings of fitting Gaussian splats to views."""

    preset: SplatPreset = "fast"
    """fast: for CPUs, about a minute on two cores; quality: for GPUs."""
    count: int = 0
    """Number of splats at the start; 0: 20,000 (fast) or 60,000 (quality)."""
    steps: int = 0
    """Optimisation steps of one view each; 0: 600 (fast) or 2,000 (quality)."""
    init: SplatInit = "auto"
    """Initial splats. surface: on a surface that is fused from the views first, which the fit stays
    close to; hull: on the visual hull; auto: surface if the views have normals, else hull."""
    perceptual: Perceptual = "aligned"
    """Treatment of views that contradict each other. aligned: they are warped smoothly by some
    pixels in the second half, if they contradict each other; lpips: the loss includes LPIPS, which
    needs a file with the weights of its backbone; none: L1 and SSIM only."""
    match_exposure: bool = True
    """Fit a gain per colour channel to each view but the first, if their exposures differ."""
    refine_poses: bool = False
    """Refine the cameras by a fusion first, for views whose poses are not exact."""
    memory_gib: float = 0.0
    """Memory limit in GiB; 0: what is free."""
    seed: int = 0
    """Seed of the random points and of the order of the views; the same seed gives the same splats,
    bit for bit on a CPU."""

    def __post_init__(self):
        check_choice("splat preset", self.preset, SPLAT_PRESETS)
        check_choice("splat init", self.init, SPLAT_INITS)
        check_choice("splat perceptual loss", self.perceptual, PERCEPTUAL_CHOICES)
        check_bounds(
            self,
            "splat",
            count=(0, 10_000_000),
            steps=(0, 100_000),
            memory_gib=(0.0, 1e6),
            seed=(0, 2**63 - 1),
        )

    def complete(self) -> SplatFitConfig:
        """The same settings with the preset's values instead of zeros."""
        count, steps = _COUNTS[self.preset]
        return replace(self, count=self.count or count, steps=self.steps or steps)
