"""Differences between the supported ComfyUI versions, from 0.3.64 on."""

from __future__ import annotations

import copy
from typing import Any

from comfy_api.v0_0_2 import io

CATEGORY = "NOVA3D"
"""Top-level category in the node menu."""

_SCHEMA_FIELDS = frozenset(io.Schema.__dataclass_fields__)


def schema(**settings: Any) -> io.Schema:
    """A node schema without the fields that this ComfyUI lacks, such as `search_aliases`."""
    return io.Schema(**{name: value for name, value in settings.items() if name in _SCHEMA_FIELDS})


def advanced(node_input: io.Input) -> io.Input:
    """A copy of the input, marked as advanced: newer front ends collapse it.

    Older ComfyUI versions have no such argument, and some of their input classes reject extra
    arguments; all of them pass `extra_dict` on to the front end.
    """
    marked = copy.copy(node_input)
    marked.extra_dict = {**node_input.extra_dict, "advanced": True}
    return marked


def mesh_or_file(name: str, **settings: Any) -> io.Input:
    """An input for a MESH, and for 3D files where ComfyUI has a type for them."""
    file_types = ("File3DGLB", "File3DGLTF", "File3DOBJ", "File3DSTL", "File3DPLY", "File3DAny")
    types = [io.Mesh, *(getattr(io, each) for each in file_types if hasattr(io, each))]
    return io.MultiType.Input(name, types=types, **settings)


def has_file3d() -> bool:
    """Whether ComfyUI has a type for 3D files."""
    return hasattr(io, "File3DGLB")


def viewer_auto_scales_models() -> bool:
    """Whether ComfyUI's 3D viewer rescales and recentres every model without reporting it."""
    return not hasattr(io, "Load3DModelInfo")


def model_info_inputs() -> list[io.Input]:
    """An input for the transform of a model in a 3D viewer, where ComfyUI has such a type."""
    if viewer_auto_scales_models():
        return []
    tooltip = (
        "With the camera of a 3D viewer: the viewer's model_3d_info output, which holds the "
        "model's transform."
    )
    return [advanced(io.Load3DModelInfo.Input("model_3d_info", optional=True, tooltip=tooltip))]
