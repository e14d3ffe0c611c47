"""Writes binary PLY with vertex colours, through trimesh's exporter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ....imaging.sampling import sample_texture
from ....mesh import ZERO_ORIGIN, Mesh
from ...files.atomic import atomic_file
from ...files.ownership import GENERATOR, reject_foreign_file
from ..trimesh_export import to_trimesh, with_unit_normals, world_vertices


def write_ply(mesh: Mesh, path: Path, overwrite: bool = False) -> Path:
    """Writes a PLY file; a texture becomes vertex colours."""
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(mesh_to_ply_bytes(mesh))
        reject_foreign_file(path.resolve())
    return path


def mesh_to_ply_bytes(mesh: Mesh) -> bytes:
    """Encodes a mesh as binary PLY; a mesh far from the origin gets float64 positions."""
    from trimesh.exchange.ply import export_ply

    if mesh.texture is not None:
        mesh = replace(mesh, vertex_colours=sample_texture(mesh.texture, mesh.uv))
    if mesh.normals is not None:
        mesh = with_unit_normals(mesh)
    content = export_ply(
        to_trimesh(mesh), vertex_normal=mesh.normals is not None, include_attributes=False
    )
    content = content.replace(b"\ncomment ", f"\ncomment {GENERATOR}\ncomment ".encode(), 1)
    return content if mesh.origin == ZERO_ORIGIN else _with_float64_positions(content, mesh)


def _with_float64_positions(content: bytes, mesh: Mesh) -> bytes:
    """Replaces the float32 x, y, z of trimesh's binary PLY by float64 world coordinates."""
    head, end, body = content.partition(b"end_header\n")
    before, element, properties = head.partition(b"element vertex")
    properties, faces, rest = properties.partition(b"element face")
    count = len(mesh.vertices)
    stride = (len(body) - 13 * len(mesh.faces)) // count  # a face is a uint8 count and three int32
    rows = np.frombuffer(body, np.uint8, count * stride).reshape(count, stride)
    positions = np.frombuffer(world_vertices(mesh).astype("<f8").tobytes(), np.uint8)
    rows = np.concatenate([positions.reshape(count, 24), rows[:, 12:]], axis=1)
    for axis in (b"x", b"y", b"z"):
        properties = properties.replace(
            b"property float %s\n" % axis, b"property double %s\n" % axis
        )
    return b"".join(
        [before, element, properties, faces, rest, end, rows.tobytes(), body[count * stride :]]
    )
