"""Joins views of several sources: image sizes, masks and normal frames may differ."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..cameras.join import Letterbox, join_cameras, letterbox
from ..errors import InputError
from ..views import Views
from .matte import matte_from_white

logger = logging.getLogger(__name__)

MAX_PIXEL_GROWTH = 8.0
"""Limit of the ratio of total pixels after and before resizing to one size."""


def join_views(views: Sequence[Views], names: Sequence[str] = ()) -> Views:
    """Views of several sources as one set, in the given order; the first view comes first.

    All cameras must be in the same world. Images of several sizes are resized to fit into the
    largest width and height, centred and padded with background, together with their intrinsics.
    Missing masks are mattes from the white background if another set has masks. Normals keep their
    frame if all sets have the same one that does not depend on the first view, else they become
    world normals.

    Args:
        views: at least one set.
        names: names of the sets in messages; "views 0" and so on by default.

    Raises:
        InputError: no views, perspective and orthographic ones, normals for some sets only, a
            missing mask without a white background, or sizes that would take far more memory.
    """
    if not views:
        raise InputError("there are no views to join.", "Connect at least one input.")
    names = names or [f"views {index}" for index in range(len(views))]
    cameras = join_cameras([each.cameras for each in views], names)
    size = cameras.width, cameras.height
    _check_growth(views, size)
    views = _with_masks(_with_one_frame(views, names), names)
    placed = [_on_canvas(each, size, name) for each, name in zip(views, names, strict=True)]
    parts = [
        None if columns[0] is None else torch.cat(columns) for columns in zip(*placed, strict=True)
    ]
    return Views(cameras, *parts, views[0].normal_frame)


def resize_and_pad(batch: Tensor, box: Letterbox, background: float) -> Tensor:
    """(V, H, W, C) images on a canvas: bilinear resampling, padded with a value."""
    if batch.shape[1:3] != (box.inner_height, box.inner_width):
        planes = batch.movedim(-1, 1)
        inner = (box.inner_height, box.inner_width)
        batch = functional.interpolate(planes, inner, mode="bilinear", align_corners=False)
        batch = batch.movedim(1, -1)
    if (box.inner_height, box.inner_width) == (box.height, box.width):
        return batch
    canvas = batch.new_full((len(batch), box.height, box.width, batch.shape[-1]), background)
    rows = slice(box.top, box.top + box.inner_height)
    canvas[:, rows, box.left : box.left + box.inner_width] = batch
    return canvas


def _on_canvas(
    views: Views, size_px: tuple[int, int], name: str
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Colour (V, H, W, 3), masks (V, H, W) and normals (V, H, W, 3) at a size."""
    old_size = views.cameras.width, views.cameras.height
    if old_size == size_px:
        return views.colour, views.masks, views.normals
    box = letterbox(old_size, size_px)
    logger.info("%s are resized from %dx%d to %dx%d px", name, *old_size, *size_px)
    colour = resize_and_pad(views.colour, box, 1.0).clamp(0.0, 1.0)
    masks, normals = views.masks, views.normals
    if masks is not None:
        _warn_if_cut_off(masks, box, name)
        masks = resize_and_pad(masks[..., None], box, 0.0)[..., 0].clamp(0.0, 1.0)
    if normals is not None:
        normals = functional.normalize(resize_and_pad(normals, box, 0.0), dim=-1)
        if masks is not None:
            normals = normals * (masks > 0)[..., None]
    return colour, masks, normals


def _warn_if_cut_off(masks: Tensor, box: Letterbox, name: str) -> None:
    """Warns if the object touches a border that is padded with background."""
    inside = masks > 0.5  # (V, H, W)
    cut = box.inner_height < box.height and bool(inside[:, [0, -1]].any())
    if cut or (box.inner_width < box.width and bool(inside[:, :, [0, -1]].any())):
        logger.warning(
            "%s: the object touches the border of an image, which is padded with background: it "
            "may be truncated",
            name,
        )


def _with_one_frame(views: Sequence[Views], names: Sequence[str]) -> list[Views]:
    """The same views with their normals in one frame."""
    with_normals = [each.normals is not None for each in views]
    if not any(with_normals):
        return list(views)
    if not all(with_normals):
        given, missing = names[with_normals.index(True)], names[with_normals.index(False)]
        raise InputError(
            f"{given} have normals, but {missing} have none.",
            "Add normals to all of them, or to none.",
        )
    frames = {each.normal_frame for each in views}
    if len(frames) == 1 and "front_view" not in frames:
        return list(views)
    return [each.with_world_normals() for each in views]


def _with_masks(views: Sequence[Views], names: Sequence[str]) -> list[Views]:
    """The same views; if only some have masks, the others get mattes."""
    if all(each.masks is None for each in views):
        return list(views)
    completed = []
    for name, each in zip(names, views, strict=True):
        if each.masks is not None:
            completed.append(each)
            continue
        try:
            masks = matte_from_white(each.colour)
        except InputError as error:
            raise InputError(f"{name}: {error.message}", error.hint) from None
        completed.append(Views(each.cameras, each.colour, masks, each.normals, each.normal_frame))
    return completed


def _check_growth(views: Sequence[Views], size_px: tuple[int, int]) -> None:
    """Raises InputError if one size for all would take far more memory."""
    before = sum(each.colour.shape[:3].numel() for each in views)
    count = sum(len(each) for each in views)
    growth = count * size_px[0] * size_px[1] / before
    if growth > MAX_PIXEL_GROWTH:
        raise InputError(
            f"resizing {count} images to {size_px[0]}x{size_px[1]} px would take {growth:.0f} "
            "times the memory.",
            "Scale down the largest images first.",
        )
