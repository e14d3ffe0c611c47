"""Differences between the supported ComfyUI versions, from 0.3.64 on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.v0_0_2 import io

from .search_terms import search_settings

CATEGORY = "NOVA3D"
"""Top-level category in the node menu."""

_SCHEMA_FIELDS = frozenset(io.Schema.__dataclass_fields__)


def schema(**settings: Any) -> io.Schema:
    """A node schema with its search terms, without the fields that this ComfyUI lacks."""
    aliases = settings.get("search_aliases", [])
    settings = {**settings, **search_settings(settings["node_id"], aliases)}
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


def splat_type() -> Any:
    """ComfyUI's SPLAT; in versions that lack it, a custom type of the same name.

    Its values there have the same attributes; see `splat_adapters.SplatBatch`.
    """
    return getattr(io, "Splat", None) or io.Custom("SPLAT")


def splats_output() -> io.Output:
    """An output for a SPLAT."""
    return splat_type().Output(
        display_name="splats",
        tooltip="For Render Splat Views, Export Splats and ComfyUI's own splat nodes.",
    )


def splat_or_file(name: str, **settings: Any) -> io.Input:
    """An input for a SPLAT, and for splat files where ComfyUI has types for them."""
    file_types = ("File3DSplatAny", "File3DPLY", "File3DSPLAT", "File3DAny")
    types = [splat_type(), *(getattr(io, each) for each in file_types if hasattr(io, each))]
    return io.MultiType.Input(name, types=types, **settings)


def mesh_splats_or_file(name: str, **settings: Any) -> io.Input:
    """An input for a MESH or a SPLAT, and for 3D files where ComfyUI has types for them."""
    types: dict[str, Any] = {}
    for each in (mesh_or_file(name), splat_or_file(name)):
        types.update({kind.io_type: kind for kind in each.io_types})
    return io.MultiType.Input(name, types=list(types.values()), **settings)


def has_splat_files() -> bool:
    """Whether ComfyUI has a type for files of Gaussian splats."""
    return hasattr(io, "File3DSplatAny")


def splat_file_outputs(tooltip: str) -> list[io.Output]:
    """The output model_3d for a file of splats, where ComfyUI has a type for it."""
    if not has_splat_files():
        return []
    return [io.File3DSplatAny.Output(display_name="model_3d", tooltip=tooltip)]


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


def passes_camera_lists() -> bool:
    """Whether ComfyUI's 3D nodes pass lists of cameras, which BatchCameras makes."""
    return "BatchCameras" in getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", ())


def camera_info_output() -> io.Output:
    """An output with cameras for ComfyUI's own 3D nodes.

    Where those take a single camera only, it is a list output: they run once for each camera.
    """
    tooltip = (
        "The same cameras for ComfyUI's own 3D nodes, such as Render Mesh; ComfyUI versions "
        "without camera lists run those nodes once per camera."
    )
    return io.Load3DCamera.Output(
        display_name="camera_info", tooltip=tooltip, is_output_list=not passes_camera_lists()
    )


FIXED_INPUTS = 8
"""Number of inputs where ComfyUI cannot add inputs on demand."""
MAX_INPUTS = 50


def growing_inputs(name: str, tooltip: str, make: Callable[..., io.Input]) -> list[io.Input]:
    """Inputs of one type that grow as they are connected; a fixed number in older ComfyUI versions.

    Their ids are the same in all versions: NAME.NAME_0, NAME.NAME_1 and so on; see `grown_values`.

    Args:
        name: id of the group.
        tooltip: of the group.
        make: creates an input from an id and keywords.
    """
    if hasattr(io, "Autogrow"):
        template = io.Autogrow.TemplatePrefix(
            make(name, tooltip=tooltip), prefix=f"{name}_", min=2, max=MAX_INPUTS
        )
        return [io.Autogrow.Input(name, template=template, tooltip=tooltip)]
    return [
        make(f"{name}.{name}_{index}", tooltip=tooltip, optional=index >= 2)
        for index in range(FIXED_INPUTS)
    ]


def grown_values(name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The connected values of `growing_inputs` by NAME_NUMBER, in order.

    Args:
        name: id of the group.
        inputs: keywords of `execute`: one for the group, or one for each input.
    """
    group = inputs.get(name)
    if group is None:
        group = {key.partition(".")[2]: value for key, value in inputs.items()}
    connected = {key: value for key, value in group.items() if value is not None}
    return dict(sorted(connected.items(), key=lambda item: int(item[0].rpartition("_")[2])))
