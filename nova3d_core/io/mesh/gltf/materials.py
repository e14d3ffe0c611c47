"""The base colour of glTF materials, the mapping of their textures, and their other maps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....errors import InputError
from ....material import PbrMaterial
from ...files.json_fields import JsonObject
from ..primitives import Material, Wrap
from .buffers import GltfFile

_WRAP_MODES: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}


class MaterialBinding(NamedTuple):
    """A material with the uv set and the uv transform of its texture."""

    material: Material
    uv_set: int
    uv_matrix: np.ndarray
    """(2, 3) maps (u, v, 1) of the mesh to texture coordinates (KHR_texture_transform)."""

    @property
    def keeps_tangents(self) -> bool:
        """Whether the material needs tangents."""
        return self.material.pbr is not None and self.material.pbr.normal_map is not None


def read_material(file: GltfFile, index: int | None) -> MaterialBinding:
    """A material by its index; plain white for None.

    Alpha is dropped, and so are maps that use other uv than the base colour; both are named in the
    file's warning.

    Raises:
        InputError: it is malformed, or its texture is missing or in an unsupported format.
    """
    if index is None:
        return MaterialBinding(Material(multiplies_vertex_colours=True), 0, np.eye(3)[:2])
    material = file.items("materials")[index]
    if material.text("alphaMode", "OPAQUE") != "OPAQUE":
        file.note_dropped("alpha (masks, transparency)")
    extensions = material.object("extensions")
    if "KHR_materials_pbrSpecularGlossiness" in extensions:
        glossy = extensions.object("KHR_materials_pbrSpecularGlossiness")
        factor = glossy.numbers("diffuseFactor", None, (1.0, 1.0, 1.0, 1.0))
        info, where = glossy.object("diffuseTexture"), glossy.where
    else:
        rough = material.object("pbrMetallicRoughness")
        factor = rough.numbers("baseColorFactor", None, (1.0, 1.0, 1.0, 1.0))
        info, where = rough.object("baseColorTexture"), rough.where
    if len(factor) not in (3, 4):
        raise InputError(f"{where} has a colour factor of {len(factor)} values, expected 4.")
    red, green, blue = factor[:3]
    plain = Material(tint_linear=(red, green, blue), multiplies_vertex_colours=True)
    if not info.names:
        plain = replace(plain, pbr=_read_pbr(file, material, (0, np.eye(3)[:2])))
        return MaterialBinding(plain, 0, np.eye(3)[:2])
    texture = file.item("textures", info, "index")
    image, mapping = file.texture(_image_source(file, texture)), _uv_mapping(info)
    pbr = _read_pbr(file, material, mapping)
    return MaterialBinding(
        replace(plain, texture=image, wrap=_wrap(file, texture), pbr=pbr), *mapping
    )


def _image_source(file: GltfFile, texture: JsonObject) -> JsonObject:
    """The object whose `source` is a texture's image."""
    webp = texture.object("extensions").object("EXT_texture_webp")
    source = webp if "source" in webp else texture
    if "source" not in source:
        raise InputError(
            f"{file.path.name}: {texture.where} is in an unsupported image format.",
            "Export it with PNG, JPEG or WebP textures.",
        )
    return source


def _uv_mapping(info: JsonObject) -> tuple[int, np.ndarray]:
    """The uv set and the uv matrix (2, 3) of a texture reference."""
    transform = info.object("extensions").object("KHR_texture_transform")
    return transform.integer("texCoord", info.integer("texCoord", 0)), _uv_matrix(transform)


def _read_pbr(
    file: GltfFile, material: JsonObject, mapping: tuple[int, np.ndarray]
) -> PbrMaterial | None:
    """Maps and factors besides the base colour; None if the file states none.

    Without a map, a metallic and a roughness factor count only if the file states one: the
    standard's default is metal, which exporters that omit them do not mean.

    Args:
        file: the glTF file.
        material: the material.
        mapping: uv set and uv matrix of the base colour, which all maps must share.
    """
    rough, extensions = material.object("pbrMetallicRoughness"), material.object("extensions")

    def read_map(info: JsonObject, label: str) -> Tensor | None:
        if not info.names:
            return None
        uv_set, matrix = _uv_mapping(info)
        if uv_set != mapping[0] or not np.array_equal(matrix, mapping[1]):
            file.note_dropped(f"{label} with other UVs than the base colour")
            return None
        source = _image_source(file, file.item("textures", info, "index"))
        return torch.from_numpy(file.texture(source))

    normal, occlusion = material.object("normalTexture"), material.object("occlusionTexture")
    metallic_roughness = read_map(
        rough.object("metallicRoughnessTexture"), "metallic-roughness map"
    )
    packed = _pack_occlusion(read_map(occlusion, "occlusion map"), metallic_roughness)
    stated = packed is not None or "metallicFactor" in rough or "roughnessFactor" in rough
    emission = extensions.object("KHR_materials_emissive_strength")
    red, green, blue = material.numbers("emissiveFactor", 3, (0.0, 0.0, 0.0))
    emissive = read_map(material.object("emissiveTexture"), "emissive map")
    pbr = PbrMaterial(
        metallic_roughness=packed,
        has_occlusion=packed is not metallic_roughness,
        normal_map=read_map(normal, "normal map"),
        emissive=emissive if any((red, green, blue)) else None,
        metallic_factor=rough.number("metallicFactor", 1.0 if stated else 0.0),
        roughness_factor=rough.number("roughnessFactor", 1.0),
        normal_scale=normal.number("scale", 1.0),
        occlusion_strength=occlusion.number("strength", 1.0),
        emissive_factor=(red, green, blue),
        emissive_strength=emission.number("emissiveStrength", 1.0),
        double_sided=material.boolean("doubleSided", False),
        unlit="KHR_materials_unlit" in extensions,
    )
    return pbr if pbr.maps or pbr.scalars != PbrMaterial().scalars else None


def _pack_occlusion(occlusion: Tensor | None, metallic_roughness: Tensor | None) -> Tensor | None:
    """The metallic-roughness map (H, W, 3) with occlusion as its red channel, at its size.

    Green and blue are 1 without such a map, so that the factors alone count.
    """
    if occlusion is None:
        return metallic_roughness
    if metallic_roughness is None:
        metallic_roughness = torch.ones_like(occlusion)
    size = metallic_roughness.shape[:2]
    red = occlusion[..., 0]
    if red.shape != size:
        red = torch.nn.functional.interpolate(
            red[None, None], size, mode="bilinear", align_corners=False, antialias=True
        )[0, 0]
    return torch.cat([red[..., None], metallic_roughness[..., 1:]], dim=2)


def _wrap(file: GltfFile, texture: JsonObject) -> tuple[Wrap, Wrap]:
    if "sampler" not in texture:
        return "repeat", "repeat"
    sampler = file.item("samplers", texture, "sampler")
    modes = [sampler.integer(key, 10497) for key in ("wrapS", "wrapT")]
    for mode in modes:
        if mode not in _WRAP_MODES:
            valid = ", ".join(map(str, _WRAP_MODES))
            raise InputError(f"{sampler.where} has wrap mode {mode}, expected one of {valid}.")
    return _WRAP_MODES[modes[0]], _WRAP_MODES[modes[1]]


def _uv_matrix(transform: JsonObject) -> np.ndarray:
    """(2, 3) matrix of a KHR_texture_transform: scale, then rotation, then translation.

    A positive angle rotates counter-clockwise in the image, whose v axis points down.
    """
    angle = transform.number("rotation", 0.0)
    rotation = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    matrix = np.zeros((2, 3))
    matrix[:, :2] = np.array(rotation) * np.array(transform.numbers("scale", 2, (1.0, 1.0)))
    matrix[:, 2] = transform.numbers("offset", 2, (0.0, 0.0))
    return matrix
