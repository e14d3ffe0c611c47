"""Bakes colours into a block of texels per face, where no texture of the file holds them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...mesh import Mesh
from ..images.srgb import linear_from_srgb, srgb_from_linear
from .primitives import Primitive, Wrap

MAX_BLOCK_PX = 512
"""Largest side of a face's block of texels."""
_TEXEL_CHUNK = 1 << 18


def select_vertices(mesh: Mesh, vertices: Tensor, faces: Tensor) -> Mesh:
    """The mesh with the vertices at indices (N,), which may repeat, and faces (F, 3) over them."""
    attributes = {
        name: getattr(mesh, name)[vertices]
        for name in ("vertices", "uv", "normals", "vertex_colours", "tangents")
        if getattr(mesh, name) is not None
    }
    return replace(mesh, faces=faces, **attributes)


def bake_vertex_colour_blocks(mesh: Mesh) -> tuple[Mesh, np.ndarray]:
    """Bakes vertex colours into 2 x 2 texels per face; faces get vertices of their own.

    Between the centres of texels a, b, c and b + c - a, bilinear interpolation is linear. The
    corner of median brightness becomes a, which keeps the fourth texel in range for most colours.
    """
    colours = mesh.vertex_colours[mesh.faces]  # (F, 3, 3) corner, channel
    middle = colours.sum(dim=-1).argsort(dim=1)[:, 1]  # (F,)
    order = (middle[:, None] + torch.arange(3)) % 3  # (F, 3)
    faces = torch.gather(mesh.faces, 1, order)
    a, b, c = mesh.vertex_colours[faces].unbind(dim=1)  # (F, 3) each
    blocks = torch.stack([a, b, c, (b + c - a).clamp(0.0, 1.0)], dim=1)  # (F, 4, 3)

    columns = math.ceil(math.sqrt(len(faces)))
    rows = math.ceil(len(faces) / columns)
    grid = torch.zeros(rows * columns, 4, 3)
    grid[: len(faces)] = blocks
    image = grid.reshape(rows, columns, 2, 2, 3).transpose(1, 2).reshape(2 * rows, 2 * columns, 3)

    index = torch.arange(len(faces))
    corner = torch.stack([index % columns, index // columns], dim=1) * 2.0 + 0.5  # (F, 2) texel a
    uv = corner[:, None] + torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # (F, 3, 2)
    split_faces = torch.arange(3 * len(faces)).reshape(-1, 3)
    split = select_vertices(mesh, faces.reshape(-1), split_faces)
    uv = uv.reshape(-1, 2) / torch.tensor([2.0 * columns, 2.0 * rows])
    return replace(split, uv=uv), image.numpy()


def block_sizes(primitive: Primitive, max_texels: int) -> tuple[np.ndarray, bool]:
    """Side of the block of texels for each face of a textured primitive.

    Returns:
        (F,) int64 powers of two, at the texture's resolution if `max_texels` allows it, and
        whether it did.
    """
    corners = primitive.mesh.uv.double().numpy()[primitive.mesh.faces.numpy()]  # (F, 3, 2)
    extent = np.ptp(corners, axis=1) * primitive.material.texture.shape[1::-1]  # (F, 2) texels
    fine = np.log2(np.clip(extent.max(axis=1) + 1.0, 2.0, 2.0**30))
    sizes = 2 ** np.ceil(fine).astype(np.int64)
    is_fine = bool(sizes.max() <= MAX_BLOCK_PX)
    sizes = sizes.clip(2, MAX_BLOCK_PX)
    while (sizes**2).sum() > max_texels and sizes.max() > 2:
        is_fine = False
        sizes = sizes.clip(2, sizes.max() // 2)  # reduce the largest blocks first
    return sizes, is_fine


def bake_textured_blocks(primitive: Primitive, sizes: np.ndarray) -> tuple[Mesh, np.ndarray]:
    """Bakes a primitive's texture times its vertex colours into a block of texels per face.

    Within a block of n x n texels the corners of the face lie at the centres of texels (0, 0),
    (n - 1, 0) and (0, n - 1). Colours are interpolated and multiplied in linear light.

    Args:
        primitive: with a texture, uv and vertex colours.
        sizes: (F,) n of each face, powers of two (see `block_sizes`).

    Returns:
        The mesh with uv on the image, and the image (H, W, 3) float32 sRGB without the tint.
    """
    mesh, material = primitive.mesh, primitive.material
    faces = mesh.faces.numpy()
    positions, (height, width) = _block_positions(sizes)
    image = np.zeros((height, width, 3), np.float32)
    uv = mesh.uv.double().numpy()[faces]  # (F, 3, 2)
    linear = linear_from_srgb(mesh.vertex_colours.numpy())[faces]  # (F, 3, 3) corner, channel
    for size in np.unique(sizes).tolist():
        chosen = np.flatnonzero(sizes == size)
        step = np.arange(size) / (size - 1)
        b, c = np.tile(step, size), np.repeat(step, size)  # (size^2,) along u, along v
        weights = np.stack([1.0 - b - c, b, c], axis=1)
        chunk_faces = max(_TEXEL_CHUNK // size**2, 1)
        for start in range(0, len(chosen), chunk_faces):
            some = chosen[start : start + chunk_faces]
            texel_uv = (weights @ uv[some]).reshape(-1, 2)
            factor = np.clip(weights @ linear[some], 0.0, 1.0).reshape(-1, 3)
            texels = linear_from_srgb(_bilinear(material.texture, material.wrap, texel_uv))
            block = srgb_from_linear(texels * factor).reshape(len(some), size, size, 3)
            steps = np.arange(size)
            rows = positions[some, 1, None, None] + steps[:, None]
            image[rows, positions[some, 0, None, None] + steps] = block
    corners = np.array([[0, 0], [1, 0], [0, 1]])  # (3, 2)
    texels = positions[:, None] + 0.5 + corners * (sizes - 1)[:, None, None]  # (F, 3, 2)
    split_faces = torch.arange(3 * len(faces)).reshape(-1, 3)
    split = select_vertices(mesh, mesh.faces.reshape(-1), split_faces)
    atlas_uv = torch.from_numpy(texels.reshape(-1, 2) / (width, height)).float()
    return replace(split, uv=atlas_uv, vertex_colours=None), image


def _block_positions(sizes: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Top left texel (x, y) (F, 2) of each face's block, and (height, width) of the image."""
    largest = int(sizes.max())
    width = math.ceil(math.sqrt(float((sizes**2).sum())) / largest) * largest
    positions = np.zeros((len(sizes), 2), np.int64)
    top = 0
    for size in np.unique(sizes)[::-1].tolist():
        chosen = np.flatnonzero(sizes == size)
        columns = width // size
        index = np.arange(len(chosen))
        positions[chosen] = np.stack([index % columns, index // columns], axis=1) * size
        positions[chosen, 1] += top
        top += math.ceil(len(chosen) / columns) * size
    return positions, (top, width)


def _bilinear(texture: np.ndarray, wrap: tuple[Wrap, Wrap], uv: np.ndarray) -> np.ndarray:
    """(P, 3) bilinear colours of a texture (H, W, 3) at uv (P, 2)."""
    height, width = texture.shape[:2]
    texel = uv * (width, height) - 0.5
    first = np.floor(texel)
    weight = (texel - first)[:, :, None]  # (P, 2, 1)
    x = [wrap_indices(first[:, 0] + step, width, wrap[0]) for step in (0, 1)]
    y = [wrap_indices(first[:, 1] + step, height, wrap[1]) for step in (0, 1)]
    upper, lower = (
        texture[row, x[0]] * (1.0 - weight[:, 0]) + texture[row, x[1]] * weight[:, 0] for row in y
    )
    return upper * (1.0 - weight[:, 1]) + lower * weight[:, 1]


def wrap_indices(index: np.ndarray, length: int, wrap: Wrap) -> np.ndarray:
    """Maps texel indices of any value to 0..length-1 by the wrap mode."""
    index = index.clip(-(2.0**62), 2.0**62).astype(np.int64)
    if wrap == "repeat":
        return index % length
    if wrap == "clamp":
        return index.clip(0, length - 1)
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
