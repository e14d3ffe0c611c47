"""Validation of a pair: generates views and splats of held-out objects."""

from __future__ import annotations

from collections.abc import Sequence

from ...diffusion.model import Placement
from ...diffusion.sampling.config import SampleConfig
from ...evaluation.metrics.image import psnr
from ...progress import SILENT, Progress
from ...recursion.config import FeedbackSource, RecursionConfig
from ...recursion.model import RecursiveModel
from ...recursion.sample import sample_recursive
from ...splatting.render import splat_views
from ..validation import Measured, ValidationResult, ValidationSample, validate_each
from .cameras import cameras_of, model_poses


def validate_pair(
    model: RecursiveModel,
    samples: Sequence[ValidationSample],
    placement: Placement,
    steps: int | None = None,
    progress: Progress = SILENT,
    feedback: FeedbackSource = "both",
) -> ValidationResult:
    """Generates each object from its first view and compares views and splats with the truth.

    Metrics are means over all views but the input: `psnr` of the generated views, `render_psnr` of
    the renders of the splats, and `agreement_psnr` of the renders against the generated views.

    Args:
        model: the pair, possibly during training.
        samples: held-out objects, with the angles of their cameras.
        placement: decides where the parts run.
        steps: denoising steps; the family's default if None.
        progress: updated for each object.
        feedback: what the pair was trained with.
    """
    recursion = RecursionConfig(feedback=feedback)

    def measure(seed: int, sample: ValidationSample, quiet: Progress) -> Measured:
        elevations, azimuths = sample.angles_deg.T[:, None]  # (1, V) each
        cameras = cameras_of(model_poses(elevations, azimuths)[0], sample.colour.shape[1])
        config = SampleConfig(seed=seed, steps=steps, framing="image")
        image = sample.colour[0]
        found = sample_recursive(
            model, image, None, config, recursion, placement, quiet, cameras=cameras
        )
        views, renders = found.images[0], splat_views(found.splats, cameras).colour
        pairs = {
            "psnr": (views, sample.colour),
            "render_psnr": (renders, sample.colour),
            "agreement_psnr": (renders, views),
        }
        metrics = {name: psnr(one[1:], two[1:]) for name, (one, two) in pairs.items()}
        return found.images, metrics

    return validate_each(samples, measure, progress)
