"""Several textures, tints and vertex-coloured parts on one texture, without resampling a texel.

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

from ...errors import InputError
from ...mesh import Mesh
from ..images.srgb import linear_from_srgb
from .primitives import Material, Part, Wrap
from .texture_blocks import (
    block_sizes,
    picked,
    textured_blocks,
    vertex_colour_blocks,
    wrapped,
)

logger = logging.getLogger(__name__)

PADDING_PX = 2
"""Texels kept around what bilinear lookups reach, against rounding of uv."""
MAX_SIDE_PX = 8192
"""Widest and highest atlas: graphics cards and browsers take no larger texture for granted."""
MAX_REPEATED_TEXELS = 1 << 23
"""Texels that an atlas may have beyond 1.25 times those of its sources, for textures that repeat
within a face, or are used under several tints."""
MAX_BLOCK_TEXELS = 1 << 23
"""Texels for faces whose texture is multiplied by vertex colours that vary."""
_TEXELS_AT_ONCE = 1 << 19
_CONSTANT_WITHIN = 1e-3
"""Vertex colours that differ by less, an eighth of an 8-bit level, are one colour."""
_MAX_TILE = 2.0**40


@dataclass(eq=False)
class _Sheet:
    """One source image with the meshes that lie on it."""

    source: np.ndarray
    """(H, W, 3) float32 sRGB, without the tint; sheets may share it."""
    material: Material
    """Its tint and wrap modes; its own texture is not used."""
    may_shrink: bool = False
    halvings: int = 0
    is_flat: bool = False
    """Whether the mean colour stands for the image."""
    meshes: dict[int, Mesh] = field(default_factory=dict)
    """By the part's index; uv count whole images."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width after reduction."""
        height, width = self.source.shape[:2]
        return max(height >> self.halvings, 1), max(width >> self.halvings, 1)

    def bounds(self) -> np.ndarray:
        """(2, 2) lowest and highest u, v that faces have."""
        corners = [mesh.uv[mesh.faces.reshape(-1)] for mesh in self.meshes.values()]
        low = torch.stack([uv.amin(dim=0) for uv in corners]).amin(dim=0)
        high = torch.stack([uv.amax(dim=0) for uv in corners]).amax(dim=0)
        return torch.stack([low, high]).double().numpy()

    def reach(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First texel (x, y) that lookups and padding touch, and how many (x, y) they are."""
        if self.is_flat:
            bounds = np.full((2, 2), 0.5)
        low, high = bounds * self.shape[::-1] - 0.5  # integers at texel centres
        low = np.floor(low) - PADDING_PX
        return low, np.floor(high) + 1 + PADDING_PX - low + 1

    def halve(self) -> None:
        """Makes the image half as wide and high, and finally its mean colour."""
        if self.shape == (1, 1):
            self.is_flat = True
        else:
            self.halvings += 1

    def copy_into(
        self, target: np.ndarray, low: np.ndarray, halved: dict[tuple[int, int], np.ndarray]
    ) -> None:
        """Fills `target` (H, W, 3) with texels from `low` (x, y) on, continued beyond borders.

        `halved` keeps reduced sources, by their identity and halvings, for other sheets.
        """
        source = self.source
        for step in range(1, self.halvings + 1):
            key = id(self.source), step
            if key not in halved:
                halved[key] = _halved(source)
            source = halved[key]
        height, width = target.shape[:2]
        columns = wrapped(low[0] + np.arange(width), self.shape[1], self.material.wrap[0])
        rows = wrapped(low[1] + np.arange(height), self.shape[0], self.material.wrap[1])
        step = max(_TEXELS_AT_ONCE // width, 1)
        for start in range(0, height, step):
            some = source[rows[start : start + step, None], columns]
            target[start : start + step] = self.material.tinted(some)


def one_texture(parts: list[Part]) -> tuple[list[Mesh], Tensor]:
    """One texture for all parts, and their meshes with uv on it and no vertex colours.

    A file with one material keeps texture and uv as they are. Otherwise an atlas is laid out:
    parts of the same texture and tint share one copy; faces of a repeated texture are moved by
    whole tiles towards 0..1 (which splits vertices) and what still reaches beyond is laid out
    tile by tile; a part of one colour gets a few texels; a vertex-coloured part gets 2 x 2 texels a
    face, on which its colours are interpolated as they were. An atlas that would be too large is
    made of smaller images.

    Vertex colours of a textured part multiply the texture where its material says so: as a tint if
    they are constant, else face by face, resampled. What is lost is named in one warning.

    Returns:
        The meshes in the order of the parts, and the texture (H, W, 3) float32 sRGB.

    Raises:
        InputError: the textures cannot be made to fit.
    """
    lost: dict[str, None] = {}
    parts = [_with_tint_of_vertex_colours(part, lost) for part in parts]
    if _is_one_material(parts):
        material = parts[0].material
        meshes, texture = [part.mesh for part in parts], material.tinted(material.texture)
    else:
        meshes, texture = _atlas(parts, lost)
    if lost:
        logger.warning("lost in making one texture: %s", "; ".join(lost))
    return meshes, torch.from_numpy(texture)


def _with_tint_of_vertex_colours(part: Part, lost: dict[str, None]) -> Part:
    """A textured part with vertex colours only where they vary and multiply the texture."""
    if not part.is_textured or part.mesh.vertex_colours is None:
        return part
    bare = replace(part.mesh, vertex_colours=None)
    if not part.material.multiplies_vertex_colours:
        lost["vertex colours of textured parts (the texture is kept)"] = None
        return replace(part, mesh=bare)
    used = part.mesh.vertex_colours[part.mesh.faces.reshape(-1)]  # (3 F, 3)
    low, high = used.amin(dim=0), used.amax(dim=0)
    if float((high - low).max()) > _CONSTANT_WITHIN:
        return part
    colour = linear_from_srgb(used[0].double().numpy()).tolist()
    red, green, blue = (a * b for a, b in zip(part.material.tint_linear, colour, strict=True))
    return replace(part, mesh=bare, material=replace(part.material, tint_linear=(red, green, blue)))


def _is_one_material(parts: list[Part]) -> bool:
    """Whether the parts' uv can stay: one texture, and lookups repeat it, as ours do."""
    if not all(part.is_textured and part.mesh.vertex_colours is None for part in parts):
        return False
    if len({_key(part.material) for part in parts}) > 1:
        return False
    return all(_repeats_unseen(part) for part in parts)


def _repeats_unseen(part: Part) -> bool:
    """Whether lookups that repeat the texture give what the part's own wrap modes give."""
    texture, uv = part.material.texture, part.mesh.uv[part.mesh.faces.reshape(-1)]
    for axis, wrap in enumerate(part.material.wrap):
        if wrap == "repeat":
            continue
        low, high = float(uv[:, axis].min()), float(uv[:, axis].max())
        half = 0.5 / texture.shape[1 - axis] - 1e-7
        lines = np.moveaxis(texture, 1 - axis, 0)
        borders_agree = low >= 0.0 and high <= 1.0 and np.array_equal(lines[0], lines[-1])
        if not (low >= half and high <= 1.0 - half) and not borders_agree:
            return False
    return True


def _key(material: Material) -> tuple:
    return id(material.texture), material.tint_linear, material.wrap


def _atlas(parts: list[Part], lost: dict[str, None]) -> tuple[list[Mesh], np.ndarray]:
    face_count = sum(len(part.mesh.faces) for part in parts if _needs_blocks(part))
    sheets: dict[object, _Sheet] = {}
    for index, part in enumerate(parts):
        if _needs_blocks(part):
            budget = MAX_BLOCK_TEXELS * len(part.mesh.faces) // face_count
            sizes, is_fine = block_sizes(part, budget)
            if not is_fine:
                lost["resolution of textures that vertex colours multiply"] = None
            mesh, image = textured_blocks(part, sizes)
            sheets[index] = _Sheet(image, replace(part.material, wrap=("clamp", "clamp")))
            sheets[index].meshes[index] = mesh
        else:
            _put_on_a_sheet(sheets, index, part)
    texture, meshes = _laid_out(list(sheets.values()), lost)
    return [meshes[index] for index in range(len(parts))], texture


def _needs_blocks(part: Part) -> bool:
    return part.is_textured and part.mesh.vertex_colours is not None


def _put_on_a_sheet(sheets: dict[object, _Sheet], index: int, part: Part) -> None:
    material, mesh = part.material, part.mesh
    clamped = replace(material, wrap=("clamp", "clamp"))
    if part.is_textured:
        key = _key(material)
        sheets.setdefault(key, _Sheet(material.texture, material, may_shrink=True))
        mesh = _folded(mesh, material.wrap)
    elif mesh.vertex_colours is not None:
        key = index
        mesh, image = vertex_colour_blocks(mesh)
        sheets[key] = _Sheet(image, clamped)
    else:
        key = material.tint_linear
        sheets.setdefault(key, _Sheet(np.ones((1, 1, 3), dtype=np.float32), clamped))
        mesh = replace(mesh, uv=torch.full((len(mesh.vertices), 2), 0.5))
    sheets[key].meshes[index] = mesh


def _folded(mesh: Mesh, wrap: tuple[Wrap, Wrap]) -> Mesh:
    """The mesh with each face's uv moved by whole periods to where its middle lies in 0..1."""
    period = torch.tensor([{"repeat": 1.0, "mirror": 2.0, "clamp": torch.inf}[way] for way in wrap])
    tiles = torch.floor(mesh.uv[mesh.faces].mean(dim=1) / period)  # (F, 2)
    tiles = torch.where(period.isinf(), 0.0, tiles * period).clamp(-_MAX_TILE, _MAX_TILE)
    if not bool(tiles.any()):
        return mesh
    corners = torch.cat(
        [mesh.faces[..., None], tiles.long()[:, None].expand(-1, 3, -1)], dim=-1
    )  # (F, 3, 3) vertex, tile u, tile v
    kinds, faces = torch.unique(corners.reshape(-1, 3), dim=0, return_inverse=True)
    moved = picked(mesh, kinds[:, 0], faces.reshape(-1, 3))
    return replace(moved, uv=moved.uv - kinds[:, 1:])


def _laid_out(sheets: list[_Sheet], lost: dict[str, None]) -> tuple[np.ndarray, dict[int, Mesh]]:
    """The atlas (H, W, 3) float32, and each part's mesh with its uv on it."""
    bounds = [sheet.bounds() for sheet in sheets]
    source_texels = {id(sheet.source): sheet.source[..., 0].size for sheet in sheets}
    max_texels = MAX_REPEATED_TEXELS + int(1.25 * sum(source_texels.values()))
    while True:
        reaches = [sheet.reach(each) for sheet, each in zip(sheets, bounds, strict=True)]
        areas = np.array([float(size.prod()) for _, size in reaches])
        if areas.sum() <= max_texels or not any(sheet.may_shrink for sheet in sheets):
            places, (width, height) = _shelves([(int(w), int(h)) for _, (w, h) in reaches])
            if max(width, height) <= MAX_SIDE_PX:
                break
        _halve_largest(sheets, areas)
    _note_reduced(sheets, lost)

    texture = np.zeros((height, width, 3), dtype=np.float32)
    halved: dict[tuple[int, int], np.ndarray] = {}
    meshes = {}
    for sheet, (low, size), place in zip(sheets, reaches, places, strict=True):
        rows, columns = (slice(place[i], place[i] + int(size[i])) for i in (1, 0))
        sheet.copy_into(texture[rows, columns], low, halved)
        for index, mesh in sheet.meshes.items():
            uv = np.full((1, 2), 0.5) if sheet.is_flat else mesh.uv.double().numpy()
            at = (uv * sheet.shape[::-1] - low + place) / (width, height)
            on_atlas = torch.from_numpy(at).float().expand(len(mesh.vertices), 2)
            meshes[index] = replace(mesh, uv=on_atlas.contiguous(), vertex_colours=None)
    return texture, meshes


def _halved(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) at half its height and width, rounded down but for 1."""
    for axis in (0, 1):
        length = image.shape[axis]
        if length == 1:
            continue
        if length % 2:
            from skimage.transform import resize

            shape = (*image.shape[:axis], length // 2, *image.shape[axis + 1 :])
            image = resize(image, shape, mode="edge", anti_aliasing=True).astype(np.float32)
        else:
            lines = np.moveaxis(image, axis, 0)
            image = np.moveaxis((lines[0::2] + lines[1::2]) / np.float32(2.0), 0, axis)
    return image


def _halve_largest(sheets: list[_Sheet], areas: np.ndarray) -> None:
    """Halves the images that take most of the atlas."""
    shrinkable = [
        index for index, sheet in enumerate(sheets) if sheet.may_shrink and not sheet.is_flat
    ]
    if not shrinkable:
        raise InputError(
            f"its textures do not fit on one of {MAX_SIDE_PX} x {MAX_SIDE_PX} texels.",
            "Bake them to one texture in a 3D editor.",
        )
    largest = max(areas[index] for index in shrinkable)
    for index in shrinkable:
        if areas[index] >= 0.5 * largest:
            sheets[index].halve()


def _note_reduced(sheets: list[_Sheet], lost: dict[str, None]) -> None:
    """Notes which textures were made smaller, in words for the warning."""
    for sheet in sheets:
        height, width = sheet.source.shape[:2]
        if sheet.is_flat:
            lost[f"a texture of {width} x {height} px, repeated too often: its mean colour"] = None
        elif sheet.halvings:
            lost[f"a texture of {width} x {height} px is halved {sheet.halvings} times"] = None


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
