"""How close images are: PSNR, SSIM, silhouettes and normals, each on whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...cameras.cameras import Cameras, cameras_at
from ...cameras.rigs import RigConfig
from ...errors import InputError
from ...progress import SILENT, Progress
from ...views import Views

PSNR_CAP_DB = 99.0
"""Identical images have no error to compare with: they score this, and nothing scores more."""
MASK_THRESHOLD = 0.5
LEVEL_VIEWS, RAISED_VIEWS = 16, 8
RAISED_DEG = 25.0
GROUPS = {
    "all": slice(0, LEVEL_VIEWS + 2 * RAISED_VIEWS),
    "el0": slice(0, LEVEL_VIEWS),
    "el25": slice(LEVEL_VIEWS, LEVEL_VIEWS + 2 * RAISED_VIEWS),
}
"""Which of the 32 poses each group of figures covers."""


def evaluation_cameras(image_px: int = 256) -> Cameras:
    """The 32 poses of re-rendered images: none of them is a pose of the default rig.

    16 at elevation 0, half a step beside the input poses; 8 at +25 and 8 at -25 degrees, every 45
    degrees of azimuth. Lens and radius are the default rig's.
    """
    step = 360.0 / LEVEL_VIEWS
    azimuths = [(i + 0.5) * step for i in range(LEVEL_VIEWS)]
    elevations = [0.0] * LEVEL_VIEWS
    for elevation in (RAISED_DEG, -RAISED_DEG):
        azimuths += [i * 360.0 / RAISED_VIEWS for i in range(RAISED_VIEWS)]
        elevations += [elevation] * RAISED_VIEWS
    return cameras_at(azimuths, elevations, RigConfig(width_px=image_px, height_px=image_px))


def psnr(result: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images (H, W, 3) in 0..1, at most 99."""
    error = float((result.double() - reference.double()).square().mean())
    return min(-10.0 * math.log10(error), PSNR_CAP_DB) if error > 0 else PSNR_CAP_DB


def ssim(result: Tensor, reference: Tensor) -> float:
    """Structural similarity of two images (H, W, 3) in 0..1, of at least 11 x 11 pixels.

    A Gaussian window of sigma 1.5 and 11 pixels, biased covariances, mean over channels: the
    original definition, which torchmetrics follows too.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            result.cpu().numpy(),
            reference.cpu().numpy(),
            win_size=11,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=-1,
        )
    )


def mask_iou(result: Tensor, reference: Tensor) -> float:
    """Overlap of two silhouettes (H, W), cut at 0.5; 1 if both are empty."""
    a, b = result > MASK_THRESHOLD, reference > MASK_THRESHOLD
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def normal_error_deg(result: Tensor, reference: Tensor, both: Tensor) -> float | None:
    """Mean angle in degrees between normals (H, W, 3) of one frame, where `both` (H, W) is True.

    None where no pixel counts. Pixels where either image has no normal (length 0) do not count.
    """
    a, b = result[both].double(), reference[both].double()  # (P, 3)
    present = (a.norm(dim=-1) > 0.5) & (b.norm(dim=-1) > 0.5)
    a, b = a[present], b[present]
    if len(a) == 0:
        return None
    # atan2 keeps small angles that arccos rounds away
    angles = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1))
    return float(torch.rad2deg(angles).mean())


def image_figures(
    result: Views, reference: Views, progress: Progress = SILENT
) -> list[dict[str, float | None]]:
    """Figures of each of V images: `psnr`, `ssim`, `mask_iou`, `normal_error_deg`.

    Args:
        result: images on white with masks and normals.
        reference: the same views of the reference.
        progress: told about each view.

    Raises:
        InputError: if the two do not have the same views, or one lacks masks or normals.
    """
    if result.colour.shape != reference.colour.shape:
        raise InputError(
            f"images of shape {tuple(result.colour.shape)} cannot be compared with "
            f"{tuple(reference.colour.shape)}.",
            "Render both from the same cameras.",
        )
    for name, views in (("result", result), ("reference", reference)):
        if views.masks is None or views.normals is None:
            raise InputError(f"the {name} images have no masks or no normals to compare.")
    result, reference = result.with_world_normals(), reference.with_world_normals()
    return [
        _figures_of(result, reference, view)
        for view in progress.track(range(len(result)), "comparing", len(result))
    ]


def _figures_of(result: Views, reference: Views, view: int) -> dict[str, float | None]:
    masks = result.masks[view], reference.masks[view]
    both = (masks[0] > MASK_THRESHOLD) & (masks[1] > MASK_THRESHOLD)
    colours = result.colour[view], reference.colour[view]
    return {
        "psnr": psnr(*colours),
        "ssim": ssim(*colours),
        "mask_iou": mask_iou(*masks),
        "normal_error_deg": normal_error_deg(result.normals[view], reference.normals[view], both),
    }


def mean_figures(figures: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each figure over images; images that have none are left out."""
    means: dict[str, float | None] = {}
    for name in figures[0]:
        values = [image[name] for image in figures if image[name] is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


def grouped_figures(
    figures: Sequence[dict[str, float | None]],
) -> dict[str, dict[str, float | None]]:
    """Means over `evaluation_cameras`' 32 poses: all, elevation 0, elevation +-25."""
    return {name: mean_figures(figures[which]) for name, which in GROUPS.items()}
