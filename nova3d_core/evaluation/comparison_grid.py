"""One image that shows how a result compares with the truth, pose by pose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..conventions import encode_normals
from ..errors import InputError
from ..rendering.views import Rendering
from ..views import Views

DIFFERENCE_FACTOR = 4.0
GAP_PX = 4
TITLE_PX = 18
POSES_DEG = ((0.0, 0.0), (180.0, 0.0), (45.0, 25.0), (225.0, -25.0))
"""Azimuth and elevation that the rows look for: front, back, from above, from below."""


def comparison_sheet(
    reference_rendering: Rendering,
    result_rendering: Rendering,
    rows: Sequence[int] | None = None,
    difference_factor: float = DIFFERENCE_FACTOR,
) -> Tensor:
    """A sheet with a row for each of a few poses: truth, result, difference, both normals.

    Args:
        reference_rendering: V views of the truth.
        result_rendering: the same views of the result.
        rows: which views to show; by default those nearest to front, back, above and below.
        difference_factor: how much the absolute colour difference is amplified; written above it.

    Returns:
        (4 + rows * (18 + H + 4), 4 + 5 * (W + 4), 3) float32 in 0..1.

    Raises:
        InputError: if the two do not show the same views, or lack masks or normals.
    """
    truth, result = reference_rendering.views, result_rendering.views
    if truth.colour.shape != result.colour.shape:
        raise InputError(
            f"a sheet needs the same views twice, but they are {tuple(truth.colour.shape)} and "
            f"{tuple(result.colour.shape)}.",
            "Render both from the same cameras.",
        )
    rows = nearest_views(truth) if rows is None else list(rows)
    titles = ["truth", "result", f"difference x {difference_factor:g}"]
    titles += ["truth normals", "result normals"]
    height, width = truth.colour.shape[1:3]
    sheet = torch.ones(
        GAP_PX + len(rows) * (TITLE_PX + height + GAP_PX), GAP_PX + 5 * (width + GAP_PX), 3
    )
    labels: list[tuple[int, int, str]] = []
    for row, view in enumerate(rows):
        top = GAP_PX + row * (TITLE_PX + height + GAP_PX)
        pose = _pose_label(truth, view)
        for column, cell in enumerate(_cells(truth, result, view, difference_factor)):
            left = GAP_PX + column * (width + GAP_PX)
            sheet[top + TITLE_PX : top + TITLE_PX + height, left : left + width] = cell
            text = f"{titles[column]}, {pose}" if column == 0 else titles[column]
            labels.append((left, top + 2, text))
    return _with_labels(sheet, labels)


def nearest_views(views: Views) -> list[int]:
    """The views that look most nearly from front, back, above and below, without repeats."""
    azimuth, elevation = views.cameras.azimuth_deg, views.cameras.elevation_deg
    chosen: list[int] = []
    for wanted_azimuth, wanted_elevation in POSES_DEG:
        turn = (azimuth - wanted_azimuth + 180.0) % 360.0 - 180.0
        distance = torch.hypot(turn, 2.0 * (elevation - wanted_elevation))
        view = int(distance.argmin())
        if view not in chosen:
            chosen.append(view)
    return chosen


def _cells(truth: Views, result: Views, view: int, factor: float) -> list[Tensor]:
    """The five images (H, W, 3) of a row."""
    difference = (truth.colour[view] - result.colour[view]).abs() * factor
    return [
        truth.colour[view],
        result.colour[view],
        difference.clamp(0.0, 1.0),
        _normal_image(truth, view),
        _normal_image(result, view),
    ]


def _normal_image(views: Views, view: int) -> Tensor:
    """World normals as colours (H, W, 3) on white."""
    if views.normals is None or views.masks is None:
        raise InputError("a sheet needs images with masks and normals.")
    mask = views.masks[view, ..., None]
    colour = encode_normals(views.with_world_normals().normals[view])
    return (mask * colour + 1.0 - mask).clamp(0.0, 1.0)


def _pose_label(views: Views, view: int) -> str:
    azimuth = float(views.cameras.azimuth_deg[view])
    elevation = round(float(views.cameras.elevation_deg[view]))
    return f"az {azimuth:.4g} el {elevation:+d}" if elevation else f"az {azimuth:.4g} el 0"


def _with_labels(sheet: Tensor, labels: list[tuple[int, int, str]]) -> Tensor:
    """The sheet with black text written onto it at (left, top)."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray((sheet.numpy() * 255.0).round().astype(np.uint8))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for left, top, text in labels:
        draw.text((left, top), text, fill=(0, 0, 0), font=font)
    return torch.from_numpy(np.array(image)).float() / 255.0
