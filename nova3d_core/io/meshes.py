"""Meshes from files and into files: GLB, glTF, OBJ, PLY, STL, OFF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..conventions import UpAxis
from ..devices import is_out_of_memory
from ..errors import InputError, Nova3DError
from ..mesh import Mesh
from .gltf import read_gltf
from .mesh_parts import Part
from .mesh_writers import mesh_to_glb_bytes, refuse_mesh_path, write_glb, write_mesh
from .obj import read_obj
from .plain_formats import read_off, read_ply, read_stl
from .texture_atlas import one_texture

__all__ = [
    "READABLE",
    "joined",
    "mesh_to_glb_bytes",
    "read_mesh",
    "refuse_mesh_path",
    "write_glb",
    "write_mesh",
]

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

    Faces come in the file's order (OBJ: material by material, in order of first use). Vertices are
    merged only in STL, which has no other way to say that faces touch. Normals are the file's own,
    or None. Alpha, and any map but the base colour, is left out. See `joined` for parts that
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
            raise InputError(f"mesh file {path} does not exist.")
        if path.stat().st_size == 0:
            raise InputError(f"mesh file {path} is empty.")
        mesh = joined(read_parts(path))
        low, high = mesh.bounds
        if not bool((high > low).any()):
            raise InputError("the mesh has no size: all its vertices are at one place.")
        return mesh.turned_up(up_axis)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Makes every failure one line that names the file."""
    try:
        yield
    except InputError as error:
        if path.name in error.message:
            raise
        raise InputError(f"{path}: {error.message}", error.hint) from error
    except Nova3DError:
        raise
    except Exception as error:  # a damaged file fails anywhere in a parser, in any way
        if is_out_of_memory(error):
            raise InputError(
                f"{path} needs more memory than there is.",
                "It is damaged, or needs decimating first.",
            ) from error
        reason = " ".join(str(error).split()).rstrip(".!")
        raise InputError(
            f"{path} could not be read ({type(error).__name__}: {reason}).",
            "It may be cut off, damaged, or of another kind than its ending says; "
            "open it in a 3D editor and export it again.",
        ) from error


def joined(parts: list[Part]) -> Mesh:
    """All parts as one mesh: their faces in the given order, their vertices one after another.

    If any part has a texture, the result has one texture (see `one_texture`) and no vertex
    colours. Otherwise tints and vertex colours become vertex colours, which are None if every part
    is plain white. Normals are kept if any part has them; parts without get smooth ones.

    Raises:
        InputError: there are no parts.
    """
    if not parts:
        raise InputError(
            "it has no faces.", "A point cloud or an empty scene is no surface: mesh it first."
        )
    if any(part.is_textured for part in parts):
        meshes, texture = one_texture(parts)
        return replace(_stacked(meshes), texture=texture)
    return _stacked(_painted(parts))


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
    )
