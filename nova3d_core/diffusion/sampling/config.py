"""Settings of multi-view sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ...checks import INTERNAL, check_between, check_bounds, check_choice
from ..families import GuidanceConfig

SamplerName = Literal["euler", "heun", "dpmpp_2m"]
SAMPLER_NAMES: tuple[str, ...] = get_args(SamplerName)
Framing = Literal["object", "image"]
FRAMINGS: tuple[str, ...] = get_args(Framing)


@dataclass(frozen=True)
class SampleConfig:
    """How views are sampled from a model."""

    seed: int = 0
    """Random seed; the same seed gives the same views on the same device."""
    steps: int | None = None
    """Denoising steps; the family's default if None."""
    sampler: SamplerName = "euler"
    """ODE solver: euler, as the authors of the models use; heun: two evaluations of the network per
    step; dpmpp_2m: second order with one. A family with a sampler of its own ignores it."""
    guidance: GuidanceConfig | None = None
    """Classifier-free guidance; the family's default if None."""
    size_px: int | None = None
    """Width and height of the views, usually a multiple of 64; the training size if None."""
    framing: Framing = "object"
    """object: crop the image to its object, at the size used in training; image: keep the image's
    own framing, padded to a square."""
    elevation_deg: float = 0.0
    """Elevation of the input image's camera, where no cameras are given; see `Family.orbit_axis`.
    SV3D p is conditioned on it; for the other models it only places the cameras, so that the
    surface is upright."""
    decode_chunk_size: int | None = None
    """Maximum number of images decoded together; as many as fit into memory if None."""
    memory_gib: float | None = None
    """Memory budget of activations, without the weights: limits the images decoded together, and on
    a GPU whether both passes of guidance run as one batch; most of the free memory if None."""
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
        check_choice("sampler", self.sampler, SAMPLER_NAMES)
        check_choice("framing", self.framing, FRAMINGS)
        low, high = self.guidance_interval
        check_between("sampling guidance_interval's start", low, 0.0, 1e12)
        if high != float("inf"):
            check_between("sampling guidance_interval's end", high, low, 1e12)
