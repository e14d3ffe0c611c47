"""Several textures, tints and painted parts on one texture, without resampling a texel.

Each source keeps its texel grid: the atlas holds the rectangle of texels that the uv reach,
continued at its borders the way the source continues (repeat, mirror, clamp). A bilinear lookup in
the atlas therefore reads the same four texels with the same weights as one in the source.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..mesh import Mesh
from .mesh_parts import Material, Part, Wrap

logger = logging.getLogger(__name__)

PADDING_PX = 2
"""Texels kept around what bilinear lookups reach, against rounding of uv."""
MAX_SIDE_PX = 8192
"""Widest and highest atlas: graphics cards and browsers take no larger texture for granted."""


@dataclass(eq=False)
class _Sheet:
    """One source picture with the meshes that lie on it."""

    picture: np.ndarray
    """(H, W, 3) float32 sRGB."""
    wrap: tuple[Wrap, Wrap] = ("clamp", "clamp")
    may_shrink: bool = False
    meshes: dict[int, Mesh] = field(default_factory=dict)
    """By the part's place in the list; uv count whole pictures."""

    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """First texel (x, y) that lookups and padding touch, and how many (x, y) they are."""
        uv = np.concatenate([mesh.uv.double().numpy() for mesh in self.meshes.values()])
        at = uv * self.picture.shape[1::-1] - 0.5  # whole numbers at texel centres
        low = np.floor(at.min(axis=0)) - PADDING_PX
        high = np.floor(at.max(axis=0)) + 1 + PADDING_PX
        return low, high - low + 1

    def texels(self, low: np.ndarray, size: np.ndarray) -> np.ndarray:
        """(size y, size x, 3) texels from `low` on, continued beyond the picture's borders."""
        rows, columns = (
            _wrapped(np.arange(low[axis], low[axis] + size[axis]), length, self.wrap[axis])
            for axis, length in ((1, self.picture.shape[0]), (0, self.picture.shape[1]))
        )
        return self.picture[rows[:, None], columns]


def one_texture(parts: list[Part]) -> tuple[list[Mesh], Tensor]:
    """One texture for all parts, and their meshes with uv on it and no vertex colours.

    A file with one material keeps texture and uv as they are. Otherwise an atlas is laid out:
    parts of the same texture and tint share one copy; faces of a repeated texture are moved by
    whole tiles towards 0..1 (which splits vertices) and what still reaches beyond is laid out
    tile by tile; a part of one colour gets a few texels; a vertex-coloured part gets 2 x 2 texels a
    face, on which its colours are interpolated as they were. An atlas that would be too large is
    made of smaller pictures, which is logged. Vertex colours on top of a texture are left out.

    Returns:
        The meshes in the order of the parts, and the texture (H, W, 3) float32 sRGB.

    Raises:
        InputError: the textures cannot be made to fit.
    """
    if any(part.is_textured and part.mesh.vertex_colours is not None for part in parts):
        logger.info("vertex colours of textured parts are left out: the texture is kept")
    first = parts[0]
    if _is_one_material(parts):
        meshes = [replace(part.mesh, vertex_colours=None) for part in parts]
        return meshes, torch.from_numpy(first.material.tinted(first.material.texture))

    sheets: dict[object, _Sheet] = {}
    for index, part in enumerate(parts):
        _put_on_a_sheet(sheets, index, part)
    texture, meshes = _laid_out(list(sheets.values()))
    return [meshes[index] for index in range(len(parts))], torch.from_numpy(texture)


def _is_one_material(parts: list[Part]) -> bool:
    """Whether the parts' uv can stay: one texture, and lookups repeat it, as ours do."""
    if not all(part.is_textured for part in parts) or len({_key(p.material) for p in parts}) > 1:
        return False
    return parts[0].material.wrap == ("repeat", "repeat") or all(
        float(part.mesh.uv.min()) >= 0.0 and float(part.mesh.uv.max()) <= 1.0 for part in parts
    )


def _key(material: Material) -> tuple:
    return id(material.texture), material.tint_linear, material.wrap


def _put_on_a_sheet(sheets: dict[object, _Sheet], index: int, part: Part) -> None:
    material, mesh = part.material, part.mesh
    if part.is_textured:
        key = _key(material)
        if key not in sheets:
            sheets[key] = _Sheet(material.tinted(material.texture), material.wrap, may_shrink=True)
        mesh = _folded(mesh, material.wrap)
    elif mesh.vertex_colours is not None:
        key = index
        mesh, picture = _painted_faces(mesh)
        sheets[key] = _Sheet(material.tinted(picture))
    else:
        key = material.tint_linear
        white = np.ones((1, 1, 3), dtype=np.float32)
        sheets.setdefault(key, _Sheet(material.tinted(white)))
        mesh = replace(mesh, uv=torch.full((len(mesh.vertices), 2), 0.5))
    sheets[key].meshes[index] = mesh


def _folded(mesh: Mesh, wrap: tuple[Wrap, Wrap]) -> Mesh:
    """The mesh with each face's uv moved by whole tiles to where its middle lies in 0..1."""
    repeats = torch.tensor([way == "repeat" for way in wrap])
    tiles = torch.floor(mesh.uv[mesh.faces].mean(dim=1)) * repeats  # (F, 2)
    if not bool(tiles.any()):
        return mesh
    corners = torch.cat(
        [mesh.faces[..., None], tiles.long()[:, None].expand(-1, 3, -1)], dim=-1
    )  # (F, 3, 3) vertex, tile u, tile v
    kinds, faces = torch.unique(corners.reshape(-1, 3), dim=0, return_inverse=True)
    moved = _picked(mesh, kinds[:, 0], faces.reshape(-1, 3))
    return replace(moved, uv=moved.uv - kinds[:, 1:])


def _picked(mesh: Mesh, vertices: Tensor, faces: Tensor) -> Mesh:
    """The mesh with chosen vertices (N,), some of them twice, and faces (F, 3) that join them."""
    attributes = {
        name: getattr(mesh, name)[vertices]
        for name in ("vertices", "uv", "normals", "vertex_colours")
        if getattr(mesh, name) is not None
    }
    return replace(mesh, faces=faces, **attributes)


def _painted_faces(mesh: Mesh) -> tuple[Mesh, np.ndarray]:
    """The mesh with three vertices of its own for each face, and a picture of its vertex colours.

    Between the centres of 2 x 2 texels a, b, c and b + c - a, bilinear is linear. The corner of
    middle brightness is taken as a: that keeps the fourth texel within range but for rare hues.
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
    picture = grid.reshape(rows, columns, 2, 2, 3).transpose(1, 2).reshape(2 * rows, 2 * columns, 3)

    index = torch.arange(len(faces))
    corner = torch.stack([index % columns, index // columns], dim=1) * 2.0 + 0.5  # (F, 2) texel a
    uv = corner[:, None] + torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # (F, 3, 2)
    own = torch.arange(3 * len(faces)).reshape(-1, 3)
    split = _picked(mesh, faces.reshape(-1), own)
    uv = uv.reshape(-1, 2) / torch.tensor([2.0 * columns, 2.0 * rows])
    return replace(split, uv=uv), picture.numpy()


def _laid_out(sheets: list[_Sheet]) -> tuple[np.ndarray, dict[int, Mesh]]:
    """The atlas (H, W, 3) float32, and each part's mesh with its uv on it."""
    while True:
        reaches = [sheet.reach() for sheet in sheets]
        places, (width, height) = _shelves([(int(size[0]), int(size[1])) for _, size in reaches])
        if max(width, height) <= MAX_SIDE_PX:
            break
        _shrink_largest(sheets, [float(size.prod()) for _, size in reaches])

    texture = np.zeros((height, width, 3), dtype=np.float32)
    meshes = {}
    for sheet, (low, size), place in zip(sheets, reaches, places, strict=True):
        rows, columns = (slice(place[i], place[i] + int(size[i])) for i in (1, 0))
        texture[rows, columns] = sheet.texels(low, size)
        for index, mesh in sheet.meshes.items():
            at = mesh.uv.double().numpy() * sheet.picture.shape[1::-1] - low + place
            uv = torch.from_numpy(at / (width, height)).float()
            meshes[index] = replace(mesh, uv=uv, vertex_colours=None)
    return texture, meshes


def _shrink_largest(sheets: list[_Sheet], areas: list[float]) -> None:
    """Halves the picture that takes most of the atlas."""
    from skimage.transform import resize

    shrinkable = [
        (area, index)
        for index, area in enumerate(areas)
        if sheets[index].may_shrink and min(sheets[index].picture.shape[:2]) > 1
    ]
    if not shrinkable:
        raise InputError(
            f"its textures do not fit on one of {MAX_SIDE_PX} x {MAX_SIDE_PX} texels.",
            "Some are repeated too often: bake them to one texture in a 3D editor.",
        )
    sheet = sheets[max(shrinkable)[1]]
    height, width = sheet.picture.shape[:2]
    shape = (height // 2, width // 2, 3)
    logger.warning("a texture of %d x %d is halved to fit one atlas", width, height)
    small = resize(sheet.picture, shape, mode="wrap", anti_aliasing=True)
    sheet.picture = small.astype(np.float32)


def _shelves(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Places rectangles (width, height) on rows, the highest first.

    Returns:
        The top left corner (x, y) of each, and the (width, height) of the whole.
    """
    wanted = max(
        max(width for width, _ in sizes),
        math.ceil(math.sqrt(sum(width * height for width, height in sizes))),
    )
    places = [(0, 0)] * len(sizes)
    x = top = bottom = widest = 0
    for index in sorted(range(len(sizes)), key=lambda i: sizes[i][1], reverse=True):
        width, height = sizes[index]
        if x + width > wanted:
            x, top = 0, bottom
        places[index] = (x, top)
        x, bottom = x + width, max(bottom, top + height)
        widest = max(widest, x)
    return places, (widest, bottom)


def _wrapped(index: np.ndarray, length: int, wrap: Wrap) -> np.ndarray:
    """Texel numbers of any size as numbers 0..length-1."""
    index = index.astype(np.int64)
    if wrap == "repeat":
        return index % length
    if wrap == "clamp":
        return index.clip(0, length - 1)
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
