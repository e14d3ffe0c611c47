"""Reads PLY, STL and OFF through trimesh, as parts."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..mesh import Mesh
from .mesh_parts import (
    Material,
    Part,
    fan_triangles,
    fraction_colours,
    loaded_pieces,
    mesh_from_arrays,
    texture_beside,
)

_AGAIN = "Copy or export it again."


def read_ply(path: Path) -> list[Part]:
    """The faces of a PLY file with vertex colours, face colours, or uv and a texture it names.

    Face colours, where nothing else gives colour, split the vertices.

    Raises:
        InputError: a texture is missing, or the file names several.
    """
    from trimesh.exchange.ply import load_ply

    head, end, body = path.read_bytes().partition(b"end_header")
    header = head.decode("utf-8", "replace")
    named = re.findall(r"(?im)^comment[ \t]+texturefile[ \t]+(.*\S)", header)
    if len(named) > 1:
        raise InputError(
            f"{path} has {len(named)} textures; a PLY is read with one.", "Save it as .glb."
        )
    # only uv given per face need vertices split; splitting loses track of normals and colours
    per_face = re.search(r"(?m)^property list .*\btexcoord\s*$", header) is not None
    loaded = load_ply(
        io.BytesIO(header.encode() + end + body), fix_texture=per_face, skip_materials=True
    )
    texture = texture_beside(path.parent, named[0], path.name) if named else None
    return [Part(_ply_mesh(piece), Material(texture)) for piece in loaded_pieces(loaded)]


def _ply_mesh(loaded: dict[str, Any]) -> Mesh:
    vertices, faces = loaded["vertices"], fan_triangles(loaded["faces"])
    uv = getattr(loaded.get("visual"), "uv", None)
    if uv is not None:
        uv = np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)  # PLY counts v from the bottom
    normals, colours = loaded.get("vertex_normals"), loaded.get("vertex_colors")
    face_colours = loaded.get("face_colors")
    # after cutting polygons there are more faces than colours
    if colours is None and uv is None and np.shape(face_colours)[:1] == (len(faces),):
        corners = faces.reshape(-1)
        vertices, faces = vertices[corners], np.arange(len(corners)).reshape(-1, 3)
        normals = None if normals is None else normals[corners]
        colours = np.repeat(face_colours, 3, axis=0)
    fits = [
        array if array is not None and len(array) == len(vertices) else None
        for array in (normals, colours)
    ]
    return mesh_from_arrays(
        vertices, faces, uv, fits[0], None if fits[1] is None else fraction_colours(fits[1])
    )


def read_stl(path: Path) -> list[Part]:
    """The faces of an STL file; corners at exactly the same place become one vertex."""
    from trimesh.exchange.stl import HeaderError, load_stl_ascii, load_stl_binary

    content = path.read_bytes()
    try:
        loaded = load_stl_binary(io.BytesIO(content))
    except HeaderError as error:
        if not content.lstrip().startswith(b"solid"):
            raise InputError(f"{path} is no STL file, or cut off: {error}.", _AGAIN) from error
        loaded = load_stl_ascii(_text(content))
    return [Part(_welded(piece["vertices"], piece["faces"])) for piece in loaded_pieces(loaded)]


def _welded(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """The mesh with equal vertices merged, in the order in which they first appear."""
    unique, first, where = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.zeros_like(order)
    rank[order] = np.arange(len(order))
    return mesh_from_arrays(unique[order], rank[where.reshape(-1)][faces])


def read_off(path: Path) -> list[Part]:
    """The faces of an OFF file."""
    from trimesh.exchange.off import load_off

    loaded = load_off(_text(path.read_bytes()))
    return [
        Part(mesh_from_arrays(piece["vertices"], piece["faces"])) for piece in loaded_pieces(loaded)
    ]


def _text(content: bytes) -> io.BytesIO:
    """A text file as trimesh can always decode it; what is no UTF-8 is in names and comments."""
    return io.BytesIO(content.decode("utf-8", "replace").encode())
