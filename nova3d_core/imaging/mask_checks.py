"""Detection of inverted masks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError
from ..wording import by_interface

OBJECT_THRESHOLD = 0.5
"""Minimum coverage of a pixel that belongs to the object."""
MIN_BORDER_COVERAGE = 0.85
"""An inverted mask covers at least this fraction of the image border. The mask of an object that is
cropped on three of four sides stays below, an inverted one of an object cropped on one side is
above."""
MIN_HOLE_RATIO = 0.005
"""Minimum background area of an inverted mask, as a fraction of the image; less is noise."""


def looks_inverted(mask: Tensor) -> bool:
    """Whether a mask (H, W) in 0..1 is full along the border and emptier inside.

    The mask of a close-up that fills the image is fuller inside than along the border.
    """
    inside = mask > OBJECT_THRESHOLD
    height, width = inside.shape
    if min(height, width) < 3:
        return False
    core = int(inside[1:-1, 1:-1].sum())
    core_area = (height - 2) * (width - 2)
    border_area = height * width - core_area
    border_share = (int(inside.sum()) - core) / border_area
    hole = core_area - core
    return (
        border_share >= MIN_BORDER_COVERAGE
        and core / core_area < border_share
        and hole >= MIN_HOLE_RATIO * height * width
    )


def check_not_inverted(masks: Tensor, label: str = "mask") -> None:
    """Raises InputError if more than half of the masks (V, H, W) in 0..1 look inverted.

    A minority of such views is accepted: an object may surround the view of one camera.

    Args:
        masks: 1 on the object.
        label: name of a mask in the error.
    """
    reject_inverted([looks_inverted(mask) for mask in masks], label)


def invert_hint() -> str:
    """What to do about an inverted mask."""
    return by_interface(
        "Invert it: a mask is 1 (white) on the object.",
        "Invert it (Invert Mask, or the input invert_masks of Assemble Views): a mask is 1 (white) "
        "on the object, but that of Load Image is 1 on the background.",
    )


def reject_inverted(inverted: Sequence[bool], label: str = "mask", where: str = "") -> None:
    """Raises InputError if more than half of the masks look inverted.

    Args:
        inverted: result of `looks_inverted` for each view.
        label: name of a mask in the error.
        where: prefix of the error, for example a file name and a colon.
    """
    count = sum(inverted)
    if 2 * count <= len(inverted):
        return
    reason = "full along the image border and empty inside"
    if len(inverted) == 1:
        message = f"the {label} looks inverted: it is {reason}."
    else:
        message = (
            f"the {label}s look inverted in {count} of {len(inverted)} views: they are {reason}."
        )
    raise InputError(
        f"{where} {message}".strip(),
        f"{invert_hint()} If it is correct, add a margin around the object.",
    )
