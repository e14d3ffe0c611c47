"""Per-view scales of classifier-free guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..families import Family, GuidanceConfig
from .trajectory import CameraTrajectory


def guidance_scales(config: GuidanceConfig, family: Family, trajectory: CameraTrajectory) -> Tensor:
    """The guidance scale of each view; 1 means no guidance.

    The triangle follows the index of the view where the family does and the orbit is the trained
    one. Else it follows the angle from the input view, which suits any azimuths.

    Args:
        config: kind, minimum and maximum.
        family: the model's family.
        trajectory: V cameras in the network's order.

    Returns:
        (V,) float32.
    """
    low, high = config.min_guidance_scale, config.max_guidance_scale
    views = len(trajectory.azimuths_deg)
    if config.kind == "constant":
        return torch.full((views,), high)
    if config.kind == "linear":
        return torch.linspace(low, high, views, dtype=torch.float64).float()
    if family.triangle_by_index and trajectory.evenly_spaced:
        return triangle_by_index(views, low, high)
    return triangle_by_angle(trajectory.azimuths_deg, low, high)


def triangle_by_index(views: int, low: float, high: float) -> Tensor:
    """Triangle wave over the view indices, as SV3D's guider computes it: (V,) float32.

    With 21 views, of which the last shows the input image, index 0 (17 degrees from it) has no
    guidance, and the maximum is at index 10, 171 degrees from it.
    """
    ramp = torch.linspace(0.0, 1.0, views)
    wave = 2.0 * (ramp - torch.floor(ramp + 0.5)).abs()
    return wave * (high - low) + low


def triangle_by_angle(azimuths_deg: Tensor, low: float, high: float) -> Tensor:
    """s = low + (high - low) |azimuth| / 180 of azimuths (V,) relative to the input view."""
    angle = azimuths_deg.double() % 360.0
    return (low + (high - low) * torch.minimum(angle, 360.0 - angle) / 180.0).float()
