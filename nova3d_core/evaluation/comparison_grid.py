"""Image grid that compares a result with its reference, pose by pose."""

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
"""Target azimuth and elevation of the rows: front, back, from above, from below."""


def comparison_grid(
    reference_rendering: Rendering,
    result_rendering: Rendering,
    rows: Sequence[int] | None = None,
    difference_factor: float = DIFFERENCE_FACTOR,
) -> Tensor:
    """Grid with one row per pose: reference, result, difference, normals of both if there are any.

    Args:
        reference_rendering: V views of the reference.
        result_rendering: the same views of the result.
        rows: view indices to show; by default those nearest to front, back, above and below.
        difference_factor: gain of the absolute colour difference; shown in the title.

    Returns:
        (4 + rows * (18 + H + 4), 4 + columns * (W + 4), 3) float32 in 0..1, with 5 columns, or 3
        if the result has no normals.

    Raises:
        InputError: different views, missing masks, or a reference without normals.
    """
    truth, result = reference_rendering.views, result_rendering.views
    if truth.colour.shape != result.colour.shape:
        raise InputError(
            f"a comparison grid needs the same views of both meshes, but their shapes are "
            f"{tuple(truth.colour.shape)} and {tuple(result.colour.shape)}.",
            "Render both from the same cameras.",
        )
    rows = nearest_views(truth) if rows is None else list(rows)
    titles = ["reference", "result", f"difference x {difference_factor:g}"]
    if result.normals is not None:
        titles += ["reference normals", "result normals"]
    height, width = truth.colour.shape[1:3]
    grid = torch.ones(
        GAP_PX + len(rows) * (TITLE_PX + height + GAP_PX),
        GAP_PX + len(titles) * (width + GAP_PX),
        3,
    )
    labels: list[tuple[int, int, str]] = []
    for row, view in enumerate(rows):
        top = GAP_PX + row * (TITLE_PX + height + GAP_PX)
        pose = _pose_label(truth, view)
        for column, cell in enumerate(_cells(truth, result, view, difference_factor)):
            left = GAP_PX + column * (width + GAP_PX)
            grid[top + TITLE_PX : top + TITLE_PX + height, left : left + width] = cell
            text = f"{titles[column]}, {pose}" if column == 0 else titles[column]
            labels.append((left, top + 2, text))
    return _with_labels(grid, labels)


def nearest_views(views: Views) -> list[int]:
    """Indices of the views closest to front, back, above and below, without repeats."""
    azimuth, elevation = views.cameras.azimuth_deg, views.cameras.elevation_deg
    indices: list[int] = []
    for target_azimuth, target_elevation in POSES_DEG:
        azimuth_difference = (azimuth - target_azimuth + 180.0) % 360.0 - 180.0
        distance = torch.hypot(azimuth_difference, 2.0 * (elevation - target_elevation))
        view = int(distance.argmin())
        if view not in indices:
            indices.append(view)
    return indices


def _cells(truth: Views, result: Views, view: int, factor: float) -> list[Tensor]:
    """The images (H, W, 3) of a row."""
    difference = (truth.colour[view] - result.colour[view]).abs() * factor
    cells = [truth.colour[view], result.colour[view], difference.clamp(0.0, 1.0)]
    if result.normals is not None:
        cells += [_normal_image(truth, view), _normal_image(result, view)]
    return cells


def _normal_image(views: Views, view: int) -> Tensor:
    """World normals as colours (H, W, 3) on white."""
    if views.normals is None or views.masks is None:
        raise InputError("a comparison grid needs images with masks and normals.")
    mask = views.masks[view, ..., None]
    colour = encode_normals(views.with_world_normals().normals[view])
    return (mask * colour + 1.0 - mask).clamp(0.0, 1.0)


def _pose_label(views: Views, view: int) -> str:
    azimuth = float(views.cameras.azimuth_deg[view])
    elevation = round(float(views.cameras.elevation_deg[view]))
    return f"az {azimuth:.4g} el {elevation:+d}" if elevation else f"az {azimuth:.4g} el 0"


def _with_labels(grid: Tensor, labels: list[tuple[int, int, str]]) -> Tensor:
    """The grid with black labels drawn at (left, top)."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray((grid.numpy() * 255.0).round().astype(np.uint8))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    for left, top, text in labels:
        draw.text((left, top), text, fill=(0, 0, 0), font=font)
    return torch.from_numpy(np.array(image)).float() / 255.0
