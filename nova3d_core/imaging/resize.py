"""Downscaling of huge images, a few rows at a time, to bound memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .alpha import flatten_on_white
from .matte import WHITE_TOLERANCE, is_mostly_white

_PIXELS_PER_CHUNK = 1_000_000
"""Maximum number of pixels that are processed together."""
_GRID_SAMPLES = 1024
"""Samples per side for the test whether a background is white."""
_HALF_LEVEL = 0.5 / 255.0


def downscale_on_white(
    image: Tensor, mask: Tensor | None, longest_px: int, crop: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Composites an image over white, crops it to its object and downscales image and mask.

    Downscales by an integer factor, averaging after compositing, so that soft edges stay correct.
    Besides the result, this needs memory for a few hundred rows only.

    Args:
        image: (H, W, 3 or 4) in 0..1.
        mask: (H, W) in 0..1, or None; a mask that is 1 everywhere is ignored.
        longest_px: the longer side of the result is below twice this.
        crop: crop to the object, with a margin.

    Returns:
        (h, w, 3), and (h, w) if the mask or the alpha channel marks a background, else None.
    """
    alpha = image[..., 3] if image.shape[-1] == 4 else None
    given = (each for each in (mask, alpha) if each is not None and _has_background(each))
    matte = next(given, None)
    if crop:
        rows, columns = _object_bounds(image, matte)
        image = image[rows, columns]
        matte = None if matte is None else matte[rows, columns]
    factor = max(max(image.shape[:2]) // longest_px, 1)
    needs_white = matte is not None and not _has_white_background(image, matte)
    colours, masks = [], []
    chunk_rows = factor * max(_rows_per_chunk(image) // factor, 1)
    for start in range(0, len(image), chunk_rows):
        chunk = slice(start, start + chunk_rows)
        colour, coverage = image[chunk], None if matte is None else matte[chunk].float()
        colour = flatten_on_white(colour) if colour.shape[-1] == 4 else colour
        if needs_white:
            colour = colour * coverage[..., None] + (1.0 - coverage[..., None])
        colours.append(_downsample(colour.movedim(-1, 0), factor, 1.0).movedim(0, -1))
        if coverage is not None:
            masks.append(_downsample(coverage[None], factor, 0.0)[0])
    return torch.cat(colours), torch.cat(masks) if masks else None


def _rows_per_chunk(batch: Tensor) -> int:
    """Number of rows of an image (H, W, ...) that are processed together."""
    return max(_PIXELS_PER_CHUNK // batch.shape[1], 1)


def row_chunks(batch: Tensor) -> tuple[Tensor, ...]:
    """An image or mask (H, W, ...) split into chunks of a few rows each."""
    return batch.split(_rows_per_chunk(batch))


def _has_background(mask: Tensor) -> bool:
    """Whether a mask marks any pixel as background."""
    return min(float(chunk.float().min()) for chunk in row_chunks(mask)) < 1.0 - _HALF_LEVEL


def _object_bounds(image: Tensor, mask: Tensor | None) -> tuple[slice, slice]:
    """Rows and columns of the object with a margin; all of them if there is no object."""
    rows, columns = [], torch.zeros(image.shape[1], dtype=torch.bool, device=image.device)
    for chunk in row_chunks(image[..., :3] if mask is None else mask):
        inside = chunk.amin(dim=2) < 1.0 - WHITE_TOLERANCE if mask is None else chunk > 0
        rows.append(inside.any(dim=1))
        columns |= inside.any(dim=0)
    spans = []
    for used in (torch.cat(rows), columns):
        at = used.nonzero()[:, 0]
        if not len(at):
            return slice(None), slice(None)
        first, last = int(at[0]), int(at[-1]) + 1
        margin = (last - first) // 16 + 2  # keeps a white border
        spans.append(slice(max(first - margin, 0), last + margin))
    return spans[0], spans[1]


def _has_white_background(image: Tensor, mask: Tensor) -> bool:
    """Whether the background is mostly white, tested on a grid of pixels."""
    step = max(max(image.shape[:2]) // _GRID_SAMPLES, 1)
    samples, outside = image[::step, ::step], mask[::step, ::step] <= 0
    samples = flatten_on_white(samples) if samples.shape[-1] == 4 else samples
    return is_mostly_white(samples[outside])


def _downsample(batch: Tensor, factor: int, padding_value: float) -> Tensor:
    """Means (C, ceil(H / f), ceil(W / f)) over f x f blocks of (C, H, W), padded at the end."""
    if factor == 1:
        return batch.float()
    height, width = batch.shape[1:]
    padding = (0, -width % factor, 0, -height % factor)
    padded = functional.pad(batch.float(), padding, value=padding_value)
    return functional.avg_pool2d(padded[None], factor)[0]
