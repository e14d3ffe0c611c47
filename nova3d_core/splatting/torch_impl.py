"""Reference rasteriser in PyTorch; `warp_impl.py` has the same function.

It evaluates every splat at every pixel, in the dtype of its inputs: for tests and small images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .constants import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE
from .projection import ProjectedSplats

_PIXELS_PER_CHUNK = 1024


def rasterise(
    projected: ProjectedSplats, opacities: Tensor, colours: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """Alpha-composites splats front to back, in the order of their depths.

    alpha_i = min(o_i exp(-q_i), 0.999) with q_i = (p - m_i)^T C_i (p - m_i) / 2; the transmittance
    T_i is the product of 1 - alpha_j of all splats j in front; the result is the sum of
    colour_i alpha_i T_i.

    Args:
        projected: N splats in the image.
        opacities: (N,) in 0..1.
        colours: (N, C) values of any channels, for example colour and depth.
        width: in pixels.
        height: in pixels.

    Returns:
        (H, W, C) composited channels without background, and (H, W) transmittance behind all
        splats.
    """
    is_visible = (projected.extents > 0).all(dim=1)
    order = torch.argsort(projected.depths.detach(), stable=True)
    order = order[is_visible[order]]
    means, conics = projected.means[order], projected.conics[order]
    opacities, colours = opacities[order], colours[order]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = (torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5).to(means)  # (P, 2)
    images, transmittances = [], []
    for chunk in pixels.split(_PIXELS_PER_CHUNK):
        offset = means - chunk[:, None]  # (p, n, 2)
        xx, xy, yy = conics.unbind(dim=1)
        dx, dy = offset.unbind(dim=-1)
        power = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
        alpha = (opacities * torch.exp(-power)).clamp_max(MAX_ALPHA)  # (p, n)
        alpha = torch.where((power >= 0) & (alpha >= MIN_ALPHA), alpha, 0.0)
        after = torch.cumprod(1.0 - alpha, dim=1)  # transmittance behind each splat
        alpha = torch.where(after.detach() >= MIN_TRANSMITTANCE, alpha, 0.0)
        after = torch.cumprod(1.0 - alpha, dim=1)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
        images.append((alpha * before) @ colours)
        transmittances.append(1.0 - (alpha * before).sum(dim=1))
    return (
        torch.cat(images).reshape(height, width, -1),
        torch.cat(transmittances).reshape(height, width),
    )
