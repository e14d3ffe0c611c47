"""Texture atlas: merges the textures, tints and vertex colours of several primitives losslessly.

Each source image keeps its texel grid: the atlas holds the rectangle of texels covered by the uv,
continued beyond the borders by the wrap mode (repeat, mirror, clamp). A bilinear lookup in the
atlas therefore blends the same four texels with the same weights as one in the source.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...imaging.packing import pack_shelves
from ...mesh import Mesh
from ..images.srgb import linear_from_srgb
from .primitives import Material, Primitive, Wrap
from .texture_blocks import (
    bake_textured_blocks,
    bake_vertex_colour_blocks,
    block_sizes,
    select_vertices,
    wrap_indices,
)

logger = logging.getLogger(__name__)

PADDING_PX = 2
"""Margin around the texels that bilinear lookups read, against rounding of uv."""
MAX_SIDE_PX = 8192
"""Largest side of an atlas; larger textures are not supported by all GPUs and browsers."""
MAX_REPEATED_TEXELS = 1 << 23
"""Texels of an atlas beyond 1.25 times those of its sources, for textures that repeat within a
face or are used with several tints."""
MAX_BLOCK_TEXELS = 1 << 23
"""Texels for faces whose texture is multiplied by varying vertex colours."""
_TEXEL_CHUNK = 1 << 19
_CONSTANT_WITHIN = 1e-3
"""Vertex colours that differ by less count as constant: a quarter of an 8-bit level."""
_MAX_TILE = 2.0**40


@dataclass(eq=False)
class _AtlasImage:
    """A source image of the atlas, with the meshes that use it."""

    source: np.ndarray
    """(H, W, 3) float32 sRGB, without the tint; several atlas images may share it."""
    material: Material
    """Provides tint and wrap modes; its texture is unused."""
    may_shrink: bool = False
    """Whether it may be downsampled to make the atlas fit."""
    halvings: int = 0
    """How many times it is downsampled by 2."""
    is_flat: bool = False
    """Whether it is replaced by its mean colour."""
    meshes: dict[int, Mesh] = field(default_factory=dict)
    """By the primitive's index; their uv are in units of the source image."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width after downsampling."""
        height, width = self.source.shape[:2]
        return max(height >> self.halvings, 1), max(width >> self.halvings, 1)

    def bounds(self) -> np.ndarray:
        """(2, 2) minimum and maximum u, v of the faces."""
        corners = [mesh.uv[mesh.faces.reshape(-1)] for mesh in self.meshes.values()]
        low = torch.stack([uv.amin(dim=0) for uv in corners]).amin(dim=0)
        high = torch.stack([uv.amax(dim=0) for uv in corners]).amax(dim=0)
        return torch.stack([low, high]).double().numpy()

    def texel_rectangle(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First texel (x, y) and size (x, y) of the rectangle that lookups read, with padding."""
        if self.is_flat:
            bounds = np.full((2, 2), 0.5)
        low, high = bounds * self.shape[::-1] - 0.5  # integers at texel centres
        low = np.floor(low) - PADDING_PX
        return low, np.floor(high) + 1 + PADDING_PX - low + 1

    def halve(self) -> None:
        """Halves width and height; a single texel becomes the mean colour."""
        if self.shape == (1, 1):
            self.is_flat = True
        else:
            self.halvings += 1

    def copy_into(
        self, target: np.ndarray, low: np.ndarray, halved: dict[tuple[int, int], np.ndarray]
    ) -> None:
        """Copies the texels from `low` (x, y) on into `target` (H, W, 3), wrapped at the borders.

        `halved` caches downsampled sources by identity and number of halvings.
        """
        source = self.source
        for step in range(1, self.halvings + 1):
            key = id(self.source), step
            if key not in halved:
                halved[key] = _downsample_by_2(source)
            source = halved[key]
        height, width = target.shape[:2]
        columns = wrap_indices(low[0] + np.arange(width), self.shape[1], self.material.wrap[0])
        rows = wrap_indices(low[1] + np.arange(height), self.shape[0], self.material.wrap[1])
        step = max(_TEXEL_CHUNK // width, 1)
        for start in range(0, height, step):
            chunk = source[rows[start : start + step, None], columns]
            target[start : start + step] = self.material.apply_tint(chunk)


def merge_textures(primitives: list[Primitive]) -> tuple[list[Mesh], Tensor]:
    """Merges all textures into one; the meshes get uv on it and lose their vertex colours.

    With a single material, texture and uv stay as they are. Otherwise an atlas is packed:
    primitives of the same texture and tint share one copy; faces of a repeated texture are moved by
    whole tiles towards 0..1 (which splits vertices), and tiles beyond that are copied; a plain
    primitive gets a few texels; a vertex-coloured one gets 2 x 2 texels per face, between which
    bilinear lookups interpolate its colours exactly. Textures of an oversized atlas are
    downsampled.

    Vertex colours of a textured primitive multiply the texture if its material says so: as a tint
    if they are constant, else baked per face. One warning names what was dropped.

    Returns:
        The meshes in the order of the primitives, and the texture (H, W, 3) float32 sRGB.

    Raises:
        InputError: the textures do not fit into one atlas.
    """
    dropped: dict[str, None] = {}
    primitives = [_vertex_colours_to_tint(each, dropped) for each in primitives]
    if _is_one_material(primitives):
        material = primitives[0].material
        meshes = [primitive.mesh for primitive in primitives]
        texture = material.apply_tint(material.texture)
    else:
        meshes, texture = _build_atlas(primitives, dropped)
    if dropped:
        logger.warning("merging the textures into one drops: %s", "; ".join(dropped))
    return meshes, torch.from_numpy(texture)


def _vertex_colours_to_tint(primitive: Primitive, dropped: dict[str, None]) -> Primitive:
    """Turns constant vertex colours of a textured primitive into a tint; drops unused ones."""
    if not primitive.is_textured or primitive.mesh.vertex_colours is None:
        return primitive
    uncoloured = replace(primitive.mesh, vertex_colours=None)
    if not primitive.material.multiplies_vertex_colours:
        dropped["vertex colours of textured primitives (their texture is kept)"] = None
        return replace(primitive, mesh=uncoloured)
    used = primitive.mesh.vertex_colours[primitive.mesh.faces.reshape(-1)]  # (3 F, 3)
    low, high = used.amin(dim=0), used.amax(dim=0)
    if float((high - low).max()) > _CONSTANT_WITHIN:
        return primitive
    colour = linear_from_srgb(used[0].double().numpy()).tolist()
    red, green, blue = (a * b for a, b in zip(primitive.material.tint_linear, colour, strict=True))
    return replace(
        primitive,
        mesh=uncoloured,
        material=replace(primitive.material, tint_linear=(red, green, blue)),
    )


def _is_one_material(primitives: list[Primitive]) -> bool:
    """Whether texture and uv can stay: one material, whose lookups may repeat the texture."""
    if not all(each.is_textured and each.mesh.vertex_colours is None for each in primitives):
        return False
    if len({_key(each.material) for each in primitives}) > 1:
        return False
    return all(map(_equals_repeat, primitives))


def _equals_repeat(primitive: Primitive) -> bool:
    """Whether the repeat mode gives the same colours as the primitive's own wrap modes."""
    texture, uv = primitive.material.texture, primitive.mesh.uv[primitive.mesh.faces.reshape(-1)]
    for axis, wrap in enumerate(primitive.material.wrap):
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


def _build_atlas(
    primitives: list[Primitive], dropped: dict[str, None]
) -> tuple[list[Mesh], np.ndarray]:
    face_count = sum(len(each.mesh.faces) for each in primitives if _needs_blocks(each))
    images: dict[object, _AtlasImage] = {}
    for index, primitive in enumerate(primitives):
        if _needs_blocks(primitive):
            budget = MAX_BLOCK_TEXELS * len(primitive.mesh.faces) // face_count
            sizes, is_fine = block_sizes(primitive, budget)
            if not is_fine:
                dropped["resolution of textures multiplied by vertex colours"] = None
            mesh, image = bake_textured_blocks(primitive, sizes)
            images[index] = _AtlasImage(image, replace(primitive.material, wrap=("clamp", "clamp")))
            images[index].meshes[index] = mesh
        else:
            _add_to_images(images, index, primitive)
    texture, meshes = _pack_atlas(list(images.values()), dropped)
    return [meshes[index] for index in range(len(primitives))], texture


def _needs_blocks(primitive: Primitive) -> bool:
    return primitive.is_textured and primitive.mesh.vertex_colours is not None


def _add_to_images(images: dict[object, _AtlasImage], index: int, primitive: Primitive) -> None:
    material, mesh = primitive.material, primitive.mesh
    clamped = replace(material, wrap=("clamp", "clamp"))
    if primitive.is_textured:
        key = _key(material)
        images.setdefault(key, _AtlasImage(material.texture, material, may_shrink=True))
        mesh = _fold_uv(mesh, material.wrap)
    elif mesh.vertex_colours is not None:
        key = index
        mesh, image = bake_vertex_colour_blocks(mesh)
        images[key] = _AtlasImage(image, clamped)
    else:
        key = material.tint_linear
        images.setdefault(key, _AtlasImage(np.ones((1, 1, 3), dtype=np.float32), clamped))
        mesh = replace(mesh, uv=torch.full((len(mesh.vertices), 2), 0.5))
    images[key].meshes[index] = mesh


def _fold_uv(mesh: Mesh, wrap: tuple[Wrap, Wrap]) -> Mesh:
    """Moves each face's uv by whole periods so that its centre lies in 0..1."""
    period = torch.tensor(
        [{"repeat": 1.0, "mirror": 2.0, "clamp": torch.inf}[mode] for mode in wrap]
    )
    tiles = torch.floor(mesh.uv[mesh.faces].mean(dim=1) / period)  # (F, 2)
    tiles = torch.where(period.isinf(), 0.0, tiles * period).clamp(-_MAX_TILE, _MAX_TILE)
    if not bool(tiles.any()):
        return mesh
    corners = torch.cat(
        [mesh.faces[..., None], tiles.long()[:, None].expand(-1, 3, -1)], dim=-1
    )  # (F, 3, 3) vertex, tile u, tile v
    rows, faces = torch.unique(corners.reshape(-1, 3), dim=0, return_inverse=True)
    moved = select_vertices(mesh, rows[:, 0], faces.reshape(-1, 3))
    return replace(moved, uv=moved.uv - rows[:, 1:])


def _pack_atlas(
    images: list[_AtlasImage], dropped: dict[str, None]
) -> tuple[np.ndarray, dict[int, Mesh]]:
    """Packs the images: the atlas (H, W, 3) float32, and each primitive's mesh with uv on it."""
    bounds = [image.bounds() for image in images]
    source_texels = {id(image.source): image.source[..., 0].size for image in images}
    max_texels = MAX_REPEATED_TEXELS + int(1.25 * sum(source_texels.values()))
    while True:
        rectangles = [
            image.texel_rectangle(each) for image, each in zip(images, bounds, strict=True)
        ]
        areas = np.array([float(size.prod()) for _, size in rectangles])
        if areas.sum() <= max_texels or not any(image.may_shrink for image in images):
            positions, (width, height) = _pack_shelves(
                [(int(w), int(h)) for _, (w, h) in rectangles]
            )
            if max(width, height) <= MAX_SIDE_PX:
                break
        _halve_largest(images, areas)
    _note_downsampled(images, dropped)

    texture = np.zeros((height, width, 3), dtype=np.float32)
    halved: dict[tuple[int, int], np.ndarray] = {}
    meshes = {}
    for image, (low, size), position in zip(images, rectangles, positions, strict=True):
        rows, columns = (slice(position[i], position[i] + int(size[i])) for i in (1, 0))
        image.copy_into(texture[rows, columns], low, halved)
        for index, mesh in image.meshes.items():
            uv = np.full((1, 2), 0.5) if image.is_flat else mesh.uv.double().numpy()
            uv = (uv * image.shape[::-1] - low + position) / (width, height)
            on_atlas = torch.from_numpy(uv).float().expand(len(mesh.vertices), 2)
            meshes[index] = replace(mesh, uv=on_atlas.contiguous(), vertex_colours=None)
    return texture, meshes


def _downsample_by_2(image: np.ndarray) -> np.ndarray:
    """Halves height and width of an image (H, W, 3), rounded down to at least 1."""
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


def _halve_largest(images: list[_AtlasImage], areas: np.ndarray) -> None:
    """Halves the images that occupy the largest areas."""
    shrinkable = [
        index for index, image in enumerate(images) if image.may_shrink and not image.is_flat
    ]
    if not shrinkable:
        raise InputError(
            f"its textures do not fit into one of {MAX_SIDE_PX} x {MAX_SIDE_PX} texels.",
            "Bake them into one texture in a 3D editor.",
        )
    largest = max(areas[index] for index in shrinkable)
    for index in shrinkable:
        if areas[index] >= 0.5 * largest:
            images[index].halve()


def _note_downsampled(images: list[_AtlasImage], dropped: dict[str, None]) -> None:
    """Adds the downsampled textures to the warning."""
    for image in images:
        height, width = image.source.shape[:2]
        if image.is_flat:
            note = f"detail of a {width} x {height} px texture (repeated too often: mean colour)"
            dropped[note] = None
        elif image.halvings:
            note = (
                f"resolution of a texture of {width} x {height} px (halved {image.halvings} times)"
            )
            dropped[note] = None


def _pack_shelves(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Packs rectangles (width, height) into rows, tallest first (shelf packing).

    Returns:
        The top left corner (x, y) of each, and the (width, height) of the whole.
    """
    max_width = max(
        max(width for width, _ in sizes),
        math.ceil(math.sqrt(sum(width * height for width, height in sizes))),
    )
    array = np.array(sizes, dtype=np.float64)  # exact up to 2^53 texels
    order = np.argsort(-array[:, 1], kind="stable")
    corners = np.zeros_like(array)
    corners[order] = pack_shelves(array[order], max_width)
    positions = [(int(x), int(y)) for x, y in corners]
    width, height = (corners + array).max(axis=0)
    return positions, (int(width), int(height))
