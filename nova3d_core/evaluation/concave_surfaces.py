"""Procedural concave sheets and bowls with rich textures: surfaces that silhouettes leave open.

From elevation 0 the visual hull fills their concave side, and their normals are integrated over a
wide area; only their texture tells the depth. Their geometry is known exactly.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..imaging.warps import bicubic_image
from ..mesh import Mesh

ConcaveKind = Literal["sheet", "bowl"]
CONCAVE_KINDS: tuple[str, ...] = get_args(ConcaveKind)
GRID = 161
"""Vertices along each side of the front and of the back."""
THICKNESS = 0.03
"""Relative to the longest side, which is about 1."""
_DEPTH = {"sheet": (0.08, 0.16), "bowl": (0.18, 0.30)}
"""Range of the depth of the concave side."""
_BUMP_SIGMA, _BUMP_NODES = 0.012, 4
_TEXTURE_PX = 512
"""Height, and half the width: the front is on the left, the back on the right."""
_OCTAVES = (8, 16, 32, 64, 128)
"""Cells of the texture's noise along the surface: 128 cells are about 1.1 px each at 256 px."""
_CONTRAST = 0.22
"""Standard deviation of the texture's colours."""


def concave_surface(kind: ConcaveKind, seed: int) -> Mesh:
    """A thin concave surface with a random depth, orientation, shape and texture.

    Args:
        kind: sheet: a rectangle curved in both directions; bowl: a deep dish with a round rim.
        seed: the same seed gives the same mesh.

    Returns:
        A closed mesh with outward faces, whose concave side faces azimuth -30 to 30 degrees; the
        longest side is 1 and the centre of its bounding box is the origin.
    """
    random = np.random.default_rng([seed, CONCAVE_KINDS.index(kind)])
    ticks = torch.linspace(-1.0, 1.0, GRID)
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    if kind == "bowl":
        x, y = u * (1.0 - v**2 / 2.0).sqrt(), v * (1.0 - u**2 / 2.0).sqrt()  # square to disc
    else:
        x, y = u, v * random.uniform(0.6, 0.85)
    depth = random.uniform(*_DEPTH[kind])
    curved = 2.0 * depth * (x**2 + y**2) / float((x**2 + y**2).max())
    front = torch.stack([x, y, curved + 2.0 * _bumps(random)], dim=-1) / 2.0
    back = front - THICKNESS * _unit_normals(front)
    angle = math.radians(random.uniform(-30.0, 30.0))
    vertices, faces, uv = _closed(front, back)
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    return Mesh(vertices @ rotation.T, faces, uv, _texture(random)).normalised()


def _bumps(random: np.random.Generator) -> Tensor:
    """(GRID, GRID) smooth random heights."""
    nodes = torch.from_numpy(random.normal(0.0, _BUMP_SIGMA, (1, _BUMP_NODES, _BUMP_NODES)))
    return bicubic_image(nodes.float(), GRID, GRID)[..., 0]


def _unit_normals(points: Tensor) -> Tensor:
    """(H, W, 3) unit normals of a grid of points (H, W, 3), towards +z."""
    along_v, along_u = torch.gradient(points, dim=(0, 1))
    return torch.nn.functional.normalize(torch.linalg.cross(along_u, along_v), dim=-1)


def _closed(front: Tensor, back: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices (N, 3), outward faces (F, 3) and uv (N, 2) of two grids (G, G, 3) and their rim."""
    size = len(front)
    index = torch.arange(size * size).reshape(size, size)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    low_left, low_right, high_right, high_left = (corner.reshape(-1) for corner in corners)
    front_faces = torch.cat(
        [
            torch.stack([low_left, low_right, high_right], dim=1),
            torch.stack([low_left, high_right, high_left], dim=1),
        ]
    )
    back_faces = front_faces.flip(1) + size * size
    # counter-clockwise from the front: bottom, right, top, left; the first vertex is repeated
    border = torch.cat([index[0], index[1:, -1], index[-1].flip(0)[1:], index[:, 0].flip(0)[1:]])
    start = 2 * size * size + torch.arange(len(border) - 1)
    below = start + len(border)
    rim_faces = torch.cat(
        [
            torch.stack([start, below, below + 1], dim=1),
            torch.stack([start, below + 1, start + 1], dim=1),
        ]
    )
    ticks = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    uv = torch.stack([u / 2.0, 1.0 - v], dim=-1).reshape(-1, 2)
    fronts, backs = front.reshape(-1, 3), back.reshape(-1, 3)
    vertices = torch.cat([fronts, backs, fronts[border], backs[border]])
    shifted = uv + uv.new_tensor([0.5, 0.0])
    coordinates = torch.cat([uv, shifted, uv[border], uv[border]])
    return vertices, torch.cat([front_faces, back_faces, rim_faces]), coordinates


def _texture(random: np.random.Generator) -> Tensor:
    """(H, 2 H, 3) coloured noise with equal contrast in all octaves."""
    size = (_TEXTURE_PX, 2 * _TEXTURE_PX)
    total = torch.zeros(3, *size)
    for cells in _OCTAVES:
        nodes = torch.from_numpy(random.normal(0.0, 1.0, (1, 3, cells, 2 * cells))).float()
        total += torch.nn.functional.interpolate(
            nodes, size=size, mode="bicubic", align_corners=False
        )[0]
    total = total / total.std()
    return (0.5 + _CONTRAST * total).clamp(0.0, 1.0).permute(1, 2, 0)
