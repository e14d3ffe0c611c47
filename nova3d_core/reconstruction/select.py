"""Selects the four of many views that LGM sees."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..conventions import orbit_position
from ..errors import InputError
from ..wording import there_are
from .config import VIEW_COUNT

logger = logging.getLogger(__name__)

TARGET_AZIMUTHS_DEG = (0.0, 90.0, 180.0, 270.0)
"""Azimuths relative to the first view, at elevation 0."""
WARN_DEG = 15.0
"""Distance from its target angle above which a selected view is named in a warning."""
MAX_DEG = 45.0
"""Largest distance: beyond it, a view belongs to another quarter."""
MAX_FIRST_ELEVATION_DEG = 80.0
"""Above it, the azimuth of the first view is not defined well."""


def select_views(cameras: Cameras) -> list[int]:
    """Indices of the views nearest to azimuths 0, 90, 180 and 270 at elevation 0.

    Azimuths are relative to the first view. Which way views look decides, not where they are.

    Args:
        cameras: V cameras that look at the object.

    Raises:
        InputError: fewer than four views, a first view from above or below, or a target angle with
            no view within 45 degrees.
    """
    if len(cameras) < VIEW_COUNT:
        raise InputError(
            f"{there_are(len(cameras), 'view')}, but LGM needs {VIEW_COUNT}, about 90 degrees "
            "apart in azimuth.",
            "Generate or render views all around the object.",
        )
    first_deg = float(cameras.elevation_deg[0])
    if abs(first_deg) > MAX_FIRST_ELEVATION_DEG:
        raise InputError(
            f"the first view is at elevation {first_deg:.0f}, from where azimuth 0 is not defined.",
            "Put a view from the front first.",
        )
    distances = _target_distances_deg(cameras)  # (4, V)
    nearest = distances.argmin(dim=1).tolist()
    far = float(distances.amin(dim=1).max())
    if far > MAX_DEG or len(set(nearest)) < VIEW_COUNT:
        missing = int(distances.amin(dim=1).argmax())
        raise InputError(
            f"no view is near azimuth {TARGET_AZIMUTHS_DEG[missing]:.0f} from the first view at "
            f"elevation 0: the nearest is {far:.0f} degrees away, expected at most {MAX_DEG:.0f}.",
            "LGM needs views at azimuths 0, 90, 180 and 270 from the first one.",
        )
    if far > WARN_DEG:
        logger.warning(
            "the selected views %s are up to %.0f degrees from azimuths 0, 90, 180 and 270 at "
            "elevation 0; LGM was trained on level views.",
            ", ".join(map(str, nearest)),
            far,
        )
    return nearest


def _target_distances_deg(cameras: Cameras) -> Tensor:
    """(4, V) angles between each target direction and each view."""
    towards = -cameras.view_directions.double()  # (V, 3) from the object to the cameras
    first = torch.deg2rad(cameras.azimuth_deg[0].double())
    targets = [
        orbit_position(float(first + torch.deg2rad(torch.tensor(angle).double())), 0.0, 1.0)
        for angle in TARGET_AZIMUTHS_DEG
    ]
    cosines = towards.new_tensor(targets) @ towards.T
    return torch.rad2deg(torch.acos(cosines.clamp(-1.0, 1.0)))
