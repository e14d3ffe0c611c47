"""Writes GLB (binary glTF 2.0), through trimesh's exporter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from ....material import PbrMaterial
from ....mesh import ZERO_ORIGIN, Mesh
from ...files.atomic import atomic_file
from ...files.ownership import GENERATOR, reject_foreign_file
from ...images.srgb import linear_from_srgb
from ..trimesh_export import flip_v_to_bottom, to_pil_image, to_trimesh, with_unit_normals

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP_TO_EDGE, _REPEAT = 9729, 9987, 33071, 10497
"""Sampler filters and wrap modes (OpenGL enums)."""
_MAP_TEXTURES = {
    "metallic_roughness": "metallicRoughnessTexture",
    "normal_map": "normalTexture",
    "emissive": "emissiveTexture",
}
"""Names of a `PbrMaterial`'s maps in glTF."""
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
    """Encodes a mesh as GLB: +Y up, one material, smooth normals, all embedded.

    The texture is stored as base colour in PNG; without one, vertex colours are stored as linear
    floats. A mesh without normals gets smooth ones; one without a material is non-metallic.

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
    pbr = mesh.material or PbrMaterial()
    material = PBRMaterial(
        name="nova3d",
        baseColorTexture=texture,
        metallicFactor=float(pbr.metallic_factor),
        roughnessFactor=float(pbr.roughness_factor),
        **{_MAP_TEXTURES[name]: to_pil_image(value) for name, value in pbr.maps.items()},
    )
    body = to_trimesh(mesh, TextureVisuals(uv=flip_v_to_bottom(mesh.uv), material=material))
    coloured = mesh.texture is None and mesh.vertex_colours is not None
    if coloured:
        # trimesh rounds COLOR_0 to 8 bits, too coarse for dark linear colours, but keeps custom
        # attributes as they are: `finish` renames this one
        linear = linear_from_srgb(mesh.vertex_colours.numpy())
        body.vertex_attributes["_COLOR_0"] = linear.astype(np.float32)
    if mesh.tangents is not None:
        body.vertex_attributes["_TANGENT"] = mesh.tangents.numpy()
    repeat = _samples_across_border(mesh)

    def finish(header: dict[str, Any]) -> None:
        header["asset"]["generator"] = GENERATOR
        if extras:
            header["asset"]["extras"] = dict(extras)
        attributes = header["meshes"][0]["primitives"][0]["attributes"]
        for name in ("COLOR_0", "TANGENT"):
            if f"_{name}" in attributes:
                attributes[name] = attributes.pop(f"_{name}")
        if mesh.material is not None:
            _finish_material(header, mesh.material)
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


def _finish_material(header: dict[str, Any], pbr: PbrMaterial) -> None:
    """Adds the properties of the file's only material that trimesh does not write."""
    material = header["materials"][0]
    if pbr.normal_map is not None:
        material["normalTexture"]["scale"] = pbr.normal_scale
    if pbr.has_occlusion:
        shared = material["pbrMetallicRoughness"]["metallicRoughnessTexture"]
        material["occlusionTexture"] = {**shared, "strength": pbr.occlusion_strength}
    if pbr.is_emissive:
        material["emissiveFactor"] = [min(max(each, 0.0), 1.0) for each in pbr.emissive_factor]
    if pbr.double_sided:
        material["doubleSided"] = True
    extensions: dict[str, Any] = {}
    if pbr.is_emissive and pbr.emissive_strength != 1.0:
        strength = {"emissiveStrength": pbr.emissive_strength}
        extensions["KHR_materials_emissive_strength"] = strength
    if pbr.unlit:
        extensions["KHR_materials_unlit"] = {}
    if extensions:
        material["extensions"] = extensions
        header["extensionsUsed"] = sorted({*header.get("extensionsUsed", []), *extensions})


def _samples_across_border(mesh: Mesh) -> bool:
    """Whether bilinear lookups blend texels across the border, which needs the repeat mode."""
    maps = [] if mesh.material is None else list(mesh.material.maps.values())
    images = [*([] if mesh.texture is None else [mesh.texture]), *maps]
    if not images:
        return False
    height, width = (min(image.shape[axis] for image in images) for axis in (0, 1))
    half = 0.5 / mesh.uv.new_tensor([width, height])
    return bool(((mesh.uv < half) | (mesh.uv > 1.0 - half)).any())


def _buffer_view(header: dict[str, Any], accessor: int) -> dict[str, Any]:
    """The buffer view of an accessor."""
    return header["bufferViews"][header["accessors"][accessor]["bufferView"]]
