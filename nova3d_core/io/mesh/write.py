"""Writes meshes as GLB, OBJ or PLY, by the suffix of the file name."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from ...errors import InputError
from ...mesh import Mesh
from ..files.atomic import check_can_write_file, reject_symlink
from .gltf.writer import mesh_to_glb_bytes, write_glb
from .obj.writer import check_obj_name, write_obj
from .ply.writer import write_ply

logger = logging.getLogger(__name__)

__all__ = [
    "WRITABLE_SUFFIXES",
    "check_can_write_mesh",
    "mesh_output_files",
    "mesh_to_glb_bytes",
    "write_glb",
    "write_mesh",
]

WRITABLE_SUFFIXES = (".glb", ".obj", ".ply")


def write_mesh(mesh: Mesh, path: Path | str, overwrite: bool = False) -> Path:
    """Writes a mesh in the format given by the suffix of the file name.

    Args:
        mesh: GLB keeps all of it. OBJ keeps its texture; PLY has vertex colours only, sampled from
            the texture if there is one; a warning names what they drop of its material.
        path: a .glb, .obj or .ply file; an OBJ gets a .mtl and a .png of the same name next to it.
        overwrite: replace files that an earlier run wrote; other files are never replaced.

    Returns:
        The path.

    Raises:
        InputError: the suffix is unknown, a file exists, or the path cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".glb":
        return write_glb(mesh, path, overwrite)
    if suffix in (".obj", ".ply") and mesh.material is not None and mesh.material.labels:
        dropped = ", ".join(mesh.material.labels)
        logger.warning("%s cannot store: %s; GLB can", suffix[1:].upper(), dropped)
    if suffix == ".obj":
        return write_obj(mesh, path, overwrite)
    if suffix == ".ply":
        return write_ply(mesh, path, overwrite)
    raise _unknown_suffix_error(path)


def mesh_output_files(path: Path) -> tuple[Path, ...]:
    """The files that `write_mesh` writes for a path; for an OBJ also its MTL and image."""
    if path.suffix.lower() != ".obj":
        return (path,)
    target = path.resolve()
    return (path, target.with_suffix(".mtl"), target.with_suffix(".png"))


def check_can_write_mesh(path: Path, overwrite: bool, inputs: Collection[Path | None] = ()) -> None:
    """Raises InputError unless `write_mesh` can write to a path; called before long work.

    Args:
        path: the mesh file; for an OBJ, its .mtl and .png are checked too.
        overwrite: whether files of an earlier run may be replaced.
        inputs: files and folders that the command reads; they are never replaced.
    """
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        raise _unknown_suffix_error(path)
    check_can_write_file(path, overwrite, inputs)
    if path.suffix.lower() == ".obj":
        check_obj_name(path)
        for other in mesh_output_files(path)[1:]:
            reject_symlink(other)
            check_can_write_file(other, overwrite, inputs)


def _unknown_suffix_error(path: Path) -> InputError:
    return InputError(
        f"a mesh cannot be written as {path}.", f"Use one of {', '.join(WRITABLE_SUFFIXES)}."
    )
