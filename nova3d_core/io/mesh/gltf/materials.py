"""The base colour of glTF materials and the mapping of their textures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ....errors import InputError
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


def read_material(file: GltfFile, index: int | None) -> MaterialBinding:
    """The base colour of a material by its index; plain white for None.

    Emission and alpha are dropped and named in the file's warning.

    Raises:
        InputError: it is malformed, or its texture is missing or in an unsupported format.
    """
    if index is None:
        return MaterialBinding(Material(multiplies_vertex_colours=True), 0, np.eye(3)[:2])
    material = file.items("materials")[index]
    if material.text("alphaMode", "OPAQUE") != "OPAQUE":
        file.note_dropped("alpha (masks, transparency)")
    if any(material.numbers("emissiveFactor", 3, (0.0, 0.0, 0.0))):
        file.note_dropped("emission")
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
        return MaterialBinding(plain, 0, np.eye(3)[:2])
    texture = file.item("textures", info, "index")
    webp = texture.object("extensions").object("EXT_texture_webp")
    source = webp if "source" in webp else texture
    if "source" not in source:
        raise InputError(
            f"{file.path.name}: {texture.where} is in an unsupported image format.",
            "Export it with PNG, JPEG or WebP textures.",
        )
    transform = info.object("extensions").object("KHR_texture_transform")
    return MaterialBinding(
        replace(plain, texture=file.texture(source), wrap=_wrap(file, texture)),
        transform.integer("texCoord", info.integer("texCoord", 0)),
        _uv_matrix(transform),
    )


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
