"""Huge images made small a few rows at a time, before anything copies them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..io.images.images import composite_on_white
from .matte import WHITE_TOLERANCE

_TOGETHER = 1_000_000
"""Pixels that are looked at together."""
_SAMPLES = 1024
"""Pixels along a side that tell whether a background is white."""
_LEVEL = 0.5 / 255.0


def downscale_on_white(
    image: Tensor, mask: Tensor | None, longest_px: int
) -> tuple[Tensor, Tensor | None]:
    """An image on white and its mask, cut to what is in it and reduced to a size.

    Whole pixels are averaged, after the object was put on white; so soft edges keep their meaning.
    Beside the result this takes memory for a few hundred rows, not for the image.

    Args:
        image: (H, W, 3 or 4) in 0..1.
        mask: (H, W) in 0..1, or None; one that is 1 all over says nothing.
        longest_px: the result's longer side has fewer pixels than twice this.

    Returns:
        (h, w, 3), and (h, w) if a mask or an alpha tells where the object is.
    """
    alpha = image[..., 3] if image.shape[-1] == 4 else None
    telling = next((each for each in (mask, alpha) if each is not None and _tells(each)), None)
    rows, columns = _occupied(image, telling)
    image = image[rows, columns]
    telling = None if telling is None else telling[rows, columns]
    factor = max(max(image.shape[:2]) // longest_px, 1)
    mix_white = telling is not None and not _white_behind(image, telling)
    colours, masks = [], []
    rows_together = factor * max(_rows(image) // factor, 1)
    for start in range(0, len(image), rows_together):
        strip = slice(start, start + rows_together)
        colour, share = image[strip], None if telling is None else telling[strip].float()
        colour = composite_on_white(colour) if colour.shape[-1] == 4 else colour
        if mix_white:
            colour = colour * share[..., None] + (1.0 - share[..., None])
        colours.append(_averaged(colour.movedim(-1, 0), factor, 1.0).movedim(0, -1))
        if share is not None:
            masks.append(_averaged(share[None], factor, 0.0)[0])
    return torch.cat(colours), torch.cat(masks) if masks else None


def _rows(batch: Tensor) -> int:
    """How many rows of a batch (H, W, ...) are looked at together."""
    return max(_TOGETHER // batch.shape[1], 1)


def strips(batch: Tensor) -> tuple[Tensor, ...]:
    """An image or mask (H, W, ...) as parts of a few rows each."""
    return batch.split(_rows(batch))


def _tells(mask: Tensor) -> bool:
    return min(float(strip.float().min()) for strip in strips(mask)) < 1.0 - _LEVEL


def _occupied(image: Tensor, mask: Tensor | None) -> tuple[slice, slice]:
    """Rows and columns that hold the object and a margin; all where nothing does."""
    rows, columns = [], torch.zeros(image.shape[1], dtype=torch.bool, device=image.device)
    for strip in strips(image[..., :3] if mask is None else mask):
        inside = strip.amin(dim=2) < 1.0 - WHITE_TOLERANCE if mask is None else strip > 0
        rows.append(inside.any(dim=1))
        columns |= inside.any(dim=0)
    spans = []
    for used in (torch.cat(rows), columns):
        at = used.nonzero()[:, 0]
        if not len(at):
            return slice(None), slice(None)
        first, last = int(at[0]), int(at[-1]) + 1
        margin = (last - first) // 16 + 2  # a white border stays white
        spans.append(slice(max(first - margin, 0), last + margin))
    return spans[0], spans[1]


def _white_behind(image: Tensor, mask: Tensor) -> bool:
    """Whether nearly all of the background is white, judged by a grid of pixels."""
    step = max(max(image.shape[:2]) // _SAMPLES, 1)
    few, outside = image[::step, ::step], mask[::step, ::step] <= 0
    few = (composite_on_white(few) if few.shape[-1] == 4 else few)[outside]  # (N, 3)
    if not len(few):
        return True
    return float((few.amin(dim=1) >= 1.0 - WHITE_TOLERANCE).float().mean()) > 0.95


def _averaged(batch: Tensor, factor: int, ground: float) -> Tensor:
    """Means (C, ceil(H / f), ceil(W / f)) of squares of (C, H, W); what juts out is ground."""
    if factor == 1:
        return batch.float()
    height, width = batch.shape[1:]
    padding = (0, -width % factor, 0, -height % factor)
    padded = functional.pad(batch.float(), padding, value=ground)
    return functional.avg_pool2d(padded[None], factor)[0]
