"""Normals from ComfyUI's MoGe nodes: the templates, their signs, and hosts without the nodes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.orbits import ORBIT_PRESETS
from nova3d_core.conventions import OPENGL_FROM_OPENCV
from nova3d_core.normals.add import add_normals
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views

from .client import error_message
from .prompts import API, load_prompt, node, node_key, with_inputs
from .server import Checkout
from .test_run_workflows import fetch_mesh, run_to_end
from .test_sampling import square_image, uploaded
from .workflow_check import Prompt

pytestmark = pytest.mark.host

MOGE_NODES = {"LoadMoGeModel", "MoGeInference", "MoGeRender"}
TEMPLATES = {"sv3d_to_mesh_normals": 21, "v3d_to_mesh_normals": 18}

RENDER = """
import sys
from comfy.cli_args import args
args.cpu = True
from comfy_extras.nodes_moge import MoGeRender
from safetensors.torch import load_file, save_file
images = {}
for output in ("normal_opengl", "normal_directx"):
    geometry = load_file(sys.argv[1])
    images[output] = MoGeRender.execute(geometry, output).args[0].float().contiguous()
save_file(images, sys.argv[2])
"""
"""Renders a MOGE_GEOMETRY in both conventions, in ComfyUI's Python."""


@pytest.fixture
def has_moge(client) -> bool:
    return set(client.object_info()) >= MOGE_NODES


@pytest.mark.parametrize("name", TEMPLATES)
def test_image_to_mesh_with_normals(client, output, tmp_path, has_moge, name):
    """With a tiny random MoGe, and a model that generates a red square in every view."""
    if not has_moge:
        pytest.skip("this ComfyUI has no MoGe nodes")
    prompt = load_prompt(name)
    square = uploaded(client, square_image(), "square.png")["inputs"]["image"]
    prompt = with_inputs(prompt, "LoadImage", image=square)
    prompt["91"] = node(
        "SaveViews", views=[node_key(prompt, "AddNormals"), 0], filename_prefix=f"moge/{name}"
    )
    run = run_to_end(client, prompt)

    mesh = fetch_mesh(client, run, node_key(prompt, "ExportMesh"), tmp_path)
    assert len(mesh.faces) > 100 and mesh.texture is not None
    (folder,) = (output / "moge").glob(f"{name}*")
    saved = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    assert saved["normal_frame"] == "camera"
    assert len(saved["frames"]) == TEMPLATES[name]
    assert all("normal_path" in frame for frame in saved["frames"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_older_hosts_name_the_missing_nodes(client, has_moge, name):
    """The pack loads without MoGe's nodes; only the template cannot run."""
    if has_moge:
        pytest.skip("this ComfyUI has MoGe nodes")
    assert "AddNormals" in client.object_info()
    prompt = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    assert "MoGe" in error_message(client, prompt)


def test_moge_renders_normals_in_the_camera_frame(checkout: Checkout, make_sphere, tmp_path):
    """A sphere's normals in OpenCV axes, rendered by ComfyUI: true to a level of 8 bits."""
    if not (checkout.path / "comfy_extras" / "nodes_moge.py").is_file():
        pytest.skip("this ComfyUI has no MoGe nodes")
    rig = replace(ORBIT_PRESETS["sv3d"].rig, width_px=96, height_px=96)
    views = render_views(make_sphere(0.4), orbit_cameras(rig), RenderConfig(2)).views
    true = views.with_normals_in("camera").normals
    to_opencv = true.new_tensor(OPENGL_FROM_OPENCV)  # its own inverse
    images = _rendered_by_comfyui(checkout, tmp_path, true @ to_opencv)
    plain = views.without_normals()
    added = add_normals(plain, images["normal_opengl"], "camera")
    inside = (views.masks > 0)[..., None]
    assert float(((added.normals - true) * inside).abs().max()) < 1.0 / 255.0
    directx = add_normals(plain, images["normal_directx"], "camera", "green")
    assert float((directx.normals - added.normals).abs().max()) < 1e-6


def _rendered_by_comfyui(
    checkout: Checkout, folder: Path, normals: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Both normal maps (V, H, W, 3) that MoGeRender makes of normals in OpenCV axes."""
    source, target = folder / "geometry.safetensors", folder / "images.safetensors"
    save_file({"normal": normals.contiguous(), "image": torch.ones_like(normals)}, source)
    done = subprocess.run(
        [checkout.python, "-c", RENDER, source, target],
        cwd=checkout.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(target)


INVALID = {
    "fewer normals": ({"count": 7}, ["there are 7 normal images but 8 views"]),
    "another shape": ({"width": 64}, ["64x96 px but the views are 96x96 px"]),
    "blank normals": ({"color": 0x808080}, ["have no normals on the object"]),
}


@pytest.mark.parametrize("name", INVALID)
def test_unusable_normals_are_refused(client, name):
    changes, words = INVALID[name]
    message = error_message(client, _colour_views_prompt(**changes))
    for word in ["AddNormals", *words]:
        assert word in message, message


def _colour_views_prompt(count: int = 8, width: int = 96, color: int = 0x8080FF) -> Prompt:
    """Views of the knight with one colour as normal maps."""
    normals = node("EmptyImage", width=width, height=96, batch_size=count, color=color)
    return {
        "1": node("LoadViews", folder="knight/views"),
        "2": normals,
        "3": node(
            "AddNormals", views=["1", 0], normals=["2", 0], normal_frame="camera", flip="none"
        ),
        "4": node("SaveViews", views=["3", 0], filename_prefix="refused/views"),
    }


@pytest.mark.parametrize(("flip", "channel"), [("red", "red"), ("green", "green")])
def test_flipped_channel_is_named(client, flip, channel):
    """The rendered normals are right without a flip."""
    prompt = load_prompt("multiview_images_to_mesh")
    render, assemble = node_key(prompt, "RenderViews"), node_key(prompt, "AssembleViews")
    frame = prompt[render]["inputs"]["normal_frame"]
    prompt["90"] = node(
        "AddNormals", views=[assemble, 0], normals=[render, 2], normal_frame=frame, flip=flip
    )
    prompt["91"] = node("SaveViews", views=["90", 0], filename_prefix="refused/flipped")
    outputs = ("DeconflictFusion", "ExtractMesh", "BakeTexture", "ExportMesh", "SaveImage")
    kept = {key: each for key, each in prompt.items() if each["class_type"] not in outputs}
    message = error_message(client, kept)
    assert f"the {channel} channel of the normals is flipped" in message
    assert "flip to 'none'" in message


@pytest.mark.parametrize(
    ("estimator", "repository"),
    [("marigold", "prs-eth/marigold-normals-v1-1"), ("normalcrafter", "Yanrui95/NormalCrafter")],
)
def test_missing_estimator_names_the_download(client, estimator, repository):
    settings = {"folder": "auto", "seed": 0, "steps": 4, "window": "overlapping"}
    settings |= {"precision": "fp16", "device": "auto"}
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("EstimateNormals", views=["1", 0], estimator=estimator, **settings),
        "3": node("SaveViews", views=["2", 0], filename_prefix="estimated/views"),
    }
    message = error_message(client, prompt)
    assert "EstimateNormals" in message and repository in message
    assert "models/diffusers" in message
