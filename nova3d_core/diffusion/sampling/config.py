"""Settings of multi-view sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...checks import check_between, check_bounds
from ..families import GuidanceConfig


@dataclass(frozen=True)
class SampleConfig:
    """How views are sampled."""

    seed: int = 0
    """Start of the noise; the same seed repeats the views on the same device."""
    steps: int | None = None
    """Denoising steps; the family's own if None."""
    guidance: GuidanceConfig | None = None
    """How strongly views follow the image; the family's own if None."""
    size_px: int | None = None
    """Width and height, mostly a multiple of 64; the family's own if None."""
    elevation_deg: float = 0.0
    """Height of the orbit where no cameras are given. SV3D p is told of it; the others stay at the
    height from which the image was taken, whatever that was, and only their cameras have it."""
    decode_chunk_size: int | None = None
    """Images decoded together; as many as fit `memory_gib` if None."""
    memory_gib: float = 4.0
    """Memory that one decoding may take beside the weights; where a step of sampling fits too, both
    halves of its guidance run together on a GPU."""
    guidance_interval: tuple[float, float] = field(default=(0.0, float("inf")))
    """Noise levels between which guidance is used; outside, the pass without image is saved."""

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
        check_between("sampling guidance_cutoff's start", low, 0.0, 1e12)
        if high != float("inf"):  # no end
            check_between("sampling guidance_cutoff's end", high, low, 1e12)
