"""Checks of views before a fusion; each error names what to fix."""

from __future__ import annotations

import logging

from ...imaging.mask_checks import check_not_inverted
from ...progress import SILENT, Progress
from ...views import Views
from ..hull.visual_hull import check_carvable
from .cameras import check_cameras
from .normals import check_normals
from .silhouettes import check_silhouettes, listed

logger = logging.getLogger(__name__)


def check_views(views: Views, progress: Progress = SILENT) -> None:
    """Raises InputError for views that cannot be fused; warns about objects that an image cuts off.

    Args:
        views: two or more with masks, in any world and scale; their normals are optional.
        progress: reports each step.

    Raises:
        InputError: masks that look inverted, views that cannot be carved, images in another order
            or from other elevations than declared, silhouettes that contradict each other, and
            normals that are missing or in another frame than declared.
        Cancelled: on request.
    """
    check_masks_and_cameras(views, progress)
    check_silhouettes(views, progress)
    check_normals(views)
    cut = border_views(views)
    if cut:
        logger.warning(
            "the object touches the image's border in %s %s: it may be cut off there",
            "view" if len(cut) == 1 else "views",
            listed(cut),
        )


def check_masks_and_cameras(views: Views, progress: Progress = SILENT) -> None:
    """Raises InputError for inverted masks, views that cannot be carved, and misdeclared cameras.

    Args:
        views: as for `check_views`.
        progress: reports each step.
    """
    if views.masks is not None:
        check_not_inverted(views.masks)
    check_carvable(views)
    check_cameras(views, progress)


def border_views(views: Views) -> list[int]:
    """Indices of the views whose object touches the border of the image; none without masks."""
    if views.masks is None:
        return []
    inside = views.masks > 0.5  # (V, H, W)
    rows, columns = inside[:, [0, -1]], inside[:, :, [0, -1]]
    touches = rows.flatten(1).any(dim=1) | columns.flatten(1).any(dim=1)
    return touches.nonzero()[:, 0].tolist()
