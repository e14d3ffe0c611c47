"""Primitives: the meshes of a file with one material each, before they are merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...material import PbrMaterial
from ...mesh import ZERO_ORIGIN, Mesh, is_far_from_origin
from ..files.containment import path_inside, quote_value
from ..images.srgb import linear_from_srgb, srgb_from_linear

Wrap = Literal["repeat", "mirror", "clamp"]
"""How a texture continues outside 0..1 (glTF: wrapS, wrapT)."""

_COLOUR_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Material:
    """The base colour of a primitive: a texture times a tint, or the tint alone."""

    texture: np.ndarray | None = None
    """(H, W, 3) float32 sRGB in 0..1."""
    tint_linear: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Base colour factor: multiplies the texture and the vertex colours, in linear light."""
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    """Wrap modes along u and v."""
    multiplies_vertex_colours: bool = False
    """Whether vertex colours multiply the texture, as in glTF; else a texture replaces them."""
    pbr: PbrMaterial | None = None
    """Maps and factors besides the base colour; None for a plain material. Materials that are one
    in the file share one object."""

    def apply_tint(self, colours: np.ndarray) -> np.ndarray:
        """Multiplies sRGB colours (..., 3) by the tint; a white tint returns them bit for bit."""
        if self.tint_linear == (1.0, 1.0, 1.0):
            return colours
        tinted = np.zeros(colours.shape, np.float32)
        rows = max(_COLOUR_CHUNK * len(colours) // max(colours.size, 1), 1)
        for start in range(0, len(colours), rows):  # in chunks: float64 takes memory
            linear = linear_from_srgb(colours[start : start + rows]) * np.array(self.tint_linear)
            tinted[start : start + rows] = srgb_from_linear(linear)
        return tinted


@dataclass(frozen=True, eq=False)
class Primitive:
    """A mesh in the file's world coordinates, with the material that colours it."""

    mesh: Mesh
    """Vertices, faces and, where the file has them, uv, normals and vertex colours; no texture."""
    material: Material = Material()

    @property
    def is_textured(self) -> bool:
        """Whether it has both a texture and texture coordinates."""
        return self.material.texture is not None and self.mesh.uv is not None


def mesh_from_arrays(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    colours: np.ndarray | None = None,
    tangents: np.ndarray | None = None,
) -> Mesh:
    """Builds a mesh without texture from a file's arrays.

    Args:
        vertices: (N, 3). Far from the world origin they are centred in float64 and the mesh gets an
            `origin`, so pass them in the file's own precision, not as float32.
        faces: (F, 3) integers; int64 arrays are not copied.
        uv: (N, 2), origin top left.
        normals: (N, 3) of any length; all are dropped if one is NaN, which some exporters write.
        colours: (N, 3 or 4) sRGB in 0..1; alpha is dropped.
        tangents: (N, 4) along u with the sign of the bitangent; all are dropped if one is NaN.

    Raises:
        InputError: as `Mesh` does.
    """

    def tensor(array: np.ndarray | None) -> Tensor | None:
        if array is None:
            return None
        with np.errstate(over="ignore"):  # beyond float32: Mesh reports the infinity
            return torch.from_numpy(np.array(array, dtype=np.float32))

    normals = tensor(normals)
    if normals is not None:
        finite = bool(torch.isfinite(normals).all())
        normals = torch.nn.functional.normalize(normals, dim=-1) if finite else None
    tangents = tensor(tangents)
    if tangents is not None and not bool(torch.isfinite(tangents).all()):
        tangents = None
    origin = _distant_centre(vertices, faces)
    if origin != ZERO_ORIGIN:
        vertices = np.asarray(vertices, dtype=np.float64) - origin
    return Mesh(
        vertices=tensor(vertices),
        faces=torch.from_numpy(np.require(faces, np.int64, ("C", "W"))),
        uv=tensor(uv),
        normals=normals,
        vertex_colours=None if colours is None else tensor(colours)[:, :3].clamp(0.0, 1.0),
        origin=origin,
        tangents=tangents,
    )


def _distant_centre(vertices: np.ndarray, faces: np.ndarray) -> tuple[float, float, float]:
    """Centre of the vertices (N, 3) in use by faces (F, 3) if far from the origin, else zero."""
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    if vertices.dtype.kind != "f":
        vertices = vertices.astype(np.float64)
    valid = vertices.ndim == 2 and vertices.shape[1:] == (3,) and faces.size > 0
    if not valid or faces.min() < 0 or faces.max() >= len(vertices):
        return ZERO_ORIGIN  # `Mesh` reports the error
    used = np.zeros(len(vertices), dtype=bool)
    used[faces.reshape(-1)] = True
    with np.errstate(all="ignore"):
        low = vertices.min(axis=0, where=used[:, None], initial=np.inf).astype(np.float64)
        high = vertices.max(axis=0, where=used[:, None], initial=-np.inf).astype(np.float64)
        if not (np.isfinite(low + high).all() and is_far_from_origin(low, high)):
            return ZERO_ORIGIN
        x, y, z = ((low + high) / 2).tolist()
    return x, y, z


def decode_texture(source: Path | bytes, name: str, referrer: str) -> np.ndarray:
    """Decodes a texture: (H, W, 3) float32 sRGB in 0..1 from an image file or its bytes.

    Alpha is dropped. Pixels are read as stored: the EXIF orientation is ignored.

    Raises:
        InputError: the image cannot be decoded; the message names it and the referring file.
    """
    from ..images.decode import decode_pixels, open_image, printable_name

    label = f"texture {printable_name(name, 120)} referenced by {printable_name(referrer, 120)}"
    with open_image(source, label) as image:
        return decode_pixels(image, label, alpha=False)


def missing_texture_error(name: str, referrer: str) -> InputError:
    """The error for a texture file that is referred to but missing."""
    printable = name if name.isprintable() and len(name) <= 200 else quote_value(name)
    return InputError(
        f"texture {printable} referenced by {referrer} is missing.",
        f"Put it next to {referrer}; it may not have been copied along with the mesh.",
    )


def load_relative_texture(folder: Path, name: str, referrer: str) -> np.ndarray:
    """Reads a texture (H, W, 3) float32 sRGB, given its path relative to the referring file.

    Args:
        folder: the folder of the referring file.
        name: the path as the file has it.
        referrer: names the file in errors.

    Raises:
        InputError: the texture is missing, cannot be decoded, or lies outside the folder.
    """
    path = find_file_inside(folder, name, f"texture referenced by {referrer}")
    if path is None:
        raise missing_texture_error(name, referrer)
    return decode_texture(path, name, referrer)


def find_file_inside(folder: Path, name: str, label: str) -> Path | None:
    """Finds the file in or below `folder` that another file refers to; None if it is missing.

    Nothing outside the folder is opened: for paths that lead out, such as absolute ones of another
    computer, the base name is looked up inside it. Letter case is ignored.

    Args:
        folder: the folder of the referring file.
        name: the path as the file has it.
        label: names the field in errors.

    Raises:
        InputError: the path points outside the folder, and its base name is not in it.
    """
    base_name = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    first_error = None
    for candidate in (name, base_name):
        try:
            path = path_inside(folder, candidate, label)
            if not path.is_file():
                path = path_inside(folder, _match_letter_case(folder, candidate), label)
        except InputError as error:
            first_error = first_error or error
            continue
        if path.is_file():
            return path
    if first_error is not None:
        raise first_error
    return None


def _match_letter_case(folder: Path, relative: str) -> str:
    """The relative path in the letter case of the existing files below `folder`."""
    components = relative.replace("\\", "/").split("/")
    parts: list[str] = []
    for index, part in enumerate(components):
        here = folder.joinpath(*parts)
        if not (here.resolve().is_relative_to(folder.resolve()) and here.is_dir()):
            return "/".join([*parts, *components[index:]])
        matches = sorted(e.name for e in here.iterdir() if e.name.lower() == part.lower())
        parts.append(part if part in matches or not matches else matches[0])
    return "/".join(parts)
