"""Settings of multi-view sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...checks import INTERNAL, check_between, check_bounds
from ..families import GuidanceConfig


@dataclass(frozen=True)
class SampleConfig:
    """How views are sampled from a model."""

    seed: int = 0
    """Random seed; the same seed gives the same views on the same device."""
    steps: int | None = None
    """Denoising steps; the family's default if None."""
    guidance: GuidanceConfig | None = None
    """Classifier-free guidance; the family's default if None."""
    size_px: int | None = None
    """Width and height of the views, usually a multiple of 64; the training size if None."""
    elevation_deg: float = 0.0
    """Elevation of the orbit where no cameras are given. SV3D p is conditioned on it; other models
    keep the elevation of the input image, and only their cameras are placed at this one."""
    decode_chunk_size: int | None = None
    """Images decoded together; as many as fit into `memory_gib` if None."""
    memory_gib: float = 4.0
    """Memory budget of activations, without the weights: limits the images decoded together, and on
    a GPU whether both passes of guidance run as one batch."""
    guidance_interval: tuple[float, float] = field(default=(0.0, float("inf")), metadata=INTERNAL)
    """Noise levels between which guidance is applied; outside, a step takes one pass."""

    def __post_init__(self):
        check_bounds(
            self,
            "sampling",
            seed=(0, 2**64 - 1),
            steps=(1, 1000),
            size_px=(64, 2048),
            elevation_deg=(-90.0, 90.0),
            decode_chunk_size=(1, 4096),
            memory_gib=(0.1, 1e6),
        )
        low, high = self.guidance_interval
        check_between("sampling guidance_interval's start", low, 0.0, 1e12)
        if high != float("inf"):
            check_between("sampling guidance_interval's end", high, low, 1e12)
