"""How strongly each view is pushed towards the input image (classifier-free guidance)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..families import GuidanceConfig


def guidance_scales(config: GuidanceConfig, azimuths_deg: Tensor, input_view: int = 0) -> Tensor:
    """A scale for every view; 1 is the network's own answer with the image.

    The triangle goes by angle: `min_guidance_scale` at the input view, `max_guidance_scale` opposite to it, and in between
    s = lowest + (highest - lowest) |azimuth| / 180, so an orbit may have any azimuths. (SV3D's own
    code goes by the place in the list, 0 at both of its ends, and so reaches `max_guidance_scale` at its
    middle view, which stands 8.6 degrees from the back; no scale differs by more than 0.15.)

    Args:
        config: shape and height.
        azimuths_deg: (V,) of the cameras, in the network's order.
        input_view: the view that shows the input image.

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
        turn = (azimuths - azimuths[input_view]) % 360.0
        scales = low + (high - low) * torch.minimum(turn, 360.0 - turn) / 180.0
    return scales.float()
