"""Recognises inverted masks: background marked as the object."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError

_OBJECT = 0.5
"""A pixel that the object covers more than this belongs to it."""
MIN_BORDER_COVERAGE = 0.85
"""An inverted mask is full along at least this share of the image's border. An object that is cut
off on three of four sides stays below it, an inverted one that is cut off at one side above."""
MIN_HOLE_RATIO = 0.005
"""Share of an image that its background must have at least: less is dust in a full mask."""


def looks_inverted(mask: Tensor) -> bool:
    """Whether a mask (H, W) in 0..1 is full along the border and emptier inside.

    A close-up that fills the image up to its border is fuller inside than along the border.
    """
    inside = mask > _OBJECT
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


def check_not_inverted(masks: Tensor, what: str = "mask") -> None:
    """Raises InputError if more than half of the masks (V, H, W) in 0..1 look inverted.

    One such view of several passes: an object may surround one camera's view.

    Args:
        masks: 1 on the object.
        what: names a mask in the error.
    """
    reject_inverted([looks_inverted(mask) for mask in masks], what)


def reject_inverted(inverted: Sequence[bool], what: str = "mask", where: str = "") -> None:
    """Raises InputError if more than half of the views' masks were found to look inverted.

    Args:
        inverted: what `looks_inverted` gave for each view.
        what: names a mask in the error.
        where: starts the error, for example with a file and a colon.
    """
    count = sum(inverted)
    if 2 * count <= len(inverted):
        return
    fault = "full along the image's border and empty inside"
    if len(inverted) == 1:
        message = f"the {what} looks inverted: it is {fault}."
    else:
        message = (
            f"the {what}s look inverted in {count} of {len(inverted)} views: they are {fault}."
        )
    raise InputError(
        f"{where} {message}".strip(),
        "Invert it: a mask is 1 (white) on the object; LoadImage's is 1 on the background (use "
        "InvertMask, or switch invert_masks of AssembleViews). If it is right, add a margin around "
        "the object.",
    )
