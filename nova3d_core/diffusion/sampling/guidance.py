"""Per-view scales of classifier-free guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..families import GuidanceConfig


def guidance_scales(config: GuidanceConfig, azimuths_deg: Tensor, input_view: int = 0) -> Tensor:
    """The guidance scale of each view; 1 means no guidance.

    The triangle depends on the angle to the input view, s = min + (max - min) |azimuth| / 180, so
    that it suits orbits with arbitrary azimuths. (SV3D's code uses the view index instead and
    reaches the maximum at its middle view, 8.6 degrees from the back; the scales differ by at most
    0.15.)

    Args:
        config: kind, minimum and maximum.
        azimuths_deg: (V,) camera azimuths, in the network's order.
        input_view: index of the view that shows the input image.

    Returns:
        (V,) float32.
    """
    azimuths = azimuths_deg.double()
    low, high = config.min_guidance_scale, config.max_guidance_scale
    if config.kind == "constant":
        scales = torch.full_like(azimuths, high)
    elif config.kind == "linear":
        scales = torch.linspace(low, high, len(azimuths), dtype=torch.float64)
    else:
        angle = (azimuths - azimuths[input_view]) % 360.0
        scales = low + (high - low) * torch.minimum(angle, 360.0 - angle) / 180.0
    return scales.float()
