"""ComfyUI lists all nodes of the pack, and every input and output has a tooltip."""

from __future__ import annotations

import pytest

from .models import (
    BUILT_IN,
    LGM,
    MINI,
    NOVA3D,
    OUROBOROS3D,
    OUROBOROS3D_RECONSTRUCTION,
    SCENES,
    SV3D_P,
    SV3D_U,
    V3D,
    WONDER3D,
)
from .server import PACK
from .workflow_check import is_widget, node_inputs

pytestmark = pytest.mark.host

IDS = {
    "PrepareImage",
    "OrbitCameras",
    "JoinCameras",
    "JoinViews",
    "AssembleViews",
    "LoadViews",
    "SaveViews",
    "RefinePoses",
    "DeconflictFusion",
    "ExtractMesh",
    "RemoveLight",
    "BakeTexture",
    "RefineTexture",
    "ExportMesh",
    "RenderViews",
    "AddNormals",
    "EstimateNormals",
    "EvaluateMesh",
    "NOVA3DLoadMesh",
    "LoadNOVA3D",
    "SampleMultiviewNormals",
    "SampleOrbit",
    "FitSplats",
    "RenderSplatViews",
    "ExportSplats",
    "SplatsFromViews",
    "SampleCameraPath",
    "SampleRecursive",
}
"""Frozen: saved workflows refer to them."""
SAVED_WIDGETS = {
    "PrepareImage": "size foreground_ratio invert_mask",
    "LoadNOVA3D": "model dtype",
    "SampleMultiviewNormals": (
        "seed steps guidance min_guidance_scale max_guidance_scale size sampler framing "
        "decode_chunk_size"
    ),
    "SampleOrbit": (
        "elevation seed steps guidance min_guidance_scale max_guidance_scale size sampler "
        "framing decode_chunk_size"
    ),
    "OrbitCameras": (
        "preset count elevation motion elevation_amplitude azimuths elevations radius fov "
        "projection ortho_scale width height"
    ),
    "AssembleViews": "normal_frame first_view invert_masks",
    "LoadViews": "folder",
    "SaveViews": "filename_prefix",
    "RenderViews": "width height normalise supersample normal_frame",
    "AddNormals": "normal_frame flip",
    "EstimateNormals": "estimator folder seed steps window precision device",
    "DeconflictFusion": (
        "preset seed refine_poses conflict steps_scale field fallback device normals_weight"
    ),
    "RefinePoses": "preset seed device",
    "ExtractMesh": "target_faces resolution min_component_area_ratio",
    "NOVA3DLoadMesh": "file up_axis",
    "BakeTexture": "texture_size uv exposure consistency sharpen keep_texture",
    "RemoveLight": "strength gate",
    "RefineTexture": "steps perceptual",
    "ExportMesh": "format filename_prefix target_faces texture_size",
    "FitSplats": "preset seed perceptual match_exposure refine_poses init splats steps device",
    "RenderSplatViews": "width height device",
    "ExportSplats": "format filename_prefix",
    "SplatsFromViews": "framing rotations",
    "SampleRecursive": "seed steps feedback every elevation size",
    "SampleCameraPath": "seed steps guidance_scale sampler size",
    "EvaluateMesh": "align protocol points image_size seed",
}
"""Frozen order of the widgets: saved graphs restore their values by position."""


@pytest.fixture
def pack_nodes(client) -> dict:
    """Our node classes in /object_info."""
    return {
        name: node
        for name, node in client.object_info().items()
        if node["python_module"] == f"custom_nodes.{PACK}"
    }


def test_all_nodes_are_listed(pack_nodes):
    assert set(pack_nodes) >= IDS


def test_saved_widget_values_keep_their_position(pack_nodes):
    """New widgets come last, and prompts saved without them stay valid."""
    for name, saved in SAVED_WIDGETS.items():
        specs = node_inputs(pack_nodes[name])
        widgets = [socket for socket, spec in specs.items() if is_widget(spec)]
        count = len(saved.split())
        assert widgets[:count] == saved.split(), name
        assert set(widgets[count:]) <= set(pack_nodes[name]["input"].get("optional", {})), name


def test_every_node_input_and_output_has_a_text(pack_nodes):
    for name, node in pack_nodes.items():
        assert len(node["description"]) > 40, name
        assert node["display_name"] != name
        assert node["category"].split("/")[0] == "NOVA3D"
        groups = [node["input"].get(key, {}) for key in ("required", "optional")]
        for socket, spec in [item for group in groups for item in group.items()]:
            assert len(spec[1].get("tooltip") or "") > 8, f"{name}.{socket}"
        assert len(node["output_tooltips"]) == len(node["output"])
        for socket, tooltip in zip(node["output_name"], node["output_tooltips"], strict=True):
            assert len(tooltip or "") > 8, f"{name} -> {socket}"


def test_defaults_are_within_range(pack_nodes):
    for name, node in pack_nodes.items():
        for group in ("required", "optional"):
            for socket, (kind, options, *_) in node["input"].get(group, {}).items():
                if kind in ("INT", "FLOAT"):
                    low, high = options["min"], options["max"]
                    assert low <= options["default"] <= high, f"{name}.{socket}"
                elif kind == "COMBO" and options.get("default") is not None:
                    assert options["default"] in options["options"], f"{name}.{socket}"


def test_advanced_inputs_are_marked(pack_nodes):
    """The mark must reach the front end, even if older versions ignore it."""
    fusion = pack_nodes["DeconflictFusion"]["input"]["required"]
    assert fusion["steps_scale"][1]["advanced"] is True
    assert not fusion["preset"][1].get("advanced")


def test_examples_and_input_files_are_listed(pack_nodes):
    folders = pack_nodes["LoadViews"]["input"]["required"]["folder"][1]["options"]
    assert folders[0] == "example: knight" and "knight/views" in folders
    files = pack_nodes["NOVA3DLoadMesh"]["input"]["required"]["file"][1]["options"]
    examples = ["example: knight", "example: knight, fused"]
    assert files[:2] == examples  # other tests add more files
    assert {"character_knight.glb", "knight/mesh.glb"} <= set(files)


def test_multi_view_models_are_listed_and_no_others(pack_nodes):
    names = pack_nodes["LoadNOVA3D"]["input"]["required"]["model"][1]["options"]
    pair = (OUROBOROS3D, OUROBOROS3D_RECONSTRUCTION)
    own = [V3D, MINI, LGM, pair[0], NOVA3D, pair[1], SCENES, WONDER3D]
    assert names == [*BUILT_IN, *own, f"stability/{SV3D_U}", SV3D_P]
