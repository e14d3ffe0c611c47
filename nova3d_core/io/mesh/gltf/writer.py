"""Writes GLB (binary glTF 2.0), through trimesh's exporter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from ....mesh import ZERO_ORIGIN, Mesh
from ...files.atomic import atomic_file
from ...files.ownership import GENERATOR, reject_foreign_file
from ...images.srgb import linear_from_srgb
from ..trimesh_export import flip_v_to_bottom, to_pil_image, to_trimesh, with_unit_normals

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE, _REPEAT = 9729, 9987, 33071, 10497
"""Sampler filters and wrap modes (OpenGL enums)."""
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
"""Buffer view targets: vertex attributes, vertex indices."""


def write_glb(mesh: Mesh, path: Path | str, overwrite: bool = False) -> Path:
    """Writes a mesh as one GLB file (see `mesh_to_glb_bytes`) and returns its path.

    Raises:
        InputError: the name does not end in .glb, the file exists, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".glb":
        raise InputError(f"{path} does not end in .glb.", "Use a file name that ends in .glb.")
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(mesh_to_glb_bytes(mesh))
        reject_foreign_file(path.resolve())
    return path


def mesh_to_glb_bytes(mesh: Mesh, extras: Mapping[str, Any] | None = None) -> bytes:
    """Encodes a mesh as GLB: +Y up, one non-metallic material, smooth normals, all embedded.

    The texture is stored as base colour in PNG; without one, vertex colours are stored as linear
    floats. A mesh without normals gets smooth ones.

    Args:
        mesh: on any device.
        extras: metadata for the file's `asset.extras`; JSON values.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    mesh = with_unit_normals(mesh)
    texture = None if mesh.texture is None else to_pil_image(mesh.texture)
    material = PBRMaterial(
        name="nova3d", baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0
    )
    body = to_trimesh(mesh, TextureVisuals(uv=flip_v_to_bottom(mesh.uv), material=material))
    coloured = mesh.texture is None and mesh.vertex_colours is not None
    if coloured:
        # trimesh rounds COLOR_0 to 8 bits, too coarse for dark linear colours, but keeps custom
        # attributes as they are: `finish` renames this one
        linear = linear_from_srgb(mesh.vertex_colours.numpy())
        body.vertex_attributes["_COLOR_0"] = linear.astype(np.float32)
    repeat = _samples_across_border(mesh)

    def finish(header: dict[str, Any]) -> None:
        header["asset"]["generator"] = GENERATOR
        if extras:
            header["asset"]["extras"] = dict(extras)
        if coloured:
            attributes = header["meshes"][0]["primitives"][0]["attributes"]
            attributes["COLOR_0"] = attributes.pop("_COLOR_0")
        primitive = header["meshes"][0]["primitives"][0]
        for number in primitive["attributes"].values():
            _buffer_view(header, number)["target"] = _ARRAY_BUFFER
        _buffer_view(header, primitive["indices"])["target"] = _ELEMENT_ARRAY_BUFFER
        wrap = _REPEAT if repeat else _CLAMP_TO_EDGE
        for texture_entry in header.get("textures", []):
            texture_entry["sampler"] = 0
            header["samplers"] = [
                {
                    "magFilter": _LINEAR,
                    "minFilter": _LINEAR_MIPMAP_LINEAR,
                    "wrapS": wrap,
                    "wrapT": wrap,
                }
            ]
        if mesh.origin != ZERO_ORIGIN:
            node = next(node for node in header["nodes"] if "mesh" in node)
            node.pop("matrix", None)
            node["translation"] = list(mesh.origin)

    scene = trimesh.Scene({"mesh": body})
    return export_glb(scene, include_normals=True, unitize_normals=False, tree_postprocessor=finish)


def _samples_across_border(mesh: Mesh) -> bool:
    """Whether bilinear lookups blend texels across the border, which needs the repeat mode."""
    if mesh.texture is None:
        return False
    height, width = mesh.texture.shape[:2]
    half = 0.5 / mesh.uv.new_tensor([width, height])
    return bool(((mesh.uv < half) | (mesh.uv > 1.0 - half)).any())


def _buffer_view(header: dict[str, Any], accessor: int) -> dict[str, Any]:
    """The buffer view of an accessor."""
    return header["bufferViews"][header["accessors"][accessor]["bufferView"]]
