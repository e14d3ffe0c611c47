"""Reads Wavefront OBJ with its materials (MTL) as parts."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import numpy as np

from ...files.text_lines import chunks_of_lines, clean_text, warn_of_losses
from ..polygon_mesh import distinct_rows, flip_v
from ..primitives import Material, Part, mesh_from_arrays, texture_beside
from ..triangulate import triangulate
from .mtl import MtlMaterial, defined_name, read_libraries
from .statements import Geometry, Statements, join_lines

logger = logging.getLogger(__name__)


def read_obj(path: Path) -> list[Part]:
    """The faces of an OBJ file, a part for each material in order of first use.

    Polygons are cut into triangles. A face without texture coordinates loses only its own texture:
    such faces of a textured material are a part of their own, with the material's colour. A
    texture takes the place of the colour Kd. Neighbouring materials that look the same are one
    part. What is not kept, a missing MTL included, is named in one warning.

    Raises:
        InputError: a texture is missing; a line is damaged; a face refers to vertices that are not
            there.
    """
    statements = Statements()
    for lines in chunks_of_lines(join_lines(clean_text(path.read_bytes()))):
        statements.add(lines)
    losses = statements.losses
    defined = read_libraries(path, statements.libraries, losses)
    geometry = statements.geometry()
    parts = []
    if len(geometry.counts):
        materials, material_of = _used_materials(statements, geometry, defined)
        parts = _parts(geometry, materials, material_of, losses)
    warn_of_losses(logger, path, losses)
    return parts


def _used_materials(
    statements: Statements, geometry: Geometry, defined: dict[str, MtlMaterial]
) -> tuple[list[MtlMaterial], np.ndarray]:
    """The materials in order of first use, and (F,) which of them each face has."""
    face_count = len(geometry.counts)
    starts = [0, *(start for start, _ in statements.uses), face_count]
    known_as = {name: defined_name(name, defined) for _, name in statements.uses}
    names = ["", *(known_as[name] for _, name in statements.uses)]
    order: dict[str, int] = {}
    numbers = []
    for name, start, end in zip(names, starts[:-1], starts[1:], strict=True):
        numbers.append(order.setdefault(name, len(order)) if end > start else 0)
    for name in order:
        if defined and name and name not in defined:
            statements.losses[f"the material '{name[:80]}' is not defined in any MTL"] = None
        statements.losses.update(dict.fromkeys(defined.get(name, MtlMaterial()).losses))
    materials = [defined.get(name, MtlMaterial())._replace(losses=()) for name in order]
    return materials, np.repeat(numbers, np.diff(starts))


def _parts(
    geometry: Geometry,
    materials: list[MtlMaterial],
    material_of: np.ndarray,
    losses: dict[str, None],
) -> list[Part]:
    """The parts, in order of the materials; neighbouring materials that look the same are one."""
    triangles, face_of = triangulate(geometry.vertices, geometry.corners[:, 0] - 1, geometry.counts)
    changes = [
        index > 0 and materials[index] != materials[index - 1] for index in range(len(materials))
    ]
    look_of = np.cumsum(changes)[material_of[face_of]]  # (T,)
    looks = [material for index, material in enumerate(materials) if index == 0 or changes[index]]
    order = np.argsort(look_of, kind="stable")
    bounds = np.searchsorted(look_of[order], np.arange(len(looks) + 1))
    load_texture = cache(texture_beside)  # materials that name one file share one copy
    parts = []
    for look, start, end in zip(looks, bounds[:-1], bounds[1:], strict=True):
        corners = geometry.corners[triangles[order[start:end]]]  # (T, 3, 3)
        has_uv = (corners[..., 1] > 0).all(axis=1)
        if look.texture is None or has_uv.all():
            groups = [(corners, look)]
        else:
            losses["textured faces without texture coordinates are left without texture"] = None
            plain = look._replace(texture=None)
            groups = [(corners[has_uv], look), (corners[~has_uv], plain)]
            groups = groups if has_uv[:1].all() else groups[::-1]
        for group, entry in groups:
            if len(group):
                material = entry.material(load_texture)
                parts.append(_part(geometry, group, material, losses))
    return parts


def _part(
    geometry: Geometry, corners: np.ndarray, material: Material, losses: dict[str, None]
) -> Part:
    """The part of triangles (T, 3, 3); vertices are split where uv or normals differ."""
    rows = corners.reshape(-1, 3)
    used = [0] + [column for column in (1, 2) if (rows[:, column] > 0).all()]
    for column, name in ((1, "texture coordinates"), (2, "normals")):
        if column not in used and (rows[:, column] > 0).any():
            losses[f"{name} that only some faces have are left out"] = None
    first, faces = _distinct(rows[:, used], len(geometry.vertices))
    rows = rows[first] - 1
    colours = geometry.colours
    if colours is not None and material.texture is not None:
        losses["vertex colours under a texture are left out"] = None
        colours = None
    mesh = mesh_from_arrays(
        geometry.vertices[rows[:, 0]],
        faces.reshape(-1, 3),
        flip_v(geometry.uv[rows[:, 1]]) if 1 in used else None,
        geometry.normals[rows[:, 2]] if 2 in used else None,
        None if colours is None else colours[rows[:, 0]],
    )
    return Part(mesh, material)


def _distinct(rows: np.ndarray, vertex_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where distinct rows (R, columns of indices) first are, sorted by column, and which is which.

    Without a split vertex this takes no sorting.
    """
    vertex = rows[:, 0]
    if vertex_count < 8 * len(rows):
        owner = np.full(vertex_count + 1, -1)
        owner[vertex] = np.arange(len(rows))
        if (rows[owner[vertex]] == rows).all():
            present = owner >= 0
            return owner[present], (np.cumsum(present) - 1)[vertex]
    return distinct_rows(list(rows.T))
