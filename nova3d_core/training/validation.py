"""Validation: generates views of held-out objects and compares them with the ground truth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..cameras.cameras import cameras_at
from ..cameras.rigs import RigConfig
from ..conventions import decode_normals
from ..diffusion.model import MultiviewModel, Placement
from ..diffusion.sampling.config import SampleConfig, SamplerName
from ..diffusion.sampling.pipeline import (
    decode_latents,
    draw_noise_inputs,
    make_conditioning,
    sample_latents,
)
from ..diffusion.sampling.trajectory import plan_trajectory
from ..errors import StageError
from ..evaluation.metrics.image import mask_iou, mean_metrics, normal_error_deg, psnr, ssim
from ..progress import SILENT, Progress

logger = logging.getLogger(__name__)

VALIDATING = "validating"
WHITE_TOLERANCE = 0.1
"""A pixel is background if its darkest channel is this close to white: half the distance from white
to the nearest unit normal."""
MIN_SSIM_PX = 11
"""Size of SSIM's window; smaller images have no SSIM."""
S = TypeVar("S", bound="ValidationSample")


@dataclass(frozen=True, eq=False)
class ValidationSample:
    """Ground-sample views of one object."""

    colour: Tensor
    """(V, S, S, 3) in 0..1 on white; view 0 is the input."""
    normal: Tensor
    """(V, S, S, 3) encoded normals in 0..1 in the frame of view 0, on white."""
    mask: Tensor
    """(V, S, S) coverage in 0..1."""
    key: str = ""
    """Key of the object in the data."""
    angles_deg: Tensor | None = None
    """(V, 2) elevation and azimuth of the cameras; the family's own orbit if None."""


def validation_sample(item: Mapping[str, Any]) -> ValidationSample:
    """Converts an object of a dataset, (V, S, S, ...) uint8."""
    images = (item[name].float() / 255.0 for name in ("colour", "normal", "mask"))
    angles = torch.stack([item["elevation_deg"], item["azimuth_deg"]], dim=1)  # (V, 2)
    return ValidationSample(*images, key=str(item.get("key", "")), angles_deg=angles)


def generate_views(
    model: MultiviewModel,
    image: Tensor,
    placement: Placement,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress = SILENT,
    sampler: SamplerName = "euler",
    angles_deg: Tensor | None = None,
) -> Tensor:
    """Generates all views from an image that is framed as in training.

    Args:
        model: the model, possibly during training.
        image: (S, S, 3) in 0..1 on white.
        placement: decides where the model runs.
        seed: seed of the noise.
        steps: denoising steps; the family's default if None.
        progress: checked for cancellation only.
        sampler: ODE solver.
        angles_deg: (V, 2) elevation and azimuth of the cameras, the input view first, for families
            with free angles.

    Returns:
        (D, V, S, S, 3) in 0..1, the input view first.

    Raises:
        StageError: the model's output is not finite.
        Cancelled: by the user.
    """
    size_px = image.shape[0]
    config = SampleConfig(seed=seed, steps=steps, sampler=sampler)
    cameras = None
    if angles_deg is not None and model.family.free_angles:
        elevations, azimuths = angles_deg.T.tolist()
        cameras = cameras_at(azimuths, elevations, RigConfig(width_px=size_px, height_px=size_px))
    trajectory = plan_trajectory(model.family, size_px, cameras=cameras)
    noise = draw_noise_inputs(model, size_px, seed)
    with torch.no_grad():
        conditioning = make_conditioning(model, image, trajectory, noise, placement, progress)
        latents = sample_latents(
            model, conditioning, trajectory, noise.latents, config, placement, progress
        )
        images = decode_latents(model, latents, config, placement, progress)
        return torch.stack([trajectory.input_view_first(each) for each in images])


def silhouettes(images: Tensor) -> Tensor:
    """(..., H, W) float 0 or 1: pixels of images (..., H, W, 3) in 0..1 that are not white."""
    return (images.amin(dim=-1) < 1.0 - WHITE_TOLERANCE).float()


def view_metrics(generated: Tensor, sample: ValidationSample) -> list[dict[str, float | None]]:
    """Metrics of each view.

    Args:
        generated: (D, V, S, S, 3) in 0..1, colours, and normals if D = 2.
        sample: the ground truth.

    Returns:
        For each view: `psnr` and `ssim` of the colours; with normals also `normal_error_deg` over
        fully covered pixels of the ground truth (where generated white counts as a wrong normal),
        `silhouette_iou` of the normals' silhouette with the true mask, and `agreement_iou` of the
        silhouettes of colours and normals (ignoring pixels whose true colour is white).
    """
    return [_metrics(generated[:, view], sample, view) for view in range(generated.shape[1])]


def _metrics(generated: Tensor, sample: ValidationSample, view: int) -> dict[str, float | None]:
    colour, true_colour = generated[0], sample.colour[view]
    metrics: dict[str, float | None] = {"psnr": psnr(colour, true_colour)}
    if len(colour) >= MIN_SSIM_PX:
        metrics["ssim"] = ssim(colour, true_colour)
    if len(generated) > 1:
        normal, inside = generated[1], sample.mask[view] > 0.999
        metrics["normal_error_deg"] = normal_error_deg(
            decode_normals(normal), decode_normals(sample.normal[view]), inside
        )
        shape = silhouettes(normal)
        metrics["silhouette_iou"] = mask_iou(shape, sample.mask[view])
        not_white = 1.0 - inside.float() * (1.0 - silhouettes(true_colour))
        metrics["agreement_iou"] = mask_iou(silhouettes(colour) * not_white, shape * not_white)
    return metrics


def mean_over_unseen_views(metrics: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Means over all views but the first, which is the input."""
    return mean_metrics(metrics[1:])


Measured = tuple[Tensor, dict[str, float | None]]
"""Generated views (D, V, S, S, 3) of an object, and their metrics."""


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """Generated views of held-out objects, and their metrics."""

    means: dict[str, float | None]
    """Means over objects of the means over unseen views."""
    objects: list[dict[str, float | None]]
    """Means over unseen views of each object."""
    generated: list[Tensor]
    """(D, V, S, S, 3) of each object."""


def validate(
    model: MultiviewModel,
    samples: Sequence[ValidationSample],
    placement: Placement,
    steps: int | None = None,
    progress: Progress = SILENT,
) -> ValidationResult:
    """Generates each object from its first view, always with the same noise, and measures it.

    Args:
        model: see `generate_views`.
        samples: held-out objects.
        placement: decides where the model runs.
        steps: denoising steps; the family's default if None.
        progress: updated for each object.
    """

    def measure(seed: int, sample: ValidationSample, quiet: Progress) -> Measured:
        images = generate_views(
            model, sample.colour[0], placement, seed, steps, quiet, angles_deg=sample.angles_deg
        )
        return images, mean_over_unseen_views(view_metrics(images, sample))

    return validate_each(samples, measure, progress)


def validate_each(
    samples: Sequence[S], measure: Callable[[int, S, Progress], Measured], progress: Progress
) -> ValidationResult:
    """Generates and measures held-out objects.

    Objects for which an output of the model is not finite are skipped with a warning.

    Args:
        samples: the objects.
        measure: generates and measures one, given a seed, the object, and a progress that only
            checks for cancellation. Raises StageError where an output is not finite.
        progress: updated for each object.
    """
    generated, objects = [], []
    quiet = progress.with_reports(None, VALIDATING)
    for seed, sample in enumerate(progress.track(samples, VALIDATING, len(samples))):
        try:
            images, metrics = measure(seed, sample, quiet)
        except StageError as error:
            logger.warning("validation: %s", error.message)
            continue
        generated.append(images)
        objects.append(metrics)
    return ValidationResult(mean_metrics(objects) if objects else {}, objects, generated)


def sample_grid(samples: Sequence[ValidationSample], generated: Sequence[Tensor]) -> Tensor:
    """An image (H, W, 3) of generated views above the ground truth, for colours and normals.

    Args:
        samples: the objects.
        generated: (D, V, S, S, 3) of each object.
    """
    rows = []
    for sample, images in zip(samples, generated, strict=True):
        pairs = [(images[0], sample.colour), (images[1:2].flatten(0, 1), sample.normal)]
        rows += [row for pair in pairs for row in pair if len(row)]
    return torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)
