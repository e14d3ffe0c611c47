"""Image metrics: PSNR, SSIM, LPIPS, mask IoU and normal error, each over whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...cameras.cameras import Cameras, cameras_at
from ...cameras.rigs import RigConfig
from ...errors import InputError
from ...perceptual.lpips import Lpips
from ...progress import SILENT, Progress
from ...views import Views

PSNR_CAP_DB = 99.0
"""Upper bound; the score of identical images."""
MASK_THRESHOLD = 0.5
HORIZONTAL_VIEWS, ELEVATED_VIEWS = 16, 8
ELEVATION_DEG = 25.0
GROUPS = {
    "all": slice(0, HORIZONTAL_VIEWS + 2 * ELEVATED_VIEWS),
    "el0": slice(0, HORIZONTAL_VIEWS),
    "el25": slice(HORIZONTAL_VIEWS, HORIZONTAL_VIEWS + 2 * ELEVATED_VIEWS),
}
"""Poses of each group, as slices of the 32 evaluation poses."""


def evaluation_cameras(image_px: int = 256) -> Cameras:
    """The 32 evaluation poses; none of them is in the default rig.

    16 at elevation 0, midway between the input azimuths; 8 at +25 and 8 at -25 degrees, every 45
    degrees of azimuth. Focal length and radius are those of the default rig.
    """
    step = 360.0 / HORIZONTAL_VIEWS
    azimuths = [(i + 0.5) * step for i in range(HORIZONTAL_VIEWS)]
    elevations = [0.0] * HORIZONTAL_VIEWS
    for elevation in (ELEVATION_DEG, -ELEVATION_DEG):
        azimuths += [i * 360.0 / ELEVATED_VIEWS for i in range(ELEVATED_VIEWS)]
        elevations += [elevation] * ELEVATED_VIEWS
    return cameras_at(azimuths, elevations, RigConfig(width_px=image_px, height_px=image_px))


def psnr(result: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images (H, W, 3) in 0..1, at most 99."""
    error = float((result.double() - reference.double()).square().mean())
    return min(-10.0 * math.log10(error), PSNR_CAP_DB) if error > 0 else PSNR_CAP_DB


def ssim(result: Tensor, reference: Tensor) -> float:
    """Structural similarity of two images (H, W, 3) in 0..1, of at least 11 x 11 pixels.

    Gaussian window of sigma 1.5 and 11 pixels, biased covariances, mean over channels: the original
    definition, as in torchmetrics.
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
    """IoU of two masks (H, W), thresholded at 0.5; 1 if both are empty."""
    a, b = result > MASK_THRESHOLD, reference > MASK_THRESHOLD
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def normal_error_deg(result: Tensor, reference: Tensor, both: Tensor) -> float | None:
    """Mean angle in degrees between normals (H, W, 3) in one frame, where `both` (H, W) is True.

    Pixels where either normal is zero are ignored; None if no pixel remains.
    """
    a, b = result[both].double(), reference[both].double()  # (P, 3)
    valid = (a.norm(dim=-1) > 0.5) & (b.norm(dim=-1) > 0.5)
    a, b = a[valid], b[valid]
    if len(a) == 0:
        return None
    # atan2: arccos is inaccurate for small angles
    angles = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1))
    return float(torch.rad2deg(angles).mean())


def lpips(net: Lpips, result: Tensor, reference: Tensor) -> float:
    """Perceptual distance of two images (H, W, 3) in 0..1 with one backbone."""
    with torch.no_grad():
        return float(net(result[None], reference[None]))


def image_metrics(
    result: Views,
    reference: Views,
    progress: Progress = SILENT,
    lpips_nets: Sequence[Lpips] = (),
) -> list[dict[str, float | None]]:
    """Metrics of each of V images: `psnr`, `ssim`, `mask_iou`, with normals `normal_error_deg`.

    Args:
        result: images on white with masks; the normal error is left out if they have no normals.
        reference: the same views of the reference.
        progress: receives each view.
        lpips_nets: each adds a metric `lpips_NET`.

    Raises:
        InputError: different views, missing masks, or a reference without normals.
    """
    if result.colour.shape != reference.colour.shape:
        raise InputError(
            f"images of shape {tuple(result.colour.shape)} cannot be compared with "
            f"{tuple(reference.colour.shape)}.",
            "Render both from the same cameras.",
        )
    for name, views in (("result", result), ("reference", reference)):
        if views.masks is None:
            raise InputError(f"the {name} images have no masks to compare.")
    if reference.normals is None:
        raise InputError("the reference images have no normals to compare.")
    result, reference = result.with_world_normals(), reference.with_world_normals()
    return [
        _view_metrics(result, reference, view, lpips_nets)
        for view in progress.track(range(len(result)), "comparing", len(result))
    ]


def _view_metrics(
    result: Views, reference: Views, view: int, lpips_nets: Sequence[Lpips]
) -> dict[str, float | None]:
    masks = result.masks[view], reference.masks[view]
    both = (masks[0] > MASK_THRESHOLD) & (masks[1] > MASK_THRESHOLD)
    colours = result.colour[view], reference.colour[view]
    metrics = {
        "psnr": psnr(*colours),
        "ssim": ssim(*colours),
        "mask_iou": mask_iou(*masks),
    }
    if result.normals is not None:
        normals = result.normals[view], reference.normals[view]
        metrics["normal_error_deg"] = normal_error_deg(*normals, both)
    return {
        **metrics,
        **{f"lpips_{net.net}": lpips(net, *colours) for net in lpips_nets},
    }


def mean_metrics(metrics: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each metric over the images that have it."""
    means: dict[str, float | None] = {}
    for name in metrics[0]:
        values = [image[name] for image in metrics if image[name] is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


def metrics_by_elevation(
    metrics: Sequence[dict[str, float | None]],
) -> dict[str, dict[str, float | None]]:
    """Means over the 32 poses of `evaluation_cameras`: all, elevation 0, elevation +-25."""
    return {name: mean_metrics(metrics[which]) for name, which in GROUPS.items()}
