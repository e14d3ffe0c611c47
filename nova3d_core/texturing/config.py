"""Settings of texture baking, refinement and removal of light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..checks import INTERNAL, check_bounds, check_choice
from ..errors import InputError


@dataclass(frozen=True)
class BakeConfig:
    """How the views are blended into a texture."""

    texture_px: int = 1024
    """Width and height of the texture in texels."""
    sharpen: bool = True
    """Compensate for the blur of pixel averaging, so that the baked mesh renders as sharp as the
    views."""
    exposure: bool = True
    """Estimate and undo per-view gains of the colour channels, relative to view 0."""
    consistency: bool = True
    """Blend only views whose colours agree at a texel."""
    min_cosine: float = field(default=0.1, metadata=INTERNAL)
    """Views with a smaller cosine between surface normal and viewing direction are ignored."""
    consistency_tolerance: float = field(default=0.05, metadata=INTERNAL)
    """Colours within this distance of each other agree fully."""
    consistency_limit: float = field(default=0.15, metadata=INTERNAL)
    """Colours beyond this distance of each other do not agree at all."""
    reference_view_votes: float = field(default=3.0, metadata=INTERNAL)
    """Number of votes of view 0, the input image, where views disagree; other views have one."""

    def __post_init__(self):
        check_bounds(
            self,
            "bake",
            texture_px=(16, 16_384),
            min_cosine=(0.0, 1.0 - 1e-9),
            consistency_tolerance=(0.0, 2.0),
            consistency_limit=(0.0, 2.0),
            reference_view_votes=(1e-6, 1000.0),
        )
        if not self.consistency_tolerance < self.consistency_limit:
            raise InputError(
                f"consistency_tolerance is {self.consistency_tolerance}, expected 0 up to "
                f"consistency_limit ({self.consistency_limit})."
            )


TextureLoss = Literal["aligned", "lpips", "none"]
TEXTURE_LOSSES: tuple[str, ...] = get_args(TextureLoss)


@dataclass(frozen=True)
class RefineConfig:
    """How a texture is refined by the views."""

    steps: int = 96
    """Optimisation steps of one view each; 0: only align the views and bake again."""
    perceptual: TextureLoss = "aligned"
    """What makes up for views that contradict each other. aligned: they are moved by smooth warps
    of some pixels, only if that explains the contradictions; lpips: also a perceptual loss, with a
    backbone file at hand; none: nothing."""

    def __post_init__(self):
        check_choice("refine perceptual", self.perceptual, TEXTURE_LOSSES)
        check_bounds(self, "refine", steps=(0, 100_000))
        if self.perceptual == "lpips" and self.steps == 0:
            raise InputError(
                "the loss lpips needs steps, but steps is 0.",
                "Use some steps, or perceptual aligned to only move the views.",
            )


@dataclass(frozen=True)
class UnlightConfig:
    """How the light is estimated and removed from views."""

    strength: float = 1.0
    """Fraction of the shading to remove: 0 for none of it, 1 for all."""
    gate: float = 0.15
    """Spread of the shading, its standard deviation over its mean, below which the views count as
    unlit and stay as they are; 0: always remove the light."""
    lobes: int = field(default=24, metadata=INTERNAL)
    """Number of spherical Gaussians of the light."""
    illum: float = field(default=0.1, metadata=INTERNAL)
    """Weight of L_illum, which draws the shading towards the brightness of the views."""
    smooth: float = field(default=0.1, metadata=INTERNAL)
    """Weight of L_albedo, the difference of the albedo at neighbouring points."""
    parsimony_steps: int = field(default=150, metadata=INTERNAL)
    """Steps that make the albedo have few distinct colours; 0: the method of SV3D alone."""
    points: int = field(default=6_000, metadata=INTERNAL)
    """Points on the surface."""
    steps: int = field(default=250, metadata=INTERNAL)
    """Steps of the fit of light and albedo."""
    seed: int = field(default=0, metadata=INTERNAL)
    """Of the points."""

    def __post_init__(self):
        check_bounds(
            self,
            "unlight",
            strength=(0.0, 1.0),
            gate=(0.0, 1.0),
            lobes=(1, 256),
            illum=(0.0, 1000.0),
            smooth=(0.0, 1000.0),
            parsimony_steps=(0, 100_000),
            points=(100, 1_000_000),
            steps=(1, 100_000),
            seed=(0, 2**32 - 1),
        )
