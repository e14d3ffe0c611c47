"""Seams of a texture: the two sides of a cut edge are one line on the surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..imaging.sampling import sample_texture
from ..mesh import Mesh
from .fill import nearest_texels
from .texels import Texels

MAX_POINTS = 1_000_000
ITERATIONS = 10
"""Relaxations of `level_seams`; each halves the difference at most."""


@dataclass(frozen=True, eq=False)
class SeamPoints:
    """P points on the seams, at most a texel apart, with their two texture coordinates."""

    first: Tensor
    """(P, 2) uv on one side."""
    second: Tensor
    """(P, 2) uv on the other side."""
    length: Tensor
    """(P,) length of the seam that the point stands for, in world units."""


def seam_points(mesh: Mesh, size_px: tuple[int, int]) -> SeamPoints:
    """Points on the edges whose two faces have different texture coordinates.

    Args:
        mesh: with uv.
        size_px: height and width of the texture, which set the spacing.
    """
    _, position = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    swapped = position[edges[:, 0]] > position[edges[:, 1]]
    edges = torch.where(swapped[:, None], edges.flip(1), edges)  # (E, 2)
    ends = position[edges]
    key = ends[:, 0] * (int(position.max()) + 1) + ends[:, 1]
    order = torch.argsort(key, stable=True)
    key, edges = key[order], edges[order]
    same = torch.nonzero(key[1:] == key[:-1])[:, 0]
    first, second = edges[same], edges[same + 1]  # (S, 2) vertices
    uv = torch.stack([mesh.uv[first], mesh.uv[second]])  # (2, S, 2, 2): side, seam, end, axis
    cut = (uv[0] - uv[1]).abs().amax(dim=(1, 2)) > 1e-6
    uv, first = uv[:, cut], first[cut]
    extent = (uv[:, :, 1] - uv[:, :, 0]) * uv.new_tensor([size_px[1], size_px[0]])
    count = extent.norm(dim=-1).amax(dim=0).ceil().clamp(1, 1024).long()  # (S,)
    if int(count.sum()) > MAX_POINTS:
        count = (count * (MAX_POINTS / int(count.sum()))).ceil().long()
    edge = torch.repeat_interleave(torch.arange(len(count)), count)
    start = torch.cumsum(count, 0) - count
    along = ((torch.arange(len(edge)) - start[edge]) + 0.5) / count[edge]
    points = torch.lerp(uv[:, edge, 0], uv[:, edge, 1], along[:, None])
    length = (mesh.vertices[first[:, 1]] - mesh.vertices[first[:, 0]]).norm(dim=1)
    return SeamPoints(points[0], points[1], (length / count)[edge])


def seam_difference(mesh: Mesh) -> float:
    """Mean absolute colour difference across the seams of a textured mesh; 0 without seams."""
    points = seam_points(mesh, tuple(mesh.texture.shape[:2]))
    sides = [sample_texture(mesh.texture, uv) for uv in (points.first, points.second)]
    difference = (sides[0] - sides[1]).abs().mean(dim=1)
    return float((difference * points.length).sum() / points.length.sum().clamp_min(1e-12))


def level_seams(mesh: Mesh, texture: Tensor, texels: Texels, movable: Tensor) -> Tensor:
    """Colours (T, 3) of the texels, where movable ones next to seams agree across them.

    Args:
        mesh: with uv.
        texture: (h, w, 3).
        texels: T texels of the texture.
        movable: (T,) bool: the others keep their colours, bit for bit.
    """
    height, width = texels.size_px
    points, nearest = seam_points(mesh, (height, width)), nearest_texels(texels)
    first, second = (_taps(uv, height, width, nearest) for uv in (points.first, points.second))
    index = torch.cat([first[0], second[0]], dim=1)  # (P, 8)
    weights = torch.cat([first[1], -second[1]], dim=1)[..., None]  # (P, 8, 1)
    colours = texture.reshape(-1, 3).clone()
    total = torch.zeros(len(colours)).index_add_(0, index.flatten(), weights.abs().flatten())
    rate = torch.zeros(len(colours))
    rate[texels.index] = 0.5 * movable.float()
    rate = (rate / total.clamp_min(1e-6))[:, None]
    for _ in range(ITERATIONS):
        difference = (colours[index] * weights).sum(dim=1, keepdim=True)  # (P, 1, 3)
        moves = (weights * difference).reshape(-1, 3)
        colours -= rate * torch.zeros_like(colours).index_add_(0, index.flatten(), moves)
    return colours[texels.index]


def _taps(uv: Tensor, height: int, width: int, nearest: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (P, 4) and weights (P, 4) of bilinear lookups; padding stands for what it copies."""
    x, y = uv[:, 0].remainder(1.0) * width - 0.5, uv[:, 1].remainder(1.0) * height - 0.5
    left, top = x.floor(), y.floor()
    right_weight, bottom_weight = x - left, y - top
    columns = [(left.long() + step).remainder(width) for step in (0, 1)]
    rows = [(top.long() + step).remainder(height) for step in (0, 1)]
    index = torch.stack([row * width + column for row in rows for column in columns], dim=1)
    weights = [
        vertical * horizontal
        for vertical in (1.0 - bottom_weight, bottom_weight)
        for horizontal in (1.0 - right_weight, right_weight)
    ]
    return nearest[index], torch.stack(weights, dim=1)
