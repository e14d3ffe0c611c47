"""Settings of texture completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

CompletionMethod = Literal["resample", "sds_pixels", "sds_latents"]
COMPLETION_METHODS: tuple[str, ...] = get_args(CompletionMethod)


@dataclass(frozen=True)
class CompletionConfig:
    """How a model completes the unseen parts of a texture."""

    method: CompletionMethod = "resample"
    """resample: add noise to renders and denoise them, with the seen parts fixed (masked SDEdit);
    sds_pixels, sds_latents: score distillation on the texture, towards decoded images or through
    the gradient of the encoder, for models that take any camera angles."""
    orbits: int = 1
    """resample: number of orbits; each completes what those before it left."""
    steps: int = 20
    """resample: denoising steps per orbit."""
    start_noise: float = 8.0
    """resample: noise level at the start; higher values keep less of the present texture."""
    iterations: int = 200
    """sds: optimisation steps of the texture."""
    seed: int = 0
    """Random seed of orbits and noise."""
    size_px: int | None = None
    """Width and height of the generated images; the model's training size if None."""
    memory_gib: float | None = None
    """Memory budget of activations, without the weights; most of the free memory if None."""

    def __post_init__(self):
        check_choice("completion method", self.method, COMPLETION_METHODS)
        check_bounds(
            self,
            "completion",
            orbits=(1, 16),
            steps=(1, 1000),
            start_noise=(0.1, 500.0),
            iterations=(1, 100_000),
            seed=(0, 2**64 - 1),
            size_px=(64, 2048),
            memory_gib=(0.1, 1e6),
        )
