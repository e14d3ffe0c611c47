"""Every shipped workflow runs with small real data, and its output files can be fetched."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch

from nova3d_core.evaluation.occupancy import is_watertight
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.mesh import Mesh

from .client import Client, PromptRun
from .prompts import API, PIXELS, VIEWS, load_prompt, node, node_key, with_inputs
from .server import PROJECT
from .workflow_check import Prompt

pytestmark = pytest.mark.host


def run_to_end(client: Client, prompt: Prompt, **extra) -> PromptRun:
    """Runs a prompt that must succeed."""
    run = client.run(prompt, **extra)
    assert run.has_succeeded, run.error and run.error["exception_message"]
    return run


def fetch_mesh(client: Client, run: PromptRun, key: str, folder: Path) -> Mesh:
    """The exported mesh, listed in /history and fetched through /view."""
    outputs = client.history(run.prompt_id)["outputs"]
    (file,) = outputs[key]["3d"]
    assert file["type"] == "output" and file["filename"].endswith(".glb")
    (folder / "fetched.glb").write_bytes(client.view(file))
    return read_mesh(folder / "fetched.glb")


def assert_like_the_knight(mesh: Mesh) -> None:
    """Asserts that a mesh is watertight, textured, and has the knight's bounding box."""
    assert is_watertight(mesh)
    assert mesh.texture is not None and mesh.texture.std() > 0.05
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    assert abs(float((high - low).max()) - 1.0) < 0.15
    assert float(((high + low) / 2).abs().max()) < 0.1


@pytest.mark.parametrize("name", ["views_to_mesh", "multiview_images_to_mesh"])
def test_images_become_a_textured_mesh(client, tmp_path, name):
    # a seed that is not cached, and enough steps for a preview, at most one per second
    prompt = with_inputs(load_prompt(name), "DeconflictFusion", seed=101, steps_scale=0.6)
    run = run_to_end(client, prompt)

    assert_like_the_knight(fetch_mesh(client, run, node_key(prompt, "ExportMesh"), tmp_path))
    steps = run.progress[node_key(prompt, "DeconflictFusion")]
    assert len(steps) > 5
    assert all(0 <= value <= total for value, total in steps)
    for preview in run.previews:
        assert min(PIL.Image.open(io.BytesIO(preview)).size) > 16
    assert run.previews


def test_one_conflict_map_per_view(client):
    prompt = load_prompt("views_to_mesh")
    run = run_to_end(client, prompt)
    record = client.history(run.prompt_id)["outputs"][node_key(prompt, "SaveImage")]
    assert len(record["images"]) == VIEWS
    image = PIL.Image.open(io.BytesIO(client.view(record["images"][0])))
    assert image.size == (PIXELS, PIXELS)


def test_glb_contains_the_workflow(client, output, tmp_path):
    prompt = with_inputs(
        load_prompt("views_to_mesh"), "ExportMesh", filename_prefix="embedded/mesh"
    )
    page = {"nodes": [], "links": [], "version": 0.4, "note": "embedded"}
    run = run_to_end(client, prompt, extra_data={"extra_pnginfo": {"workflow": page}})
    (file,) = client.history(run.prompt_id)["outputs"][node_key(prompt, "ExportMesh")]["3d"]
    glb = client.view(file)
    length = int.from_bytes(glb[12:16], "little")
    extras = json.loads(glb[20 : 20 + length])["asset"]["extras"]
    assert json.loads(extras["workflow"]) == page
    assert json.loads(extras["prompt"])["1"]["class_type"] == "LoadViews"


def test_turntable_writes_two_animations(client):
    prompt = with_inputs(load_prompt("mesh_to_turntable"), "OrbitCameras", elevation=7.0)
    run = run_to_end(client, prompt)
    outputs = client.history(run.prompt_id)["outputs"]
    animations = [file for entry in outputs.values() for file in entry.get("images", [])]
    assert len(animations) == 2
    for file in animations:
        animation = PIL.Image.open(io.BytesIO(client.view(file)))
        assert animation.n_frames == VIEWS and animation.size == (PIXELS, PIXELS)
    assert run.progress[node_key(prompt, "RenderViews")][-1] == (VIEWS, VIEWS)


def test_mesh_evaluated_against_itself_is_perfect(client):
    prompt = load_prompt("mesh_against_reference")
    prompt["1"]["inputs"]["file"] = "knight/mesh.glb"  # the normalised reference
    run = run_to_end(client, prompt)
    outputs = client.history(run.prompt_id)["outputs"]
    (text,) = outputs[node_key(prompt, "EvaluateMesh")]["text"]
    metrics = dict(line.rsplit(maxsplit=1) for line in text.splitlines())
    assert float(metrics["mask IoU"]) > 0.999 and float(metrics["visible F@.005"]) > 0.99
    (image,) = outputs[node_key(prompt, "SaveImage")]["images"]
    assert min(PIL.Image.open(io.BytesIO(client.view(image))).size) >= 64


def test_saved_views_equal_the_loaded_views(client, output, inputs):
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("SaveViews", views=["1", 0], filename_prefix="saved/knight"),
    }
    run_to_end(client, prompt)
    (folder,) = (output / "saved").iterdir()
    before, after = read_views(inputs / "knight" / "views"), read_views(folder)
    assert torch.equal(before.colour, after.colour)
    assert torch.equal(before.masks, after.masks)
    assert torch.allclose(before.cameras.world_to_camera, after.cameras.world_to_camera, atol=1e-6)
    assert torch.allclose(before.normals, after.normals, atol=0.02)


def test_uploaded_images_become_views(client, inputs):
    """Two uploaded files, joined by ComfyUI's own node, with our cameras."""
    images = sorted((inputs / "knight" / "views" / "images").iterdir())[:2]
    names = [client.upload(f"up_{path.name}", path.read_bytes())["name"] for path in images]
    prompt = {
        "1": node("LoadImage", image=names[0]),
        "2": node("LoadImage", image=names[1]),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "4": load_prompt("multiview_images_to_mesh")["2"],
        "5": node(
            "AssembleViews",
            images=["3", 0],
            cameras=["4", 0],
            normal_frame="world",
            first_view=0,
            invert_masks=False,
        ),
        "6": node("SaveViews", views=["5", 0], filename_prefix="saved/uploaded"),
    }
    run = run_to_end(client, with_inputs(prompt, "OrbitCameras", count=2))
    assert len(run.outputs["6"]["images"]) >= 2


def test_second_run_uses_the_cached_fusion(client):
    prompt = load_prompt("views_to_mesh")
    run_to_end(client, prompt)
    again = with_inputs(prompt, "ExportMesh", filename_prefix="again/mesh")
    assert node_key(prompt, "DeconflictFusion") not in run_to_end(client, again).executed


def test_changed_views_are_reloaded(client, server):
    """ComfyUI caches by the folder name; the fingerprint detects changed files."""
    folder = server.base / "input" / "changing"
    prompt = {
        "1": node("LoadViews", folder="changing/views"),
        "2": node("SaveViews", views=["1", 0], filename_prefix="saved/changing"),
    }
    source = server.base / "input" / "knight"
    shutil.copytree(source, folder)
    assert "1" in run_to_end(client, prompt).executed
    assert "1" not in run_to_end(client, prompt).executed
    (folder / "views" / "transforms.json").touch()
    assert "1" in run_to_end(client, prompt).executed


def test_example_client_fetches_the_mesh(client, tmp_path):
    small = load_prompt("views_to_mesh")
    command = [sys.executable, PROJECT / "docs" / "api_client.py", API / "views_to_mesh.json"]
    command += ["--server", client.url, "-o", tmp_path]
    for entry in small.values():
        full = json.loads((API / "views_to_mesh.json").read_text(encoding="utf-8"))
        before = full[node_key(small, entry["class_type"])]["inputs"]
        for name, value in entry["inputs"].items():
            if before[name] != value:
                command += ["--set", f"{entry['class_type']}.{name}={json.dumps(value)}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (glb,) = tmp_path.glob("*.glb")
    assert_like_the_knight(read_mesh(glb))
    assert len(list(tmp_path.glob("*.png"))) == VIEWS


def test_example_client_reports_rejected_input(client, tmp_path):
    command = [sys.executable, PROJECT / "docs" / "api_client.py", API / "views_to_mesh.json"]
    command += ["--server", client.url, "-o", tmp_path, "--set", "LoadViews.folder=nowhere"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    # newer versions validate the list of choices, older ones leave that to the node
    assert ran.returncode in (1, 2)
    assert "LoadViews" in ran.stderr and "nowhere" in ran.stderr


def test_example_client_rejects_unknown_input(client, tmp_path):
    command = [sys.executable, PROJECT / "docs" / "api_client.py", API / "views_to_mesh.json"]
    command += ["--server", client.url, "-o", tmp_path, "--set", "DeconflictFusion.quality=1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "DeconflictFusion has the inputs views, preset" in ran.stderr
    assert list(tmp_path.iterdir()) == []
