"""Converters between the material of ComfyUI's MESH and the core's `PbrMaterial`.

ComfyUI's SaveGLB defines the meaning: the defaults of factors, and which property wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..nova3d_core.errors import InputError
from ..nova3d_core.io.images.srgb import linear_from_srgb, srgb_from_linear
from ..nova3d_core.material import MAPS, PbrMaterial
from ..nova3d_core.mesh import Mesh

_BLACK = (0.0, 0.0, 0.0)
_NEUTRAL = {
    "metallic_roughness": (1.0, 1.0, 0.0),
    "normal_map": (0.5, 0.5, 1.0),
    "emissive": _BLACK,
}
"""Colours of the maps of a mesh without them, in a batch with others."""
_OPAQUE = 1.0 - 1e-3
"""Alpha from which a colour counts as opaque."""


def material_from_batch(batch: Any, image_at: Callable[[str], Tensor | None]) -> PbrMaterial | None:
    """The material of one mesh of a MESH; None if it carries no map, flag or factor.

    Args:
        batch: a MESH of any ComfyUI version.
        image_at: the mesh's image (H, W, 3) of an attribute of the batch, or None.
    """
    maps = {name: image_at(name) for name in MAPS}
    settings = getattr(batch, "material", None)
    unlit = bool(getattr(batch, "unlit", False))
    if not isinstance(settings, dict):
        settings = {}
    if not settings and not unlit and all(value is None for value in maps.values()):
        return None

    def factor(name: str, default: float) -> float:
        value = _numbers(settings, name, (-1.0,), 1)[0]
        return default if value < 0.0 else value  # below 0: automatic

    def value(name: str) -> float:
        return _numbers(settings, name, (1.0,), 1)[0]

    has_roughness_map = maps["metallic_roughness"] is not None
    emissive_factor = _numbers(settings, "emissive_factor", _BLACK, 3)
    if maps["emissive"] is not None and not any(each > 0.0 for each in emissive_factor):
        emissive_factor = (1.0, 1.0, 1.0)
    return PbrMaterial(
        **maps,
        has_occlusion=has_roughness_map and bool(getattr(batch, "occlusion_in_mr", False)),
        metallic_factor=factor("metallic_factor", 1.0 if has_roughness_map else 0.0),
        roughness_factor=factor("roughness_factor", 1.0),
        normal_scale=value("normal_scale"),
        occlusion_strength=value("occlusion_strength"),
        emissive_factor=tuple(min(each, 1.0) for each in emissive_factor),
        emissive_strength=value("emissive_strength"),
        double_sided=bool(settings.get("double_sided", True)),
        unlit=unlit,
    )


def with_base_colour_factor(mesh: Mesh, batch: Any, dropped: list[str]) -> Mesh:
    """The mesh with the base colour factor of a MESH multiplied into its colours.

    Args:
        mesh: the mesh without the factor.
        batch: a MESH of any ComfyUI version.
        dropped: receives the name of what is dropped.
    """
    settings = getattr(batch, "material", None)
    if not isinstance(settings, dict) or settings.get("base_color_factor") is None:
        return mesh
    red, green, blue, *alpha = _numbers(settings, "base_color_factor", (), 3)
    if alpha and alpha[0] < _OPAQUE:
        dropped.append("transparency of the material")
    if (red, green, blue) == (1.0, 1.0, 1.0):
        return mesh

    def tinted(colours: Tensor) -> Tensor:
        linear = linear_from_srgb(colours.numpy()) * [red, green, blue]
        return torch.from_numpy(srgb_from_linear(linear)).float()

    if mesh.texture is not None:
        return replace(mesh, texture=tinted(mesh.texture))
    colours = mesh.vertex_colours
    return replace(
        mesh, vertex_colours=tinted(torch.ones_like(mesh.vertices) if colours is None else colours)
    )


def _numbers(
    settings: dict[str, Any], name: str, default: tuple[float, ...], count: int
) -> tuple[float, ...]:
    """At least `count` finite numbers of a material's settings; the default if they are null."""
    values = settings.get(name)
    if values is None:
        return default
    try:
        numbers = tuple(map(float, values if isinstance(values, Sequence) else (values,)))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) < count or not all(map(math.isfinite, numbers)):
        expected = "a finite number" if count == 1 else f"{count} finite numbers"
        raise InputError(f"{name} of the mesh's material is {values!r}, expected {expected}.")
    return numbers


def batch_material(
    meshes: Sequence[Mesh],
    stack: Callable[[list[Tensor | None], tuple[float, float, float]], Tensor | None],
) -> dict[str, Any]:
    """The attributes of a MESH that hold the meshes' materials; empty if none has one.

    ComfyUI has one set of factors for all meshes of a batch: the first material's.

    Args:
        meshes: one or more.
        stack: images (H, W, 3) as one tensor (B, H, W, 3), missing ones filled with a colour.
    """
    materials = [mesh.material for mesh in meshes]
    first = next((each for each in materials if each is not None), None)
    if first is None:
        return {}
    attributes: dict[str, Any] = {
        name: stack([None if each is None else getattr(each, name) for each in materials], neutral)
        for name, neutral in _NEUTRAL.items()
    }
    attributes["occlusion_in_mr"] = any(
        each is not None and each.has_occlusion for each in materials
    )
    attributes["unlit"] = first.unlit
    attributes["material"] = {
        "metallic_factor": first.metallic_factor,
        "roughness_factor": first.roughness_factor,
        "normal_scale": first.normal_scale,
        "occlusion_strength": first.occlusion_strength,
        "emissive_factor": list(first.emissive_factor),
        "emissive_strength": first.emissive_strength,
        "double_sided": first.double_sided,
    }
    return attributes
