"""Estimates the normals of views from their colours, with any estimator."""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from torch import Tensor

from ..fusion.checks.normals import NormalConvention, NormalConventionError
from ..progress import SILENT, Progress
from ..views import Views
from .add import add_normals, check_masks
from .config import FLIPPED_CHANNELS, NormalFlip

logger = logging.getLogger(__name__)

STAGE = "estimating normals"


class NormalEstimator(Protocol):
    """Estimates normal maps in the camera frame from images."""

    label: str
    """Display name."""
    is_convention_known: bool
    """Whether the signs of its channels are known to be those of the camera frame."""

    def estimate(self, images: Tensor, progress: Progress) -> Tensor:
        """Normal maps (V, H, W, 3) in 0..1, 0.5 n + 0.5, of images (V, H, W, 3) in 0..1.

        Raises:
            Cancelled: the user cancelled.
        """


def estimate_normals(
    views: Views, estimator: NormalEstimator, progress: Progress = SILENT
) -> Views:
    """The views with normals estimated from their colours.

    Channels that are flipped against the silhouettes are corrected where the estimator's convention
    is not known; a warning names them.

    Args:
        views: V views with masks; normals that they have are replaced.
        estimator: estimates normals of single images or of an orbit.
        progress: receives each step.

    Returns:
        The views with unit normals in the camera frame; cameras, colours and masks are unchanged.

    Raises:
        InputError: the views have no masks, or the normals do not fit the silhouettes.
        Cancelled: the user cancelled.
    """
    check_masks(views)
    with torch.no_grad():
        images = estimator.estimate(views.to("cpu").colour, progress)
    images = images.float().to(views.colour.device)
    try:
        return add_normals(views, images, "camera")
    except NormalConventionError as error:
        flip = _flip_of(error.fitting)
        if estimator.is_convention_known or flip is None:
            raise
    logger.warning("the normals of %s are flipped in %s: corrected.", estimator.label, flip)
    return add_normals(views, images, "camera", flip)


def _flip_of(fitting: NormalConvention) -> NormalFlip | None:
    """The flip that leads to a convention; None where it takes more than that."""
    if fitting.frame != "camera":
        return None
    flipped = set(fitting.flipped)
    return next((flip for flip, names in FLIPPED_CHANNELS.items() if names == flipped), None)
