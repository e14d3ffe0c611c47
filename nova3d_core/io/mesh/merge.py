"""Merges the primitives of a file into one mesh with at most one texture."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...material import PbrMaterial
from ...mesh import ZERO_ORIGIN, Mesh, is_far_from_origin
from .primitives import Primitive
from .texture_atlas import merge_textures

logger = logging.getLogger(__name__)


def merge_primitives(primitives: list[Primitive]) -> Mesh:
    """Concatenates primitives into one mesh; the order of faces and vertices is kept.

    If any primitive is textured, the result has one texture (see `merge_textures`) and no vertex
    colours. Otherwise tints and vertex colours are multiplied into vertex colours, or None if all
    primitives are plain white. If any primitive has normals, the others get smooth ones. The result
    has one common `origin`. Maps and factors besides the base colour are kept if all primitives
    share them and the uv stay as they are; else a warning names what is dropped.

    Raises:
        InputError: the list is empty.
    """
    if not primitives:
        raise InputError(
            "it has no faces.", "Point clouds and empty scenes cannot be read: mesh them first."
        )
    primitives = _with_common_origin(primitives)
    if any(primitive.is_textured for primitive in primitives):
        meshes, texture = merge_textures(primitives)
    else:
        meshes, texture = _bake_tints(primitives), None
    merged = _concatenate(meshes)
    keeps_uv = merged.uv is not None and all(
        mesh.uv is primitive.mesh.uv for mesh, primitive in zip(meshes, primitives, strict=True)
    )
    material = _common_material(primitives, keeps_uv)
    has_normal_map = material is not None and material.normal_map is not None
    return replace(
        merged,
        texture=texture,
        material=material,
        tangents=merged.tangents if has_normal_map else None,
    )


def _common_material(primitives: list[Primitive], keeps_uv: bool) -> PbrMaterial | None:
    """The material of the merged mesh; a warning names what the primitives have beyond it."""
    materials = [primitive.material.pbr or PbrMaterial() for primitive in primitives]
    first = materials[0]
    is_shared = all(each is first for each in materials)
    if is_shared and (keeps_uv or not first.maps):
        return primitives[0].material.pbr
    if all(not each.maps and each.scalars == first.scalars for each in materials):
        return primitives[0].material.pbr
    if is_shared:
        common = first.without_maps() or PbrMaterial()
    else:
        common = PbrMaterial(
            double_sided=any(each.double_sided for each in materials),
            unlit=all(each.unlit for each in materials),
        )
    labels = dict.fromkeys(label for each in materials for label in each.labels)
    dropped = [label for label in labels if label not in common.labels]
    if dropped:
        has_uv = all(primitive.mesh.uv is not None for primitive in primitives)
        no_uv, merged = (
            "dropped because the mesh has no UVs",
            "merging the materials into one drops",
        )
        logger.warning("%s: %s", merged if has_uv else no_uv, ", ".join(dropped))
    return None if common.scalars == PbrMaterial().scalars else common


def _with_common_origin(primitives: list[Primitive]) -> list[Primitive]:
    """Moves all primitives to one origin: their common centre if it is far from zero, else zero."""
    if all(primitive.mesh.origin == ZERO_ORIGIN for primitive in primitives):
        return primitives
    boxes = np.stack([p.mesh.bounds.double().numpy() + p.mesh.origin for p in primitives])
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    centre = (low + high) / 2 if is_far_from_origin(low, high) else np.zeros(3)
    origin = tuple(centre.tolist())
    return [replace(p, mesh=p.mesh.with_origin(origin)) for p in primitives]


def _bake_tints(primitives: list[Primitive]) -> list[Mesh]:
    """The meshes with tint and vertex colours multiplied; None if all are white."""
    plain = all(
        primitive.mesh.vertex_colours is None and primitive.material.tint_linear == (1.0, 1.0, 1.0)
        for primitive in primitives
    )
    if plain:
        return [primitive.mesh for primitive in primitives]
    meshes = []
    for primitive in primitives:
        colours = primitive.mesh.vertex_colours
        if colours is None:
            colours = torch.ones_like(primitive.mesh.vertices)
        tinted = torch.from_numpy(primitive.material.apply_tint(colours.numpy()))
        meshes.append(replace(primitive.mesh, vertex_colours=tinted))
    return meshes


def _concatenate(meshes: list[Mesh]) -> Mesh:
    if len(meshes) == 1:
        return meshes[0]
    if any(mesh.normals is not None for mesh in meshes):
        meshes = [
            mesh if mesh.normals is not None else mesh.with_smooth_normals() for mesh in meshes
        ]
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes]).tolist()

    def concatenate(name: str) -> Tensor | None:
        tensors = [getattr(mesh, name) for mesh in meshes]
        return None if any(tensor is None for tensor in tensors) else torch.cat(tensors)

    return Mesh(
        vertices=concatenate("vertices"),
        faces=torch.cat([mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]),
        uv=concatenate("uv"),
        normals=concatenate("normals"),
        vertex_colours=concatenate("vertex_colours"),
        origin=meshes[0].origin,
        tangents=concatenate("tangents"),
    )
