"""Checks of the views before a fit of splats."""

from __future__ import annotations

import logging

from ..errors import InputError
from ..fusion.checks.cameras import check_cameras
from ..fusion.checks.silhouettes import check_silhouettes
from ..fusion.hull.visual_hull import check_carvable
from ..imaging.mask_checks import check_not_inverted
from ..progress import SILENT, Progress
from ..views import Views

logger = logging.getLogger(__name__)


def check_splat_views(views: Views, progress: Progress = SILENT) -> None:
    """Raises InputError for views that no splats can fit; warns about those that contradict.

    Unlike a fusion, a fit renders something for views whose silhouettes contradict each other: what
    most of them agree on. So these are a warning.

    Args:
        views: two or more with masks.
        progress: reports each step.

    Raises:
        InputError: masks that are missing, empty, full or inverted; views whose order or elevation
            is surely another than declared.
        Cancelled: on request.
    """
    if views.masks is not None:
        check_not_inverted(views.masks)
    check_carvable(views)
    check_cameras(views, progress)
    try:
        check_silhouettes(views, progress)
    except InputError as error:
        logger.warning("%s", error)
