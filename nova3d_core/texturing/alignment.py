"""Alignment of views with a textured mesh: smooth warps that explain contradictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..perceptual.registration import (
    COARSE_TO_FINE_PX,
    FINE_PX,
    Registration,
    register_view,
)
from ..progress import Progress
from ..views import Views
from .surface_pixels import SurfacePixels

logger = logging.getLogger(__name__)

STAGE = "aligning"
MIN_WARP_PX = 0.15
"""Root mean square displacement of all views, in a 256 px image, below which none is moved."""
MIN_GAIN = 0.05
"""Relative decrease of a view's difference from the render below which it is not moved."""
_REFERENCE_PX = 256


@dataclass(frozen=True, eq=False)
class AlignedViews:
    """Views moved onto the renders of a textured mesh."""

    views: Views
    """Colours and masks as moved; view 0 and views that do not fit better are unchanged."""
    registrations: tuple[Registration | None, ...]
    """Of each view, in its crop; None where it was not moved."""
    warp_px: float
    """Root mean square displacement over the mesh's pixels of all views; 0 if none was moved."""


def align_views(
    texture: Tensor,
    views: Views,
    pixels: Sequence[SurfacePixels | None],
    weights: Sequence[Tensor],
    progress: Progress,
    start: Sequence[Registration | None] = (),
) -> AlignedViews | None:
    """Registers each view but the first with its render; None if the views agree.

    Args:
        texture: (1, 3, h, w) of the mesh.
        views: V views with masks, not moved.
        pixels: of each view; None where it does not see the mesh.
        weights: (H, W) of each crop, of the colours in the registration.
        progress: checked for a cancel at each view.
        start: registrations of an earlier round.
    """
    moved, squared, count = _Moved.of(views), 0.0, 0
    found: list[Registration | None] = [None] * len(views)
    for view in range(1, len(views)):
        progress.check(STAGE)
        seen = pixels[view]
        if seen is None or not bool(weights[view].any()):
            continue
        before = start[view] if start else None
        source = moved.crop(view, seen)
        render = torch.cat([seen.render(texture), seen.coverage[..., None]], dim=-1)
        levels = COARSE_TO_FINE_PX if before is None else FINE_PX
        registration = register_view(source, render, weights[view], before, levels)
        result = registration.apply_to(source)
        differences = [_difference(each, render, weights[view]) for each in (source, result)]
        if differences[1] > (1.0 - MIN_GAIN) * differences[0]:
            continue
        covered = seen.coverage > 0.0
        squared += float(registration.displacement_px(*seen.size_px)[covered].square().sum())
        count += int(covered.sum())
        found[view] = registration
        moved.store(view, seen, result)
    warp_px = (squared / max(count, 1)) ** 0.5
    scale = max(views.cameras.width, views.cameras.height) / _REFERENCE_PX
    logger.info("views differ from the texture by warps of %.2f px", warp_px)
    if warp_px < MIN_WARP_PX * scale:
        return None
    return AlignedViews(moved.views(views), tuple(found), warp_px)


@dataclass(frozen=True, eq=False)
class _Moved:
    """Copies of the views' colours (V, H, W, 3) and masks (V, H, W)."""

    colour: Tensor
    masks: Tensor

    @classmethod
    def of(cls, views: Views) -> _Moved:
        return cls(views.colour.clone(), views.masks.clone())

    def crop(self, view: int, seen: SurfacePixels) -> Tensor:
        """(H, W, 4) RGB and mask of a view's crop."""
        rows, columns = seen.crop
        colour, mask = self.colour[view, rows, columns], self.masks[view, rows, columns, None]
        return torch.cat([colour, mask], dim=-1)

    def store(self, view: int, seen: SurfacePixels, values: Tensor) -> None:
        """Replaces a view's crop by RGB and mask (H, W, 4)."""
        rows, columns = seen.crop
        self.colour[view, rows, columns] = values[..., :3]
        self.masks[view, rows, columns] = values[..., 3]

    def views(self, original: Views) -> Views:
        return replace(original, colour=self.colour, masks=self.masks, normals=None)


def _difference(view: Tensor, render: Tensor, weights: Tensor) -> float:
    """Weighted mean absolute difference of RGB, both (H, W, 4), where the view has its object."""
    weights = weights * (view[..., 3] > 0.5)
    difference = (view[..., :3] - render[..., :3]).abs().mean(dim=-1)
    return float((weights * difference).sum() / weights.sum().clamp_min(1e-6))
