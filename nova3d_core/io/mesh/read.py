"""Reads mesh files: GLB, glTF, OBJ, PLY, STL, OFF."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...compute.devices import is_out_of_memory
from ...conventions import UpAxis
from ...errors import InputError, Nova3DError
from ...mesh import Mesh
from .gltf.reader import read_gltf
from .merge import merge_primitives
from .obj.reader import read_obj
from .off import read_off
from .ply.reader import SPLATS_NO_MESH, read_ply
from .primitives import Primitive
from .stl import read_stl

logger = logging.getLogger(__name__)

MIN_EXTENT, MAX_EXTENT = 1e-12, 1e12
"""Limits of a mesh's longest side; the maximum also limits its distance from the origin. Values
beyond come from damaged files and would overflow float32 areas and volumes later."""
_MAX_PATH_CHARS, _MAX_MESSAGE_CHARS = 200, 490

MESH_READERS: dict[str, Callable[[Path], list[Primitive]]] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
    ".off": read_off,
}
"""Readers by lower-case suffix."""
_SPLAT_SUFFIXES = (".splat", ".ksplat", ".spz")


def read_mesh(path: Path | str, up_axis: UpAxis = "+Y") -> Mesh:
    """Reads a mesh file as one mesh with at most one texture, rotated to +Y up.

    Faces keep the file's order (OBJ: material by material, in order of first use; glTF: mesh by
    mesh, likewise). A mesh far from the world origin gets an `origin` (see `Mesh`). Vertices are
    merged in STL only, which stores no connectivity. Normals are the file's own, or None. Alpha is
    dropped; other maps than the base colour are read from glTF only. Primitives that differ in
    texture or colour are merged by `merge_primitives`.

    Args:
        path: a .glb, .gltf, .obj, .ply, .stl or .off file.
        up_axis: the axis of the file that points up: +Y by the glTF standard, often +Z in scans and
            CAD files.

    Raises:
        InputError: the file is missing, empty, truncated, damaged or of unknown format; it has
            no faces, no extent, or NaN; a referenced texture or buffer is missing. The
            message names the file.
    """
    path = Path(path)
    read_primitives = MESH_READERS.get(path.suffix.lower())
    if read_primitives is None:
        if path.suffix.lower() in _SPLAT_SUFFIXES:
            raise InputError(f"{_printable_path(path)}: {SPLATS_NO_MESH[0]}", SPLATS_NO_MESH[1])
        raise InputError(
            f"{path} has an unknown mesh format.", f"Use one of {', '.join(MESH_READERS)}."
        )
    with _translate_errors(path):
        if not path.is_file():
            raise InputError(f"mesh file {_printable_path(path)} does not exist.")
        if path.stat().st_size == 0:
            raise InputError(f"mesh file {_printable_path(path)} is empty.")
        mesh = merge_primitives(read_primitives(path))
        _check_extent(mesh)
        return mesh.to_y_up(up_axis)


def _check_extent(mesh: Mesh) -> None:
    """Raises InputError if the mesh has no extent or an implausible one."""
    low, high = mesh.bounds.double()
    extent = float((high - low).max())
    if not extent > 0.0:
        raise InputError("the mesh has no extent: all its vertices coincide.")
    furthest = max(float(mesh.bounds.abs().max()), *(abs(value) for value in mesh.origin))
    if extent < MIN_EXTENT or furthest > MAX_EXTENT:
        raise InputError(
            f"the mesh has an extent of {extent:.3g} and reaches {furthest:.3g} from the origin, "
            f"expected {MIN_EXTENT:g} to {MAX_EXTENT:g}.",
            "Check its units, or export it again: it may be damaged.",
        )


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turns every exception into an InputError of one line that names the file."""
    try:
        yield
    except InputError as error:
        named = path.name in error.message
        message = error.message if named else f"{_printable_path(path)}: {error.message}"
        max_chars = _MAX_MESSAGE_CHARS - len(error.hint)
        if named and len(message) <= max_chars:
            raise
        message = message if len(message) <= max_chars else f"{message[: max_chars - 4]} ..."
        raise InputError(message, error.hint) from error
    except Nova3DError:
        raise
    except Exception as error:  # damaged files raise anything, anywhere in a parser
        raise _parser_error(path, error) from error


def _parser_error(path: Path, error: Exception) -> InputError:
    """The InputError for an exception that a parser raised."""
    if is_out_of_memory(error):
        return InputError(
            f"{_printable_path(path)} does not fit into memory.",
            "Decimate it first, or export it again: it may be damaged.",
        )
    logger.debug("reading %s failed", path, exc_info=error)
    if isinstance(error, OSError):
        return InputError(
            f"{_printable_path(path)} or a file that it refers to cannot be opened: "
            f"{error.strerror or 'reading failed'}.",
            "Check that the file exists and is readable.",
        )
    return InputError(
        f"{_printable_path(path)} could not be read: it is truncated, damaged, or not in "
        "the format of its suffix.",
        "Open it in a 3D editor and export it again.",
    )


def _printable_path(path: Path) -> str:
    """The path for error messages; only the file name if the path is too long for a line."""
    text = str(path)
    return text if len(text) <= _MAX_PATH_CHARS else f".../{path.name[-_MAX_PATH_CHARS:]}"
