"""Reads glTF 2.0 (.glb, .gltf) as primitives: the scene's triangles with their base colour.

Not left to trimesh (5.2), which misreads integer uv and 16-bit colours, drops sparse accessors,
second uv sets, texture transforms, wrap modes and skins, and ignores a missing texture.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....errors import InputError
from ...files.json_fields import JsonObject
from ...images.srgb import srgb_from_linear
from ..primitives import Primitive, mesh_from_arrays
from .buffers import GltfFile
from .materials import MaterialBinding, read_material
from .nodes import NodeGraph, instance_count, instance_matrices, read_nodes

MAX_FACES = 2_000_000
"""Limit of faces, and of vertices, including all instances, unless the buffers are large enough to
hold more: a few bytes can request any number of instances."""
_BYTES_PER_FACE = 6
"""Minimum size of a face or a vertex in a file without instances."""
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_RELATIVE_EPS = 1e-15
"""Areas and volumes of a transformed unit cube below this, relative to its longest side, are 0."""
_VERTEX_CHUNK = 1 << 16
"""Vertices transformed together: the blended matrix of a skinned vertex takes 128 bytes."""


class _Arrays(NamedTuple):
    """The arrays of a primitive, in local or world coordinates."""

    vertices: np.ndarray
    """(N, 3) float64."""
    faces: np.ndarray
    """(F, 3) int64."""
    uv: np.ndarray | None
    """(N, 2), after the texture transform."""
    normals: np.ndarray | None
    """(N, 3)."""
    colours: np.ndarray | None
    """(N, 3) sRGB."""
    tangents: np.ndarray | None = None
    """(N, 4)."""


class _InstanceKey(NamedTuple):
    """What determines the shape of an instance besides its node's matrix."""

    mesh: int
    skin: int | None
    weights: tuple[float, ...]
    """Morph target weights."""


def read_gltf(path: Path) -> list[Primitive]:
    """Reads the triangles of a file's scene in world coordinates.

    All instances of a mesh are in one primitive, in the order of their nodes. Skins and default
    morph weights are applied, animations are not. One warning names what affects the appearance
    and is dropped (points, lines, alpha, unknown extensions).

    Raises:
        InputError: as `GltfFile`; a value is out of range or exceeds the file's bytes; a texture or
            buffer is missing or outside the folder; there are too many instances.
    """
    file = GltfFile(path)
    with np.errstate(all="ignore"):  # `Mesh` reports non-finite values
        primitives = _read_primitives(file)
    file.warn_dropped()
    return primitives


def _read_primitives(file: GltfFile) -> list[Primitive]:
    graph = read_nodes(file)
    material_of = cache(partial(read_material, file))
    primitives: list[Primitive] = []
    face_count = vertex_count = 0
    for use, nodes in _group_instances(file, graph).items():
        mesh = file.items("meshes")[use.mesh]
        copies = sum(instance_count(file, file.items("nodes")[index]) for index in nodes)
        for primitive in mesh.objects("primitives"):
            materials = "material" in primitive
            binding = material_of(
                file.index("materials", primitive, "material") if materials else None
            )
            arrays = _read_primitive(file, primitive, use.weights, binding)
            if arrays is None:
                continue
            face_count += copies * len(arrays.faces)
            vertex_count += copies * len(arrays.vertices)
            _check_size(file, max(face_count, vertex_count))
            if use.skin is not None and "JOINTS_0" in primitive.object("attributes"):
                arrays = _apply_skin(file, arrays, primitive, file.items("skins")[use.skin], graph)
                matrices = np.tile(np.eye(4), (len(nodes), 1, 1))
            else:
                matrices = np.concatenate(
                    [
                        instance_matrices(file, file.items("nodes")[index], graph.worlds[index])
                        for index in nodes
                    ]
                )
                matrices = matrices[_has_area(matrices)]
            if len(matrices):
                primitives.append(
                    Primitive(mesh_from_arrays(*_instantiate(arrays, matrices)), binding.material)
                )
    return primitives


def _has_area(matrices: np.ndarray) -> np.ndarray:
    """(K,) whether faces keep an area under matrices (K, 4, 4).

    A scale of 0 along one axis flattens a mesh; along two or three axes it hides it.
    """
    linear = matrices[:, :3, :3]
    areas = np.abs(_cofactors(linear)).max(axis=(1, 2))
    return ~(areas <= _RELATIVE_EPS * np.abs(linear).max(axis=(1, 2)) ** 2)


def _cofactors(linear: np.ndarray) -> np.ndarray:
    """(K, 3, 3) cofactor matrices, which transform normals: inverse transposes up to scale."""
    return np.cross(np.roll(linear, -1, axis=1), np.roll(linear, -2, axis=1))


def _group_instances(file: GltfFile, graph: NodeGraph) -> dict[_InstanceKey, list[int]]:
    """Groups the visible nodes by mesh, skin and morph weights, in order of first use."""
    uses: dict[_InstanceKey, list[int]] = {}
    for index in graph.visible:
        node = file.items("nodes")[index]
        if "mesh" not in node:
            continue
        mesh = file.index("meshes", node, "mesh")
        owner = node if "weights" in node else file.items("meshes")[mesh]
        skin = file.index("skins", node, "skin") if "skin" in node else None
        use = _InstanceKey(mesh, skin, tuple(owner.numbers("weights", None, ())))
        uses.setdefault(use, []).append(index)
    return uses


def _check_size(file: GltfFile, count: int) -> None:
    limit = max(MAX_FACES, file.bytes_read // _BYTES_PER_FACE)
    if count > limit:
        raise InputError(
            f"{file.path.name} has {count} faces or vertices with all its instances, expected at "
            f"most {limit}.",
            "Export fewer instances, or decimate the mesh.",
        )


def _read_primitive(
    file: GltfFile,
    primitive: JsonObject,
    weights: tuple[float, ...],
    binding: MaterialBinding,
) -> _Arrays | None:
    """Reads a primitive in local coordinates; None if it has no faces."""
    attributes = primitive.object("attributes")
    mode = primitive.integer("mode", _TRIANGLES, high=_FAN)
    if mode not in (_TRIANGLES, _STRIP, _FAN) or "POSITION" not in attributes:
        file.note_dropped("points and lines")
        return None
    for name in primitive.object("extensions").names:
        if "draco" in name and "bufferView" not in file.item("accessors", attributes, "POSITION"):
            raise file.unsupported_extension_error(name)
    vertices = file.accessor(attributes, "POSITION", ("VEC3",)).astype(np.float64)
    if len(vertices) == 0:
        return None
    faces = _faces(file, primitive, mode, len(vertices))
    if len(faces) == 0:
        return None

    def values(key: str, *kinds: str) -> np.ndarray | None:
        if key not in attributes:
            return None
        return _per_vertex(file, attributes, key, kinds, len(vertices))

    normals = values("NORMAL", "VEC3")
    normals = _apply_morph_targets(file, primitive, weights, vertices, normals)
    uv_key = f"TEXCOORD_{binding.uv_set}"
    uv = values(uv_key, "VEC2")
    if uv is None and binding.material.texture is not None:
        file.note_dropped(f"textures of primitives without {uv_key}")
    if uv is not None and not np.array_equal(binding.uv_matrix, np.eye(3)[:2]):
        uv = uv @ binding.uv_matrix[:, :2].T + binding.uv_matrix[:, 2]
    colours = values("COLOR_0", "VEC3", "VEC4")
    if colours is not None:
        colours = srgb_from_linear(colours[:, :3])
    tangents = None
    if binding.keeps_tangents and not (weights and "targets" in primitive):
        tangents = values("TANGENT", "VEC4")
    return _Arrays(vertices, faces, uv, normals, colours, tangents)


def _per_vertex(
    file: GltfFile, owner: JsonObject, key: str, kinds: tuple[str, ...], count: int
) -> np.ndarray:
    """(count, width) values of an attribute."""
    values = file.accessor(owner, key, kinds, integers=key.startswith("JOINTS_"))
    if len(values) != count:
        raise InputError(f"{owner.where}: {key} has {len(values)} values for {count} vertices.")
    return values


def _faces(file: GltfFile, primitive: JsonObject, mode: int, vertex_count: int) -> np.ndarray:
    """(F, 3) int64 triangles of a primitive."""
    if "indices" in primitive:
        order = file.accessor(primitive, "indices", ("SCALAR",), integers=True)[:, 0]
        if len(order) and int(order.max()) >= vertex_count:
            raise InputError(
                f"{primitive.where}: indices refer to vertex {order.max()}, but there are "
                f"{vertex_count}."
            )
        order = order.astype(np.int64)
    else:
        order = np.arange(vertex_count)
    if mode == _TRIANGLES:
        if len(order) % 3:
            raise InputError(f"{primitive.where} ends within a triangle: {len(order)} corners.")
        return order.reshape(-1, 3)
    step = np.arange(max(len(order) - 2, 0))
    if mode == _FAN:
        return np.stack([order[step + 1], order[step + 2], order[0 * step]], axis=1)
    odd = step % 2  # every second triangle of a strip has reversed winding
    return np.stack([order[step], order[step + 1 + odd], order[step + 2 - odd]], axis=1)


def _apply_morph_targets(
    file: GltfFile,
    primitive: JsonObject,
    weights: tuple[float, ...],
    vertices: np.ndarray,
    normals: np.ndarray | None,
) -> np.ndarray | None:
    """Adds the weighted morph targets to the vertices (N, 3) in place; returns the new normals."""
    for target, weight in zip(primitive.objects("targets"), weights, strict=False):
        if weight == 0.0:
            continue
        if any(key.startswith(("TEXCOORD", "COLOR")) for key in target.names):
            file.note_dropped("morph targets of colours and texture coordinates")
        if "POSITION" in target:
            vertices += weight * _per_vertex(file, target, "POSITION", ("VEC3",), len(vertices))
        if "NORMAL" in target and normals is not None:
            offsets = _per_vertex(file, target, "NORMAL", ("VEC3",), len(vertices))
            normals = normals + weight * offsets
    return normals


def _instantiate(arrays: _Arrays, matrices: np.ndarray) -> _Arrays:
    """Concatenates one copy of the primitive per local-to-world matrix (K, 4, 4).

    The given vertices are overwritten.
    """
    count, (vertices, faces, uv, normals, colours, tangents) = len(matrices), arrays
    linear = matrices[:, :3, :3]
    volume = np.abs(linear).max(axis=(1, 2)) ** 3
    mirrored = np.linalg.det(linear) < -_RELATIVE_EPS * volume  # (K,)
    if not (count == 1 and np.array_equal(matrices[0], np.eye(4))):
        vertices = _transform_vertices(vertices, matrices)
        if normals is not None:
            cofactors = _cofactors(linear)  # also defined for singular matrices
            largest = np.abs(cofactors).max(axis=(1, 2)) * np.where(mirrored, -1.0, 1.0)
            cofactors /= largest[:, None, None]
            normals = normals @ cofactors.transpose(0, 2, 1).astype(np.float32)
            normals = normals.reshape(-1, 3)  # of any length
        if tangents is not None:
            tangents = _transform_tangents(tangents, linear, mirrored)
    if count == 1:
        faces = faces[:, ::-1] if mirrored[0] else faces
        return _Arrays(vertices, faces, uv, normals, colours, tangents)
    faces = np.where(mirrored[:, None, None], faces[:, ::-1], faces)  # (K, F, 3)
    starts = np.arange(count)[:, None, None] * len(arrays.vertices)
    uv, colours = (None if each is None else np.tile(each, (count, 1)) for each in (uv, colours))
    return _Arrays(vertices, (faces + starts).reshape(-1, 3), uv, normals, colours, tangents)


def _transform_tangents(
    tangents: np.ndarray, linear: np.ndarray, mirrored: np.ndarray
) -> np.ndarray:
    """(K N, 4) unit tangents under matrices (K, 3, 3); `mirrored` (K,) flips the bitangent."""
    along_u = tangents[None, :, :3] @ linear.transpose(0, 2, 1).astype(np.float32)  # (K, N, 3)
    along_u /= np.maximum(np.linalg.norm(along_u, axis=2, keepdims=True), 1e-20)
    sign = np.where(mirrored[:, None, None], -tangents[None, :, 3:], tangents[None, :, 3:])
    return np.concatenate([along_u, sign], axis=2).reshape(-1, 4).astype(np.float32)


def _transform_vertices(vertices: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """(K N, 3) vertices under matrices (K, 4, 4); the given ones (N, 3) are overwritten if K = 1.

    Works in chunks to bound the memory.
    """
    linear, translation = matrices[:, :3, :3].transpose(0, 2, 1), matrices[:, None, :3, 3]
    if len(matrices) == 1:
        for start in range(0, len(vertices), _VERTEX_CHUNK):
            some = vertices[start : start + _VERTEX_CHUNK]
            some[:] = some @ linear[0] + translation[0]
        return vertices
    result = np.zeros((len(matrices), *vertices.shape))
    step = max(_VERTEX_CHUNK // len(vertices), 1)
    for start in range(0, len(matrices), step):
        some = slice(start, start + step)
        result[some] = vertices @ linear[some] + translation[some]
    return result.reshape(-1, 3)


def _apply_skin(
    file: GltfFile, arrays: _Arrays, primitive: JsonObject, skin: JsonObject, graph: NodeGraph
) -> _Arrays:
    """Applies linear blend skinning; the node's own matrix has no effect, by the glTF standard."""
    joint_nodes = skin.integers("joints", high=len(file.items("nodes")) - 1)
    for joint in joint_nodes:
        if joint not in graph.worlds:
            raise InputError(f"{skin.where}: its joint, node {joint}, is part of a cycle.")
    if not joint_nodes:
        raise InputError(f"{skin.where} has no joints.")
    poses = np.stack([graph.worlds[joint] for joint in joint_nodes])  # (J, 4, 4)
    if "inverseBindMatrices" in skin:
        binds = file.accessor(skin, "inverseBindMatrices", ("MAT4",)).reshape(-1, 4, 4)
        if len(binds) < len(poses):
            raise InputError(
                f"{skin.where} has {len(binds)} inverse bind matrices for {len(poses)} joints."
            )
        poses = poses @ binds[: len(poses)].transpose(0, 2, 1)
    joints, weights = _joint_influences(file, primitive.object("attributes"), len(arrays.vertices))
    if int(joints.max()) >= len(poses):
        raise InputError(
            f"{primitive.where} refers to joint {joints.max()}, but {skin.where} has {len(poses)}."
        )
    vertices = np.zeros_like(arrays.vertices)
    normals = None if arrays.normals is None else np.zeros_like(arrays.vertices)
    for start in range(0, len(vertices), _VERTEX_CHUNK):
        some = slice(start, start + _VERTEX_CHUNK)
        matrices = np.einsum("nk,nkij->nij", weights[some], poses[joints[some]])  # (S, 4, 4)
        vertices[some] = (matrices[:, :3, :3] @ arrays.vertices[some, :, None])[..., 0]
        vertices[some] += matrices[:, :3, 3]
        if normals is not None:
            normals[some] = (matrices[:, :3, :3] @ arrays.normals[some, :, None])[..., 0]
    return arrays._replace(vertices=vertices, normals=normals, tangents=None)


def _joint_influences(
    file: GltfFile, attributes: JsonObject, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N, 4 S) int64 and normalised weights (N, 4 S) float64 of all S sets."""
    sets = 0
    joints, weights = [], []
    while f"JOINTS_{sets}" in attributes:
        joints.append(_per_vertex(file, attributes, f"JOINTS_{sets}", ("VEC4",), count))
        weights.append(_per_vertex(file, attributes, f"WEIGHTS_{sets}", ("VEC4",), count))
        sets += 1
    all_weights = np.concatenate(weights, axis=1).astype(np.float64)
    all_joints = np.concatenate(joints, axis=1).astype(np.int64)
    all_joints[all_weights == 0.0] = 0  # unused joints may be out of range
    total = all_weights.sum(axis=1, keepdims=True)
    all_weights[:, :1] = np.where(total > 0.0, all_weights[:, :1], 1.0)
    return all_joints, all_weights / np.where(total > 0.0, total, 1.0)
