"""Reads glTF 2.0 (.glb, .gltf) as parts: the scene's triangles with their base colour.

Written out rather than left to trimesh because trimesh (5.2) reads integer uv and 16-bit colours
wrongly, leaves out sparse data, second uv sets, texture transforms, wrap modes and skins, and
passes over a missing texture in silence.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import InputError
from ..mesh import Mesh
from .gltf_data import GltfFile
from .mesh_parts import Material, Part, mesh_from_arrays
from .srgb import srgb_from_linear

_WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6


class _PlacedMaterial(NamedTuple):
    """A material, and how its texture lies on the mesh."""

    material: Material
    uv_set: int
    uv_matrix: np.ndarray
    """(2, 3) takes (u, v, 1) of the file to the texture's own u, v."""


def read_gltf(path: Path) -> list[Part]:
    """The triangles of a file's scene, in its world, a part for each primitive.

    Points and lines are passed over. Skinned meshes stand as their joints do; morph targets and
    animations are at rest.

    Raises:
        InputError: as `GltfFile`, or a texture or buffer is missing.
    """
    file = GltfFile(path)
    worlds = _world_matrices(file.items("nodes"), _roots(file))
    placed_material = cache(partial(_placed_material, file))
    parts = []
    for index, world in worlds.items():
        node = file.items("nodes")[index]
        if "mesh" not in node or np.linalg.det(world) == 0.0:  # size 0 is a way to hide things
            continue
        for primitive in file.items("meshes")[node["mesh"]]["primitives"]:
            faces = _triangles(file, primitive)
            if faces is None or len(faces) == 0:
                continue
            placed = placed_material(primitive.get("material"))
            part = Part(_mesh(file, primitive, faces, placed), placed.material)
            if "skin" in node and "JOINTS_0" in primitive["attributes"]:
                parts.append(_skinned(file, part, primitive, node["skin"], worlds))
            else:
                parts.append(replace(part, mesh=part.mesh.transformed(torch.from_numpy(world))))
    return parts


def _roots(file: GltfFile) -> list[int]:
    scenes = file.items("scenes")
    if scenes:
        return scenes[file.header.get("scene", 0)].get("nodes", [])
    nodes = file.items("nodes")
    children = {child for node in nodes for child in node.get("children", [])}
    return [index for index in range(len(nodes)) if index not in children]


def _world_matrices(nodes: list[dict[str, Any]], roots: list[int]) -> dict[int, np.ndarray]:
    """(4, 4) node-to-world matrix of each node below the roots, parents before children."""
    worlds: dict[int, np.ndarray] = {}
    waiting = [(root, np.eye(4)) for root in reversed(roots)]
    while waiting:
        index, parent = waiting.pop()
        if index in worlds:  # no tree, but no reason to go round in circles either
            continue
        worlds[index] = parent @ _local_matrix(nodes[index])
        children = nodes[index].get("children", [])
        waiting += [(child, worlds[index]) for child in reversed(children)]
    return worlds


def _local_matrix(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) matrix of a node: given by columns, or as translation, rotation, scale."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    rotation = Rotation.from_quat(node.get("rotation", (0.0, 0.0, 0.0, 1.0))).as_matrix()
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1.0, 1.0, 1.0)))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _triangles(file: GltfFile, primitive: dict[str, Any]) -> np.ndarray | None:
    """(F, 3) faces of a primitive; None if it is made of points or lines."""
    mode = primitive.get("mode", _TRIANGLES)
    if mode not in (_TRIANGLES, _STRIP, _FAN) or "POSITION" not in primitive["attributes"]:
        return None
    if "indices" in primitive:
        order = file.accessor(primitive["indices"])[:, 0].astype(np.int64)
    else:
        order = np.arange(file.items("accessors")[primitive["attributes"]["POSITION"]]["count"])
    if mode == _TRIANGLES:
        return order.reshape(-1, 3)
    step = np.arange(max(len(order) - 2, 0))
    if mode == _FAN:
        return np.stack([order[step + 1], order[step + 2], order[0 * step]], axis=1)
    odd = step % 2  # every second triangle of a strip runs the other way round
    return np.stack([order[step], order[step + 1 + odd], order[step + 2 - odd]], axis=1)


def _mesh(
    file: GltfFile, primitive: dict[str, Any], faces: np.ndarray, placed: _PlacedMaterial
) -> Mesh:
    """A primitive's mesh in its own frame, uv already under the texture transform."""
    attributes = primitive["attributes"]

    def values(name: str) -> np.ndarray | None:
        return file.accessor(attributes[name]) if name in attributes else None

    uv = values(f"TEXCOORD_{placed.uv_set}")
    if uv is not None:
        uv = uv @ placed.uv_matrix[:, :2].T + placed.uv_matrix[:, 2]
    colours = values("COLOR_0")
    if colours is not None:
        colours = srgb_from_linear(colours[:, :3])
    return mesh_from_arrays(values("POSITION"), faces, uv, values("NORMAL"), colours)


def _skinned(
    file: GltfFile,
    part: Part,
    primitive: dict[str, Any],
    skin_index: int,
    worlds: dict[int, np.ndarray],
) -> Part:
    """The part posed by its joints; by the rules of glTF its node's own place does not count."""
    skin = file.items("skins")[skin_index]
    poses = np.stack([worlds[joint] for joint in skin["joints"]])  # (J, 4, 4)
    if "inverseBindMatrices" in skin:
        binds = file.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4)
        poses = poses @ binds[: len(poses)].transpose(0, 2, 1)
    joints = file.accessor(primitive["attributes"]["JOINTS_0"]).astype(np.int64)  # (N, 4)
    weights = file.accessor(primitive["attributes"]["WEIGHTS_0"]).astype(np.float64)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    matrices = torch.from_numpy(np.einsum("nk,nkij->nij", weights, poses[joints])).float()
    mesh = part.mesh
    turn, shift = matrices[:, :3, :3], matrices[:, :3, 3]
    vertices = (turn @ mesh.vertices[..., None])[..., 0] + shift
    normals = mesh.normals
    if normals is not None:
        normals = torch.nn.functional.normalize((turn @ normals[..., None])[..., 0], dim=-1)
    return replace(part, mesh=replace(mesh, vertices=vertices, normals=normals))


def _placed_material(file: GltfFile, index: int | None) -> _PlacedMaterial:
    """The base colour of a material by its number; plain white for none."""
    material = {} if index is None else file.items("materials")[index]
    glossy = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    if glossy is not None:
        info, factor = glossy.get("diffuseTexture"), glossy.get("diffuseFactor")
    else:
        rough = material.get("pbrMetallicRoughness", {})
        info, factor = rough.get("baseColorTexture"), rough.get("baseColorFactor")
    red, green, blue = (float(value) for value in (factor or (1.0, 1.0, 1.0))[:3])
    plain = Material(tint_linear=(red, green, blue))
    if info is None:
        return _PlacedMaterial(plain, 0, np.eye(3)[:2])
    texture = file.items("textures")[info["index"]]
    webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
    source = webp.get("source", texture.get("source"))
    if source is None:
        raise InputError(
            f"{file.path} has its texture number {info['index']} only in a form not read here.",
            "Export it with PNG, JPEG or WebP textures.",
        )
    sampler = file.items("samplers")[texture["sampler"]] if "sampler" in texture else {}
    wrap = tuple(_WRAPS[sampler.get(key, 10497)] for key in ("wrapS", "wrapT"))
    transform = info.get("extensions", {}).get("KHR_texture_transform", {})
    return _PlacedMaterial(
        replace(plain, texture=file.texture(source), wrap=wrap),
        transform.get("texCoord", info.get("texCoord", 0)),
        _uv_matrix(transform),
    )


def _uv_matrix(transform: dict[str, Any]) -> np.ndarray:
    """(2, 3) matrix of a KHR_texture_transform: scaled, then turned, then shifted.

    A positive angle turns counter-clockwise as the picture is seen, with v pointing down.
    """
    angle = transform.get("rotation", 0.0)
    turn = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    matrix = np.zeros((2, 3))
    matrix[:, :2] = np.array(turn) * np.array(transform.get("scale", (1.0, 1.0)))
    matrix[:, 2] = transform.get("offset", (0.0, 0.0))
    return matrix
