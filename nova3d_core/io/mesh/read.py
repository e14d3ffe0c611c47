"""Meshes from files and into files: GLB, glTF, OBJ, PLY, STL, OFF."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...compute.devices import is_out_of_memory
from ...conventions import UpAxis
from ...errors import InputError, Nova3DError
from ...mesh import ZERO_ORIGIN, Mesh, is_far_from_origin
from .gltf.reader import read_gltf
from .obj.reader import read_obj
from .off import read_off
from .ply.reader import read_ply
from .primitives import Part
from .stl import read_stl
from .texture_atlas import one_texture
from .write import mesh_to_glb_bytes, refuse_mesh_path, write_glb, write_mesh

__all__ = [
    "READABLE",
    "joined",
    "mesh_to_glb_bytes",
    "read_mesh",
    "refuse_mesh_path",
    "write_glb",
    "write_mesh",
]

logger = logging.getLogger(__name__)

MIN_EXTENT, MAX_EXTENT = 1e-12, 1e12
"""Longest side of a mesh, and for the maximum also its distance from the origin: what lies outside
is damage rather than a shape, and would overflow float32 areas and volumes later."""
_MAX_SHOWN_PATH, _MAX_LINE = 200, 490

READABLE: dict[str, Callable[[Path], list[Part]]] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
    ".off": read_off,
}
"""Readers by the name's ending, in small letters."""


def read_mesh(path: Path | str, up_axis: UpAxis = "+Y") -> Mesh:
    """Reads a mesh file as one mesh with at most one texture, turned to +Y up.

    Faces come in the file's order (OBJ: material by material, in order of first use; glTF: mesh by
    mesh, likewise). Far from the world's origin the mesh gets an `origin` (see `Mesh`). Vertices
    are merged only in STL, which has no other way to say that faces touch. Normals are the file's
    own, or None. Alpha, and any map but the base colour, is left out. See `joined` for parts that
    differ in texture and colour.

    Args:
        path: a .glb, .gltf, .obj, .ply, .stl or .off file.
        up_axis: which axis of the file points up. glTF says +Y; scans and CAD often have +Z.

    Raises:
        InputError: the file is missing, empty, cut off, damaged or of an unknown kind; it has no
            faces, no size, or NaN; a texture or buffer that it names is missing. The line names
            the file.
    """
    path = Path(path)
    read_parts = READABLE.get(path.suffix.lower())
    if read_parts is None:
        raise InputError(
            f"{path} is not of a known kind of mesh file.", f"Known are {', '.join(READABLE)}."
        )
    with _named_errors(path):
        if not path.is_file():
            raise InputError(f"mesh file {_shown(path)} does not exist.")
        if path.stat().st_size == 0:
            raise InputError(f"mesh file {_shown(path)} is empty.")
        mesh = joined(read_parts(path))
        _check_extent(mesh)
        return mesh.turned_up(up_axis)


def _check_extent(mesh: Mesh) -> None:
    """Raises InputError if the mesh has no size or an absurd one."""
    low, high = mesh.bounds.double()
    extent = float((high - low).max())
    if not extent > 0.0:
        raise InputError("the mesh has no size: all its vertices are at one place.")
    furthest = max(float(mesh.bounds.abs().max()), *(abs(value) for value in mesh.origin))
    if extent < MIN_EXTENT or furthest > MAX_EXTENT:
        raise InputError(
            f"the mesh is {extent:.3g} long and reaches {furthest:.3g} from the origin, expected "
            f"{MIN_EXTENT:g} to {MAX_EXTENT:g}.",
            "It is damaged, or in another unit than it should be.",
        )


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Makes every failure one line that names the file."""
    try:
        yield
    except InputError as error:
        named = path.name in error.message
        message = error.message if named else f"{_shown(path)}: {error.message}"
        room = _MAX_LINE - len(error.hint)
        if named and len(message) <= room:
            raise
        message = message if len(message) <= room else f"{message[: room - 4]} ..."
        raise InputError(message, error.hint) from error
    except Nova3DError:
        raise
    except Exception as error:  # a damaged file fails anywhere in a parser, in any way
        raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> InputError:
    """The error of the project's own for whatever a parser raised."""
    if is_out_of_memory(error):
        return InputError(
            f"{_shown(path)} needs more memory than there is.",
            "It is damaged, or needs decimating first.",
        )
    logger.debug("reading %s failed", path, exc_info=error)
    if isinstance(error, OSError):
        return InputError(
            f"{_shown(path)} or a file that it names cannot be opened: "
            f"{error.strerror or 'reading failed'}.",
            "Check that it is a file and may be read.",
        )
    return InputError(
        f"{_shown(path)} could not be read: it is cut off, damaged, or of another kind than "
        "its ending says.",
        "Open it in a 3D editor and export it again.",
    )


def _shown(path: Path) -> str:
    """The path as errors show it: its last part alone where the whole is too long for a line."""
    text = str(path)
    return text if len(text) <= _MAX_SHOWN_PATH else f".../{path.name[-_MAX_SHOWN_PATH:]}"


def joined(parts: list[Part]) -> Mesh:
    """All parts as one mesh: their faces in the given order, their vertices one after another.

    If any part has a texture, the result has one texture (see `one_texture`) and no vertex
    colours. Otherwise tints and vertex colours become vertex colours, which are None if every part
    is plain white. Normals are kept if any part has them; parts without get smooth ones. All parts
    together have one `origin`.

    Raises:
        InputError: there are no parts.
    """
    if not parts:
        raise InputError(
            "it has no faces.", "A point cloud or an empty scene is no surface: mesh it first."
        )
    parts = _on_one_origin(parts)
    if any(part.is_textured for part in parts):
        meshes, texture = one_texture(parts)
        return replace(_stacked(meshes), texture=texture)
    return _stacked(_painted(parts))


def _on_one_origin(parts: list[Part]) -> list[Part]:
    """The parts with their vertices relative to one origin: their common centre if that is far."""
    if all(part.mesh.origin == ZERO_ORIGIN for part in parts):
        return parts
    boxes = np.stack([part.mesh.bounds.double().numpy() + part.mesh.origin for part in parts])
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    centre = (low + high) / 2 if is_far_from_origin(low, high) else np.zeros(3)
    origin = tuple(centre.tolist())
    return [replace(part, mesh=part.mesh.with_origin(origin)) for part in parts]


def _painted(parts: list[Part]) -> list[Mesh]:
    """The parts' meshes with tints and vertex colours multiplied into vertex colours."""
    plain = all(
        part.mesh.vertex_colours is None and part.material.tint_linear == (1.0, 1.0, 1.0)
        for part in parts
    )
    if plain:
        return [part.mesh for part in parts]
    meshes = []
    for part in parts:
        colours = part.mesh.vertex_colours
        if colours is None:
            colours = torch.ones_like(part.mesh.vertices)
        tinted = torch.from_numpy(part.material.tinted(colours.numpy()))
        meshes.append(replace(part.mesh, vertex_colours=tinted))
    return meshes


def _stacked(meshes: list[Mesh]) -> Mesh:
    if len(meshes) == 1:
        return meshes[0]
    if any(mesh.normals is not None for mesh in meshes):
        meshes = [
            mesh if mesh.normals is not None else mesh.with_smooth_normals() for mesh in meshes
        ]
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes]).tolist()

    def together(name: str) -> Tensor | None:
        tensors = [getattr(mesh, name) for mesh in meshes]
        return None if any(tensor is None for tensor in tensors) else torch.cat(tensors)

    return Mesh(
        vertices=together("vertices"),
        faces=torch.cat([mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]),
        uv=together("uv"),
        normals=together("normals"),
        vertex_colours=together("vertex_colours"),
        origin=meshes[0].origin,
    )
