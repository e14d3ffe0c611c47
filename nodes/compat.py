"""What differs between the ComfyUI versions that the pack runs in, from 0.3.64 on."""

from __future__ import annotations

import copy
from typing import Any

from comfy_api.v0_0_2 import io

CATEGORY = "NOVA3D"
"""The pack's place in the menu of nodes."""

_FIELDS = frozenset(io.Schema.__dataclass_fields__)


def schema(**settings: Any) -> io.Schema:
    """A node's schema, without what this host does not know (`search_aliases` in old ones)."""
    return io.Schema(**{name: value for name, value in settings.items() if name in _FIELDS})


def advanced(given: io.Input) -> io.Input:
    """The input marked as advanced, so that hosts that can do so fold it away.

    Older hosts have no such argument, and some of their inputs take no further entries either; all
    pass on what their `extra_dict` holds.
    """
    marked = copy.copy(given)
    marked.extra_dict = {**given.extra_dict, "advanced": True}
    return marked


def mesh_or_file(name: str, **settings: Any) -> io.Input:
    """An input for a MESH, and for 3D files where the host has a type for them."""
    kinds = ("File3DGLB", "File3DGLTF", "File3DOBJ", "File3DSTL", "File3DPLY", "File3DAny")
    types = [io.Mesh, *(getattr(io, kind) for kind in kinds if hasattr(io, kind))]
    return io.MultiType.Input(name, types=types, **settings)


def has_files() -> bool:
    """Whether the host has a type for 3D files."""
    return hasattr(io, "File3DGLB")


def viewer_fits_models() -> bool:
    """Whether the host's 3D viewer gives every model one size and place, without saying so."""
    return not hasattr(io, "Load3DModelInfo")


def model_info_inputs() -> list[io.Input]:
    """An input for the place of a model in a viewer, where the host has such a type."""
    if viewer_fits_models():
        return []
    tooltip = "With a viewer's camera: where the viewer has the model, its model_3d_info output."
    return [advanced(io.Load3DModelInfo.Input("model_3d_info", optional=True, tooltip=tooltip))]
