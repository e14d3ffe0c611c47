"""Settings of added and estimated normals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

NormalFlip = Literal["none", "red", "green", "red and green"]
"""Channels of a normal map that are inverted before it is decoded."""
NORMAL_FLIPS: tuple[str, ...] = get_args(NormalFlip)

FLIPPED_CHANNELS: dict[str, frozenset[str]] = {
    flip: frozenset(channel for channel in ("red", "green") if channel in flip)
    for flip in NORMAL_FLIPS
}
"""Names of the channels that each flip inverts."""

EstimatorName = Literal["marigold", "normalcrafter"]
ESTIMATOR_NAMES: tuple[str, ...] = get_args(EstimatorName)

WindowKind = Literal["overlapping", "all views"]
WINDOW_KINDS: tuple[str, ...] = get_args(WindowKind)


@dataclass(frozen=True)
class EstimateConfig:
    """How normals are estimated from the colours of views."""

    seed: int = 0
    """Marigold: random seed of the start noise, which all views share."""
    steps: int = 4
    """Marigold: denoising steps, 1 to 4 for version 1.1."""
    chunk_size: int = 4
    """Marigold: number of views processed together."""
    window: WindowKind = "overlapping"
    """NormalCrafter: overlapping windows of 14 views, as its authors use; or all views in one."""

    def __post_init__(self):
        check_bounds(self, "estimate", seed=(0, 2**64 - 1), steps=(1, 1000), chunk_size=(1, 4096))
        check_choice("estimate window", self.window, WINDOW_KINDS)
