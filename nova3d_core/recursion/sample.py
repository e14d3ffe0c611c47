"""Recursive sampling: from one image to views and splats that agree (Ouroboros3D)."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import Cameras, cameras_from_orbit
from ..cameras.orbits import preset_orbit
from ..cameras.rotations import matrix_to_quaternion, multiply_quaternions
from ..diffusion.model import Placement
from ..diffusion.sampling.config import SampleConfig
from ..diffusion.sampling.pipeline import (
    ENCODING,
    Sample,
    check_size_px,
    draw_noise_inputs,
    make_conditioning,
    sample_latents,
)
from ..diffusion.sampling.postprocess import views_from_samples
from ..diffusion.sampling.preprocess import preprocess_image
from ..diffusion.sampling.process import sampling_process
from ..diffusion.sampling.trajectory import plan_trajectory
from ..errors import StageError
from ..progress import SILENT, Progress
from ..reconstruction.config import MIN_OPACITY
from ..splats import Splats
from ..wording import counted
from .config import RecursionConfig
from .feedback import (
    FeedbackLoop,
    Reconstruct,
    StepResult,
    initial_feedback,
    network_reconstruction,
    reconstruction_views,
)
from .model import RecursiveModel, RecursiveOnDevice

logger = logging.getLogger(__name__)

STAGE = "reconstructing splats"


@dataclass(frozen=True)
class RecursionReport:
    """Statistics of a recursive sample."""

    model: str
    """Display name of the model."""
    steps: int
    """Evaluations of the network."""
    feedback: str
    """What was fed back."""
    reconstructions: int
    """Number of reconstructions."""
    count: int
    """Number of splats."""
    removed: int
    """Splats that were removed because they are nearly transparent."""
    agreement_db: float
    """PSNR of the splats' renders against the generated views."""

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return asdict(self)

    def to_text(self) -> str:
        """The report in lines that fit ComfyUI's Preview as Text."""
        removed = f", {self.removed} transparent ones removed" if self.removed else ""
        lines = [
            f"{self.count} splats by {self.model}{removed}",
            f"{counted(self.steps, 'step')}, {counted(self.reconstructions, 'reconstruction')}, "
            f"feedback {self.feedback}",
            f"views and splats agree to {self.agreement_db:.1f} dB PSNR",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, eq=False)
class RecursiveSample(Sample):
    """Generated images, the views made of them, and the splats."""

    splats: Splats = field(kw_only=True)
    """In the world of the views."""
    report: RecursionReport = field(kw_only=True)
    """How they were made."""


def sample_recursive(
    model: RecursiveModel,
    image: Tensor,
    mask: Tensor | None = None,
    config: SampleConfig | None = None,
    recursion: RecursionConfig | None = None,
    placement: Placement | None = None,
    progress: Progress = SILENT,
    reconstruct: Reconstruct | None = None,
    cameras: Cameras | None = None,
) -> RecursiveSample:
    """Generates views and splats of the object in one image.

    In each step, the estimate of the views is decoded, reconstructed as splats at its noise level
    and rendered in all views; the renders condition the network in the next step, with and without
    guidance. The first step sees zeros.

    Args:
        model: a loaded pair; it is not modified.
        image: (H, W, 3), (H, W, 4) with alpha, or grey; see `preprocess.preprocess_image`.
        mask: (H, W) in 0..1, 1 on the object.
        config: seed, steps, guidance, size, elevation of the input image.
        recursion: what is fed back, and how often.
        placement: device and dtype of the parts; all on the CPU if None.
        progress: receives each step, with previews of the views and of the renders below them; a
            cancellation also takes effect within a step.
        reconstruct: replaces the pair's reconstruction.
        cameras: of the views, in the world of the model; the orbit of the family if None.

    Raises:
        InputError: unusable image or size, or a pair whose views do not match.
        StageError: a network returned NaN or infinite values, in float32 too, or nothing opaque.
        Cancelled: the user cancelled.
    """
    config, recursion, family = (
        config or SampleConfig(),
        recursion or RecursionConfig(),
        model.family,
    )
    placement = placement or RecursiveOnDevice(model, torch.device("cpu"))
    size_px = check_size_px(model, config.size_px or family.size_px)
    reconstruction_views(model)
    trajectory = plan_trajectory(family, size_px, config.elevation_deg)
    rig = cameras or cameras_from_orbit(preset_orbit(family.orbit, size_px, size_px))
    progress.update(ENCODING, 0, 2)
    keep_framing = config.framing == "image"
    prepared = preprocess_image(image, mask, size_px, family.foreground_ratio, keep_framing)
    noise = draw_noise_inputs(model, size_px, config.seed)
    sigmas = sampling_process(family, config).evaluation_sigmas
    quiet = progress.without_reports()
    loop = FeedbackLoop(
        model,
        rig,
        sigmas,
        reconstruct or network_reconstruction(model, rig, placement, quiet),
        config,
        recursion,
        placement,
        quiet,
    )
    with torch.no_grad():
        conditioning = make_conditioning(
            model, prepared.image, trajectory, noise, placement, progress
        )
        conditioning = replace(conditioning, feedback=initial_feedback(rig, size_px))
        sample_latents(
            model, conditioning, trajectory, noise.latents, config, placement, progress, loop
        )
    of_views = cameras or trajectory.cameras
    return _to_sample(model, loop, of_views, rig, prepared.notes, len(sigmas), recursion)


def _to_sample(
    model: RecursiveModel,
    loop: FeedbackLoop,
    cameras: Cameras,
    rig: Cameras,
    notes: tuple[str, ...],
    steps: int,
    recursion: RecursionConfig,
) -> RecursiveSample:
    """The result of the last step in the world of the views."""
    result = loop.result
    images = result.images.movedim(1, -1)  # (V, S, S, 3)
    is_visible = result.splats.opacities >= MIN_OPACITY
    if not bool(is_visible.any()):
        raise StageError(
            STAGE,
            f"{model.reconstruction.family.label} returned no visible splat.",
            "Check that both files belong to one model, or use more steps.",
        )
    kept = result.splats[is_visible]
    report = RecursionReport(
        model=model.family.label,
        steps=steps,
        feedback=recursion.feedback,
        reconstructions=loop.count,
        count=len(kept),
        removed=len(result.splats) - len(kept),
        agreement_db=_agreement_db(result),
    )
    views = views_from_samples(cameras, images, None)
    return RecursiveSample(
        views, images[None], notes, splats=_to_world(kept, cameras, rig), report=report
    )


def _to_world(splats: Splats, cameras: Cameras, rig: Cameras) -> Splats:
    """Splats of the model's world in that of the views: the first cameras coincide."""
    if torch.equal(cameras.world_to_camera, rig.world_to_camera):
        return splats
    rotation = (cameras.rotation[0].double().T @ rig.rotation[0].double()).float()  # (3, 3)
    quaternion = matrix_to_quaternion(rotation[None])
    return replace(
        splats,
        positions=splats.positions @ rotation.T,
        rotations=multiply_quaternions(quaternion, splats.rotations),
    )


def _agreement_db(result: StepResult) -> float:
    """PSNR in dB of the renders against the generated views; at most 100."""
    error = (result.images - result.renders.colours).square().mean().clamp_min(1e-10)
    return float(-10.0 * torch.log10(error))
