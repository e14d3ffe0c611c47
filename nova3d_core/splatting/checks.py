"""Checks of the views before a fit of splats."""

from __future__ import annotations

import logging

from ..errors import InputError
from ..fusion.checks.inputs import check_masks_and_cameras
from ..fusion.checks.silhouettes import check_silhouettes
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
    check_masks_and_cameras(views, progress)
    try:
        check_silhouettes(views, progress)
    except InputError as error:
        logger.warning("%s", error)
