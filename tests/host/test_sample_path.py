"""Sample Camera Path in the host, with a tiny model that has random weights."""

from __future__ import annotations

import pytest

from nova3d_core.io.views.transforms_json import read_views

from .client import error_message
from .models import NOVA3D, SCENES
from .prompts import load_prompt, node, node_key, with_inputs
from .test_run_workflows import run_to_end
from .workflow_check import Prompt

pytestmark = pytest.mark.host

ORBIT = {
    "preset": "custom",
    "count": 5,
    "elevation": 10.0,
    "motion": "static",
    "elevation_amplitude": 30.0,
    "azimuths": "0",
    "elevations": "0",
    "radius": 2.2,
    "fov": 39.6,
    "projection": "perspective",
    "ortho_scale": 1.5,
    "width": 64,
    "height": 48,
}


def path_prompt(model: str = SCENES, dtype: str = "auto", **orbit: object) -> Prompt:
    """Views of the knight along an orbit, saved."""
    return {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("LoadNOVA3D", model=model, dtype=dtype),
        "3": node("OrbitCameras", **(ORBIT | orbit)),
        "4": node(
            "SampleCameraPath", model=["2", 0], sources=["1", 0], cameras=["3", 0], seed=0,
            steps=2, guidance_scale=2.0, sampler="euler", size=0,
        ),
        "5": node("SaveViews", views=["4", 0], filename_prefix="path/views"),
        "6": node("SaveImage", images=["4", 1], filename_prefix="path/images"),
    }  # fmt: skip


def test_shipped_prompt_generates_one_view_per_camera(client, output):
    prompt = with_inputs(load_prompt("v3d_scenes_path"), "LoadNOVA3D", model=SCENES)
    prompt = with_inputs(prompt, "SampleCameraPath", steps=1)
    prompt = with_inputs(prompt, "SaveViews", filename_prefix="shipped/path")
    count = prompt[node_key(prompt, "OrbitCameras")]["inputs"]["count"]
    run_to_end(client, prompt)
    (folder,) = (output / "shipped").glob("path*")
    assert len(read_views(folder)) == count


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_views_have_the_cameras_of_the_path_and_the_models_size(client, output, dtype):
    run = run_to_end(client, path_prompt(dtype=dtype))
    folder = max((output / "path").glob("views*"), key=lambda path: path.stat().st_mtime_ns)
    views = read_views(folder)
    assert (views.cameras.width, views.cameras.height, len(views)) == (32, 32, 5)
    assert views.cameras.azimuth_deg.tolist() == pytest.approx([0, 72, 144, 216, 288], abs=0.01)
    # the central square of 64x48 pixels: a narrower field of view
    focal = float(views.cameras.intrinsics[0, 0, 0])
    assert focal / 32 == pytest.approx(1.3889 * 64 / 48, rel=1e-3)
    images = client.history(run.prompt_id)["outputs"]["6"]["images"]
    assert len(images) == 5
    assert (200, 200) in run.progress["4"]  # two windows, in percent


def test_models_of_other_nodes_are_refused(client):
    message = error_message(client, path_prompt(NOVA3D))
    assert "the model is NOVA3D, which generates no views along a camera path" in message
    prompt = path_prompt()
    prompt["7"] = node("ImageFromBatch", image=["1", 1], batch_index=0, length=1)
    prompt["4"] = node(
        "SampleOrbit", model=["2", 0], image=["7", 0], elevation=0.0, seed=0, steps=1,
        guidance="auto", min_guidance_scale=1.0, max_guidance_scale=2.5, size=64,
    )  # fmt: skip
    assert "Sample Camera Path" in error_message(client, prompt)


def test_orthographic_paths_are_an_error(client):
    message = error_message(client, path_prompt(projection="orthographic"))
    assert "the path has orthographic cameras" in message


def test_sources_without_poses_are_an_error(client):
    """All images with the same camera."""
    prompt = path_prompt()
    prompt["7"] = node("ImageFromBatch", image=["1", 1], batch_index=0, length=2)
    angles = {"motion": "custom", "azimuths": "0, 0", "elevations": "0"}
    prompt["8"] = node("OrbitCameras", **(ORBIT | angles))
    prompt["9"] = node(
        "AssembleViews", images=["7", 0], cameras=["8", 0], normal_frame="world", first_view=0,
        invert_masks=False,
    )  # fmt: skip
    prompt["4"]["inputs"]["sources"] = ["9", 0]
    assert "different images with the same camera" in error_message(client, prompt)
