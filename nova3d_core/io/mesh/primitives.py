"""What every reader of mesh files gives: parts with a material each, to be joined into one mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...mesh import ZERO_ORIGIN, Mesh, is_far_from_origin
from ..files.containment import path_inside, quoted
from ..images.srgb import linear_from_srgb, srgb_from_linear

Wrap = Literal["repeat", "mirror", "clamp"]
"""How a texture goes on outside 0..1."""
_COLOURS_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Material:
    """What colours a part: a texture times a tint, or the tint alone."""

    texture: np.ndarray | None = None
    """(H, W, 3) float32 sRGB in 0..1."""
    tint_linear: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Multiplies the texture and the vertex colours, in linear light."""
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    """How the texture goes on along u and along v."""
    multiplies_vertex_colours: bool = False
    """Whether vertex colours multiply the texture, as in glTF; else a texture replaces them."""

    def tinted(self, colours: np.ndarray) -> np.ndarray:
        """sRGB colours (..., 3) under the tint; unchanged, to the bit, under a white one."""
        if self.tint_linear == (1.0, 1.0, 1.0):
            return colours
        tinted = np.zeros(colours.shape, np.float32)
        rows = max(_COLOURS_AT_ONCE * len(colours) // max(colours.size, 1), 1)
        for start in range(0, len(colours), rows):  # in double precision, so not all at once
            linear = linear_from_srgb(colours[start : start + rows]) * np.array(self.tint_linear)
            tinted[start : start + rows] = srgb_from_linear(linear)
        return tinted


@dataclass(frozen=True, eq=False)
class Part:
    """One mesh of a file in the file's world. Its colours are in `material`, not in `mesh`."""

    mesh: Mesh
    """Vertices, faces and, where the file has them, uv, normals and vertex colours."""
    material: Material = Material()

    @property
    def is_textured(self) -> bool:
        """Whether a texture can be placed on it: there is one, and there are coordinates."""
        return self.material.texture is not None and self.mesh.uv is not None


def mesh_from_arrays(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    colours: np.ndarray | None = None,
) -> Mesh:
    """A mesh from what a file holds, without any texture.

    Args:
        vertices: (N, 3) numbers. Far from the origin they are centred in double precision, and the
            mesh gets an `origin`: hand on what the file has, not float32.
        faces: (F, 3) integers; int64 ones are not copied.
        uv: (N, 2), origin top left.
        normals: (N, 3) of any length; left out as a whole if one is NaN, as some exporters write.
        colours: (N, 3 or 4) sRGB in 0..1; alpha is dropped.

    Raises:
        InputError: as `Mesh` does.
    """

    def tensor(array: np.ndarray | None) -> Tensor | None:
        if array is None:
            return None
        with np.errstate(over="ignore"):  # too large for float32: Mesh reports the infinity
            return torch.from_numpy(np.array(array, dtype=np.float32))

    normals = tensor(normals)
    if normals is not None:
        finite = bool(torch.isfinite(normals).all())
        normals = torch.nn.functional.normalize(normals, dim=-1) if finite else None
    origin = _far_centre(vertices, faces)
    if origin != ZERO_ORIGIN:
        vertices = np.asarray(vertices, dtype=np.float64) - origin
    return Mesh(
        vertices=tensor(vertices),
        faces=torch.from_numpy(np.require(faces, np.int64, ("C", "W"))),
        uv=tensor(uv),
        normals=normals,
        vertex_colours=None if colours is None else tensor(colours)[:, :3].clamp(0.0, 1.0),
        origin=origin,
    )


def _far_centre(vertices: np.ndarray, faces: np.ndarray) -> tuple[float, float, float]:
    """The centre of the vertices (N, 3) that faces (F, 3) use if it is far away, else zero."""
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    if vertices.dtype.kind != "f":
        vertices = vertices.astype(np.float64)
    valid = vertices.ndim == 2 and vertices.shape[1:] == (3,) and faces.size > 0
    if not valid or faces.min() < 0 or faces.max() >= len(vertices):
        return ZERO_ORIGIN  # `Mesh` says what is wrong
    used = np.zeros(len(vertices), dtype=bool)
    used[faces.reshape(-1)] = True
    with np.errstate(all="ignore"):
        low = vertices.min(axis=0, where=used[:, None], initial=np.inf).astype(np.float64)
        high = vertices.max(axis=0, where=used[:, None], initial=-np.inf).astype(np.float64)
        if not (np.isfinite(low + high).all() and is_far_from_origin(low, high)):
            return ZERO_ORIGIN
        x, y, z = ((low + high) / 2).tolist()
    return x, y, z


def decoded_texture(source: Path | bytes, name: str, named_by: str) -> np.ndarray:
    """(H, W, 3) float32 sRGB in 0..1 from an image file or its bytes; alpha is dropped.

    Pixels come as stored: EXIF orientation does not count for textures.

    Raises:
        InputError: the image cannot be decoded; the line names it and the file that names it.
    """
    from ..images.decode import decoded_pixels, open_image, shown

    what = f"texture {shown(name, 120)} named by {shown(named_by, 120)}"
    with open_image(source, what) as image:
        return decoded_pixels(image, what, alpha=False)


def missing_texture(name: str, named_by: str) -> InputError:
    """The error for a texture that a file names and that is not there."""
    shown = name if name.isprintable() and len(name) <= 200 else quoted(name)
    return InputError(
        f"texture {shown} named by {named_by} is missing.",
        f"Put it next to {named_by}; it may have been left behind when the mesh was copied.",
    )


def texture_beside(folder: Path, name: str, named_by: str) -> np.ndarray:
    """(H, W, 3) float32 sRGB texture that a file in `folder` names by a relative path.

    Raises:
        InputError: the texture is missing, cannot be decoded, or lies outside (see `find_inside`).
    """
    place = find_inside(folder, name, f"texture named by {named_by}")
    if place is None:
        raise missing_texture(name, named_by)
    return decoded_texture(place, name, named_by)


def find_inside(folder: Path, name: str, what: str) -> Path | None:
    """The file in or below `folder` that another file names by a path; None if it is missing.

    Nothing outside the folder is looked at: paths that lead out, as those of another computer do,
    are tried by their last part inside it. Letter case is overlooked.

    Args:
        folder: the folder of the file that names the path.
        name: the path as it is given.
        what: names the field in errors.

    Raises:
        InputError: the path leads out, and no file in the folder has its last part as name.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    refusal = None
    for given in (name, last):
        try:
            place = path_inside(folder, given, what)
            if not place.is_file():
                place = path_inside(folder, _as_spelled(folder, given), what)
        except InputError as error:
            refusal = refusal or error
            continue
        if place.is_file():
            return place
    if refusal is not None:
        raise refusal
    return None


def _as_spelled(folder: Path, relative: str) -> str:
    """The relative path with the letter case that files below `folder` have."""
    given = relative.replace("\\", "/").split("/")
    parts: list[str] = []
    for index, part in enumerate(given):
        here = folder.joinpath(*parts)
        if not (here.resolve().is_relative_to(folder.resolve()) and here.is_dir()):
            return "/".join([*parts, *given[index:]])
        fitting = sorted(e.name for e in here.iterdir() if e.name.lower() == part.lower())
        parts.append(part if part in fitting or not fitting else fitting[0])
    return "/".join(parts)
