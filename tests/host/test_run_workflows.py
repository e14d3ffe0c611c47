"""Every shipped prompt runs to its end, and its files can be fetched, on real data made small."""

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

from .client import Client, Run
from .prompts import API, PIXELS, VIEWS, key_of, node, shipped, with_inputs
from .server import PROJECT
from .workflow_check import Prompt

pytestmark = pytest.mark.host


def done(client: Client, prompt: Prompt, **extra) -> Run:
    """Runs a prompt that must succeed."""
    run = client.run(prompt, **extra)
    assert run.has_succeeded, run.error and run.error["exception_message"]
    return run


def fetched_mesh(client: Client, run: Run, key: str, folder: Path) -> Mesh:
    """The exported mesh, as /history names it and /view gives it."""
    outputs = client.history(run.prompt_id)["outputs"]
    (file,) = outputs[key]["3d"]
    assert file["type"] == "output" and file["filename"].endswith(".glb")
    (folder / "fetched.glb").write_bytes(client.view(file))
    return read_mesh(folder / "fetched.glb")


def assert_like_the_knight(mesh: Mesh) -> None:
    """Closed, textured, and about where the normalised knight is."""
    assert is_watertight(mesh)
    assert mesh.texture is not None and mesh.texture.std() > 0.05
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    assert abs(float((high - low).max()) - 1.0) < 0.15
    assert float(((high + low) / 2).abs().max()) < 0.1


@pytest.mark.parametrize("name", ["views_to_mesh", "multiview_images_to_mesh"])
def test_images_become_a_textured_mesh(client, tmp_path, name):
    # not from the host's cache, and long enough for a preview: there is one a second at most
    prompt = with_inputs(shipped(name), "DeconflictFusion", seed=101, steps_scale=0.6)
    run = done(client, prompt)

    assert_like_the_knight(fetched_mesh(client, run, key_of(prompt, "ExportMesh"), tmp_path))
    steps = run.progress[key_of(prompt, "DeconflictFusion")]
    assert len(steps) > 5
    assert all(0 <= value <= most for value, most in steps)
    for preview in run.previews:
        assert min(PIL.Image.open(io.BytesIO(preview)).size) > 16
    assert run.previews


def test_conflict_maps_are_one_a_view(client):
    prompt = shipped("views_to_mesh")
    run = done(client, prompt)
    record = client.history(run.prompt_id)["outputs"][key_of(prompt, "SaveImage")]
    assert len(record["images"]) == VIEWS
    image = PIL.Image.open(io.BytesIO(client.view(record["images"][0])))
    assert image.size == (PIXELS, PIXELS)


def test_glb_carries_the_workflow(client, output, tmp_path):
    prompt = with_inputs(shipped("views_to_mesh"), "ExportMesh", filename_prefix="kept/mesh")
    page = {"nodes": [], "links": [], "version": 0.4, "note": "kept"}
    run = done(client, prompt, extra_data={"extra_pnginfo": {"workflow": page}})
    (file,) = client.history(run.prompt_id)["outputs"][key_of(prompt, "ExportMesh")]["3d"]
    glb = client.view(file)
    length = int.from_bytes(glb[12:16], "little")
    extras = json.loads(glb[20 : 20 + length])["asset"]["extras"]
    assert json.loads(extras["workflow"]) == page
    assert json.loads(extras["prompt"])["1"]["class_type"] == "LoadViews"


def test_turntable_is_two_films(client):
    prompt = with_inputs(shipped("mesh_to_turntable"), "OrbitCameras", elevation=7.0)
    run = done(client, prompt)
    outputs = client.history(run.prompt_id)["outputs"]
    films = [file for entry in outputs.values() for file in entry.get("images", [])]
    assert len(films) == 2
    for file in films:
        film = PIL.Image.open(io.BytesIO(client.view(file)))
        assert film.n_frames == VIEWS and film.size == (PIXELS, PIXELS)
    assert run.progress[key_of(prompt, "RenderViews")][-1] == (VIEWS, VIEWS)


def test_mesh_against_itself_is_perfect(client):
    prompt = shipped("mesh_against_reference")
    prompt["1"]["inputs"]["file"] = "knight/mesh.glb"  # the reference's own, as it is normalised
    run = done(client, prompt)
    outputs = client.history(run.prompt_id)["outputs"]
    (text,) = outputs[key_of(prompt, "EvaluateMesh")]["text"]
    figures = dict(line.rsplit(maxsplit=1) for line in text.splitlines())
    assert float(figures["mask IoU"]) > 0.999 and float(figures["visible F@.005"]) > 0.99
    (sheet,) = outputs[key_of(prompt, "SaveImage")]["images"]
    assert min(PIL.Image.open(io.BytesIO(client.view(sheet))).size) >= 64


def test_views_saved_by_the_host_are_the_views_loaded(client, output, inputs):
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("SaveViews", views=["1", 0], filename_prefix="saved/knight"),
    }
    done(client, prompt)
    (folder,) = (output / "saved").iterdir()
    before, after = read_views(inputs / "knight" / "views"), read_views(folder)
    assert torch.equal(before.colour, after.colour)
    assert torch.equal(before.masks, after.masks)
    assert torch.allclose(before.cameras.world_to_camera, after.cameras.world_to_camera, atol=1e-6)
    assert torch.allclose(before.normals, after.normals, atol=0.02)


def test_uploaded_images_become_views(client, inputs):
    """Two files through the page's upload, joined by the core's own node, with our cameras."""
    images = sorted((inputs / "knight" / "views" / "images").iterdir())[:2]
    names = [client.upload(f"up_{path.name}", path.read_bytes())["name"] for path in images]
    prompt = {
        "1": node("LoadImage", image=names[0]),
        "2": node("LoadImage", image=names[1]),
        "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "4": shipped("multiview_images_to_mesh")["2"],
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
    run = done(client, with_inputs(prompt, "OrbitCameras", count=2))
    assert len(run.outputs["6"]["images"]) >= 2


def test_second_run_takes_the_fusion_from_the_cache(client):
    prompt = shipped("views_to_mesh")
    done(client, prompt)
    again = with_inputs(prompt, "ExportMesh", filename_prefix="again/mesh")
    assert key_of(prompt, "DeconflictFusion") not in done(client, again).executed


def test_changed_images_are_read_again(client, server):
    """The host caches by the folder's name; the fingerprint tells it that the files changed."""
    folder = server.base / "input" / "changing"
    prompt = {
        "1": node("LoadViews", folder="changing/views"),
        "2": node("SaveViews", views=["1", 0], filename_prefix="saved/changing"),
    }
    source = server.base / "input" / "knight"
    shutil.copytree(source, folder)
    assert "1" in done(client, prompt).executed
    assert "1" not in done(client, prompt).executed
    (folder / "views" / "transforms.json").touch()
    assert "1" in done(client, prompt).executed


def test_example_client_fetches_the_mesh(client, tmp_path):
    small = shipped("views_to_mesh")
    words = [sys.executable, PROJECT / "docs" / "api_client.py", API / "views_to_mesh.json"]
    words += ["--server", client.url, "-o", tmp_path]
    for entry in small.values():
        kept = json.loads((API / "views_to_mesh.json").read_text(encoding="utf-8"))
        before = kept[key_of(small, entry["class_type"])]["inputs"]
        for name, value in entry["inputs"].items():
            if before[name] != value:
                words += ["--set", f"{entry['class_type']}.{name}={json.dumps(value)}"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (glb,) = tmp_path.glob("*.glb")
    assert_like_the_knight(read_mesh(glb))
    assert len(list(tmp_path.glob("*.png"))) == VIEWS


def test_example_client_says_what_was_refused(client, tmp_path):
    words = [sys.executable, PROJECT / "docs" / "api_client.py", API / "views_to_mesh.json"]
    words += ["--server", client.url, "-o", tmp_path, "--set", "LoadViews.folder=nowhere"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    # newer hosts look at the list of choices themselves, older ones leave that to the node
    assert ran.returncode in (1, 2)
    assert "LoadViews" in ran.stderr and "nowhere" in ran.stderr
