"""Reads Wavefront OBJ with its materials (MTL) as primitives."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import numpy as np

from ...files.text_lines import clean_text, iter_line_chunks, warn_dropped
from ..polygon_mesh import flip_v, unique_rows
from ..primitives import Material, Primitive, load_relative_texture, mesh_from_arrays
from ..triangulate import triangulate
from .mtl import MtlMaterial, read_libraries, resolve_material_name
from .statements import ObjGeometry, ObjStatements, join_continued_lines

logger = logging.getLogger(__name__)


def read_obj(path: Path) -> list[Primitive]:
    """Reads the faces of an OBJ file: one primitive per material, in order of first use.

    Polygons are triangulated. Faces of a textured material without texture coordinates become a
    primitive of their own with the material's colour Kd; on others a texture replaces Kd.
    Consecutive identical materials are merged. One warning names what is dropped, including a
    missing MTL.

    Raises:
        InputError: a texture is missing; a line is damaged; a face refers to a missing vertex.
    """
    statements = ObjStatements()
    for lines in iter_line_chunks(join_continued_lines(clean_text(path.read_bytes()))):
        statements.add(lines)
    dropped = statements.dropped
    defined = read_libraries(path, statements.libraries, dropped)
    geometry = statements.geometry()
    primitives = []
    if len(geometry.counts):
        materials, material_of = _materials_in_use(statements, geometry, defined)
        primitives = _group_by_material(geometry, materials, material_of, dropped)
    warn_dropped(logger, path, dropped)
    return primitives


def _materials_in_use(
    statements: ObjStatements, geometry: ObjGeometry, defined: dict[str, MtlMaterial]
) -> tuple[list[MtlMaterial], np.ndarray]:
    """The materials in order of first use, and (F,) the material index of each face."""
    face_count = len(geometry.counts)
    starts = [0, *(start for start, _ in statements.uses), face_count]
    resolved = {name: resolve_material_name(name, defined) for _, name in statements.uses}
    names = ["", *(resolved[name] for _, name in statements.uses)]
    order: dict[str, int] = {}
    indices = []
    for name, start, end in zip(names, starts[:-1], starts[1:], strict=True):
        indices.append(order.setdefault(name, len(order)) if end > start else 0)
    for name in order:
        if defined and name and name not in defined:
            statements.dropped[f"the material '{name[:80]}' is not defined in any MTL"] = None
        statements.dropped.update(dict.fromkeys(defined.get(name, MtlMaterial()).dropped))
    materials = [defined.get(name, MtlMaterial())._replace(dropped=()) for name in order]
    return materials, np.repeat(indices, np.diff(starts))


def _group_by_material(
    geometry: ObjGeometry,
    materials: list[MtlMaterial],
    material_of: np.ndarray,
    dropped: dict[str, None],
) -> list[Primitive]:
    """Builds one primitive per material; consecutive identical materials are merged."""
    triangles, face_of = triangulate(geometry.vertices, geometry.corners[:, 0] - 1, geometry.counts)
    changes = [
        index > 0 and materials[index] != materials[index - 1] for index in range(len(materials))
    ]
    group_of = np.cumsum(changes)[material_of[face_of]]  # (T,)
    distinct = [
        material for index, material in enumerate(materials) if index == 0 or changes[index]
    ]
    order = np.argsort(group_of, kind="stable")
    bounds = np.searchsorted(group_of[order], np.arange(len(distinct) + 1))
    load_texture = cache(load_relative_texture)  # materials share the textures of one file
    primitives = []
    for entry, start, end in zip(distinct, bounds[:-1], bounds[1:], strict=True):
        corners = geometry.corners[triangles[order[start:end]]]  # (T, 3, 3)
        has_uv = (corners[..., 1] > 0).all(axis=1)
        if entry.texture is None or has_uv.all():
            groups = [(corners, entry)]
        else:
            dropped["faces of a textured material without texture coordinates lose the texture"] = (
                None
            )
            untextured = entry._replace(texture=None)
            groups = [(corners[has_uv], entry), (corners[~has_uv], untextured)]
            groups = groups if has_uv[:1].all() else groups[::-1]
        for group, group_entry in groups:
            if len(group):
                material = group_entry.material(load_texture)
                primitives.append(_build_primitive(geometry, group, material, dropped))
    return primitives


def _build_primitive(
    geometry: ObjGeometry, corners: np.ndarray, material: Material, dropped: dict[str, None]
) -> Primitive:
    """Builds a primitive from triangles (T, 3, 3); splits vertices where uv or normals differ."""
    rows = corners.reshape(-1, 3)
    used = [0] + [column for column in (1, 2) if (rows[:, column] > 0).all()]
    for column, name in ((1, "texture coordinates"), (2, "normals")):
        if column not in used and (rows[:, column] > 0).any():
            dropped[f"{name} that only some faces have are ignored"] = None
    first, faces = _unique_corners(rows[:, used], len(geometry.vertices))
    rows = rows[first] - 1
    colours = geometry.colours
    if colours is not None and material.texture is not None:
        dropped["vertex colours of textured faces are ignored"] = None
        colours = None
    mesh = mesh_from_arrays(
        geometry.vertices[rows[:, 0]],
        faces.reshape(-1, 3),
        flip_v(geometry.uv[rows[:, 1]]) if 1 in used else None,
        geometry.normals[rows[:, 2]] if 2 in used else None,
        None if colours is None else colours[rows[:, 0]],
    )
    return Primitive(mesh, material)


def _unique_corners(rows: np.ndarray, vertex_count: int) -> tuple[np.ndarray, np.ndarray]:
    """As `unique_rows`, for rows (R, columns) of indices; sorts only if a vertex is split."""
    vertex = rows[:, 0]
    if vertex_count < 8 * len(rows):
        owner = np.full(vertex_count + 1, -1)
        owner[vertex] = np.arange(len(rows))
        if (rows[owner[vertex]] == rows).all():
            present = owner >= 0
            return owner[present], (np.cumsum(present) - 1)[vertex]
    return unique_rows(list(rows.T))
