"""How well a model paints objects whose every view is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..conventions import decode_normals
from ..diffusion.sampling.config import SampleConfig
from ..diffusion.model import MultiviewModel, Placement
from ..diffusion.sampling.pipeline import decode_latents, draw_noise_inputs, sample_latents, make_conditioning
from ..diffusion.sampling.trajectory import plan_trajectory
from ..errors import StageError
from ..evaluation.metrics.image import mask_iou, mean_metrics, normal_error_deg, psnr, ssim
from ..progress import SILENT, Progress

logger = logging.getLogger(__name__)

VALIDATING = "validating"
WHITE_SLACK = 0.1
"""A pixel whose darkest channel is this close to white is background: half of the way from white to
the unit normal that is closest to it."""
SSIM_PX = 11
"""Smaller images have no structural similarity."""


@dataclass(frozen=True, eq=False)
class ValidationSample:
    """One object with all its views."""

    colour: Tensor
    """(V, S, S, 3) in 0..1 on white; view 0 is what the model is given."""
    normal: Tensor
    """(V, S, S, 3) images in 0..1 of normals in the frame of view 0, on white."""
    mask: Tensor
    """(V, S, S) in 0..1, how much of a pixel the object covers."""
    key: str = ""
    """Its name in the data."""


def validation_sample(item: Mapping[str, Any]) -> ValidationSample:
    """An object as the data gives it: (V, S, S, ...) uint8."""
    images = (item[name].float() / 255.0 for name in ("colour", "normal", "mask"))
    return ValidationSample(*images, key=str(item.get("key", "")))


def paint(
    model: MultiviewModel,
    image: Tensor,
    placement: Placement,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress = SILENT,
) -> Tensor:
    """What a model paints of an image that is framed as in training.

    Args:
        model: a model, which may still be in training.
        image: (S, S, 3) in 0..1 on white.
        placement: where it computes.
        seed: start of the noise.
        steps: denoising steps; the family's own if None.
        progress: only asked whether to stop.

    Returns:
        (D, V, S, S, 3) in 0..1.

    Raises:
        StageError: the model gave numbers that are not finite.
        Cancelled: the user asked to stop.
    """
    size_px = image.shape[0]
    config = SampleConfig(seed=seed, steps=steps)
    trajectory = plan_trajectory(model.family, size_px)
    draws = draw_noise_inputs(model, size_px, seed)
    with torch.no_grad():
        told = make_conditioning(model, image, trajectory, draws, placement, progress)
        latents = sample_latents(model, told, trajectory, draws.start, config, placement, progress)
        return decode_latents(model, latents, config, placement, progress)


def silhouettes(images: Tensor) -> Tensor:
    """(..., H, W) float 0 or 1: what of images (..., H, W, 3) in 0..1 is not white."""
    return (images.amin(dim=-1) < 1.0 - WHITE_SLACK).float()


def view_metrics(painted: Tensor, truth: ValidationSample) -> list[dict[str, float | None]]:
    """Figures of each view.

    Args:
        painted: (D, V, S, S, 3) in 0..1, colours and then normals if there are any.
        truth: what should have been painted.

    Returns:
        For each view: `psnr` and `ssim` of the colours; with normals also `normal_error_deg` where
        the truth's object covers whole pixels (painted white counts as a wrong normal),
        `silhouette_iou` of the painted normals with the truth, and `agreement_iou` of the
        silhouettes of painted colours and painted normals (only where the true colours differ
        from white).
    """
    return [_figures(painted[:, view], truth, view) for view in range(painted.shape[1])]


def _figures(painted: Tensor, truth: ValidationSample, view: int) -> dict[str, float | None]:
    colour, true_colour = painted[0], truth.colour[view]
    figures: dict[str, float | None] = {"psnr": psnr(colour, true_colour)}
    if len(colour) >= SSIM_PX:
        figures["ssim"] = ssim(colour, true_colour)
    if len(painted) > 1:
        normal, inside = painted[1], truth.mask[view] > 0.999
        figures["normal_error_deg"] = normal_error_deg(
            decode_normals(normal), decode_normals(truth.normal[view]), inside
        )
        shape = silhouettes(normal)
        figures["silhouette_iou"] = mask_iou(shape, truth.mask[view])
        unlike_white = 1.0 - inside.float() * (1.0 - silhouettes(true_colour))
        figures["agreement_iou"] = mask_iou(
            silhouettes(colour) * unlike_white, shape * unlike_white
        )
    return figures


def mean_over_unseen_views(figures: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Means over all views but the first, which the model was given."""
    return mean_metrics(figures[1:])


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """What a model painted of held-out objects, measured."""

    means: dict[str, float | None]
    """Each figure's mean over objects, of their means over unseen views."""
    objects: list[dict[str, float | None]]
    """Means over unseen views of each object."""
    painted: list[Tensor]
    """(D, V, S, S, 3) of each object."""


def validate(
    model: MultiviewModel,
    truths: Sequence[ValidationSample],
    placement: Placement,
    steps: int | None = None,
    progress: Progress = SILENT,
) -> ValidationResult:
    """Paints each object from its first view, always with the same noise, and measures it.

    Objects of which the model gave numbers that are not finite count with figures of None.

    Args:
        model: as `paint`.
        truths: objects that the model never learnt from.
        placement: where it computes.
        steps: denoising steps; the family's own if None.
        progress: told of each object.
    """
    painted, objects = [], []
    quiet = Progress(None, lambda: _asked_to_stop(progress))
    for seed, truth in enumerate(progress.track(truths, VALIDATING, len(truths))):
        try:
            images = paint(model, truth.colour[0], placement, seed, steps, quiet)
        except StageError as error:
            logger.warning("validation: %s", error.message)
            continue
        painted.append(images)
        objects.append(mean_over_unseen_views(view_metrics(images, truth)))
    return ValidationResult(mean_metrics(objects) if objects else {}, objects, painted)


def _asked_to_stop(progress: Progress) -> bool:
    progress.check(VALIDATING)
    return False


def sheet(truths: Sequence[ValidationSample], painted: Sequence[Tensor]) -> Tensor:
    """An image (H, W, 3): for each object colours over their truth, normals over theirs.

    Args:
        truths: objects.
        painted: (D, V, S, S, 3) of each.
    """
    rows = []
    for truth, images in zip(truths, painted, strict=True):
        pairs = [(images[0], truth.colour), (images[1:2].flatten(0, 1), truth.normal)]
        rows += [row for pair in pairs for row in pair if len(row)]
    return torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)
