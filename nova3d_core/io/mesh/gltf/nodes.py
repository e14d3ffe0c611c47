"""The node hierarchy of a glTF file: world matrices, visibility, instances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....errors import InputError
from ...files.json_fields import JsonObject
from .buffers import GltfFile

_VISIBILITY = "KHR_node_visibility"
_INSTANCING = "EXT_mesh_gpu_instancing"


class NodeGraph(NamedTuple):
    """The world matrices and the visible nodes of a file."""

    worlds: dict[int, np.ndarray]
    """Node index -> (4, 4) float64 local-to-world matrix, for all nodes outside of cycles; also for
    nodes outside the scene, which may be joints."""
    visible: list[int]
    """The visible nodes of the scene, parents before children."""


def read_nodes(file: GltfFile) -> NodeGraph:
    """Computes the world matrices of all nodes.

    Raises:
        InputError: a node is malformed, or refers to nodes that do not exist.
    """
    nodes = file.items("nodes")
    children = [node.integers("children", high=len(nodes) - 1) for node in nodes]
    child_nodes = {child for each in children for child in each}
    roots_of_file = [index for index in range(len(nodes)) if index not in child_nodes]
    scenes = file.items("scenes")
    scene_roots = roots_of_file
    if scenes:
        scene = scenes[file.header.integer("scene", 0, high=len(scenes) - 1)]
        scene_roots = scene.integers("nodes", high=len(nodes) - 1)

    local = _local_matrices(nodes)
    worlds: dict[int, np.ndarray] = {}
    visible_nodes: list[int] = []
    for roots, in_scene in ((scene_roots, True), (roots_of_file, False)):
        stack = [(root, np.eye(4), in_scene) for root in reversed(roots)]
        while stack:
            index, parent, visible = stack.pop()
            if index in worlds:  # a second parent or a cycle: both are invalid
                continue
            worlds[index] = parent @ local[index] if index in local else parent
            if "extensions" in nodes[index]:
                extension = nodes[index].object("extensions").object(_VISIBILITY)
                visible = extension.boolean("visible", True) and visible
            if visible:
                visible_nodes.append(index)
            stack += [(child, worlds[index], visible) for child in reversed(children[index])]
    return NodeGraph(worlds, visible_nodes)


def _local_matrices(nodes: list[JsonObject]) -> dict[int, np.ndarray]:
    """Node index -> (4, 4) local matrix, stored column-major or as translation, rotation, scale.

    Nodes without a transform are omitted.
    """
    matrices: dict[int, np.ndarray] = {}
    composed: list[int] = []
    values: list[list[float]] = []
    for index, node in enumerate(nodes):
        if "matrix" in node:
            matrices[index] = np.array(node.numbers("matrix", 16)).reshape(4, 4).T
        elif any(key in node for key in ("translation", "rotation", "scale")):
            rotation = node.numbers("rotation", 4, (0.0, 0.0, 0.0, 1.0))
            if not any(rotation):
                raise InputError(f"{node.where}: rotation is a quaternion of length 0.")
            translation = node.numbers("translation", 3, (0.0, 0.0, 0.0))
            values.append(translation + rotation + node.numbers("scale", 3, (1.0, 1.0, 1.0)))
            composed.append(index)
    if composed:
        translation, rotation, scale = np.split(np.array(values), (3, 7), axis=1)
        matrices.update(
            zip(composed, _compose_trs(translation, rotation, scale, "nodes"), strict=True)
        )
    return matrices


def instance_count(file: GltfFile, node: JsonObject) -> int:
    """Number of instances of a node's mesh (EXT_mesh_gpu_instancing)."""
    attributes = _instance_attributes(node)
    counts = {
        file.count_of(attributes, key)
        for key in ("TRANSLATION", "ROTATION", "SCALE")
        if key in attributes
    }
    if len(counts) > 1:
        raise InputError(f"{attributes.where} have different counts: {sorted(counts)}.")
    return counts.pop() if counts else 1


def instance_matrices(file: GltfFile, node: JsonObject, world: np.ndarray) -> np.ndarray:
    """(K, 4, 4) local-to-world matrices of a node's K instances; K = 1 without instancing."""
    count, attributes = instance_count(file, node), _instance_attributes(node)
    if not attributes.names:
        return world[None]

    def values(key: str, kind: str, default: tuple[float, ...]) -> np.ndarray:
        if key not in attributes:
            return np.tile(np.array(default), (count, 1))
        return file.accessor(attributes, key, (kind,)).astype(np.float64)

    return world @ _compose_trs(
        values("TRANSLATION", "VEC3", (0.0, 0.0, 0.0)),
        values("ROTATION", "VEC4", (0.0, 0.0, 0.0, 1.0)),
        values("SCALE", "VEC3", (1.0, 1.0, 1.0)),
        attributes.where,
    )


def _instance_attributes(node: JsonObject) -> JsonObject:
    return node.object("extensions").object(_INSTANCING).object("attributes")


def _compose_trs(
    translation: np.ndarray, rotation: np.ndarray, scale: np.ndarray, where: str
) -> np.ndarray:
    """Composes (K, 4, 4) matrices that scale, then rotate, then translate.

    Args:
        translation: (K, 3).
        rotation: (K, 4) quaternions x, y, z, w of any non-zero length.
        scale: (K, 3).
        where: names the object in errors.
    """
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    if not (length > 0.0).all():
        raise InputError(f"{where}: rotation is a quaternion of length 0 or NaN.")
    x, y, z, w = (rotation / length).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrices = np.tile(np.eye(4), (len(scale), 1, 1))
    matrices[:, :3, :3] = np.array(rows).transpose(2, 0, 1) * scale[:, None]
    matrices[:, :3, 3] = translation
    return matrices
