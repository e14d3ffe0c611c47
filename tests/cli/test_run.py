"""`run` from end to end with a small model file, and what it says when the input is bad."""

from __future__ import annotations

import json
import os

import pytest
import torch
from PIL import Image

from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.weights.discovery.built_in import NAME
from nova3d_core.weights.save import save_nova3d

from ..diffusion.models import image_and_mask
from ..weights.models import copying_mini
from .conftest import SMALL_FUSE
from .test_interrupts import STOPPED, interrupt_at

QUICK = ["--steps", "1", *SMALL_FUSE]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an image and a small model."""
    folder = tmp_path_factory.mktemp("run")
    image, mask = image_and_mask()
    levels = (torch.cat([image, mask[..., None]], dim=-1) * 255).round().to(torch.uint8)
    Image.fromarray(levels.numpy()).save(folder / "cup.png")
    save_nova3d(copying_mini(), folder / "mini.safetensors", note="copies what it sees")
    return folder


def test_a_image_becomes_a_mesh(nova3d, place, tmp_path):
    mesh, views = tmp_path / "cup.glb", tmp_path / "views"
    words = ["run", place / "cup.png", "-o", mesh, "--model", place / "mini.safetensors", *QUICK]
    done = nova3d(*words, "--views", views, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["family"], said["views"], said["output"]) == (NAME, 16, str(mesh))
    assert {"loading", "sampling", "carving", "meshing", "baking"} <= set(said["seconds"])
    painted, made = read_views(views), read_mesh(mesh)
    assert painted.colour.shape == (16, 128, 128, 3) and painted.normals is not None
    assert len(made.faces) == said["faces"]
    sides = made.vertices.amax(dim=0) - made.vertices.amin(dim=0)
    assert bool((sides > 0.3).all()) and bool((sides < 1.1).all())
    for stage in ("loading the model", "sampling", "decoding", "carving", "baking"):
        assert f"{stage}:" in done.stderr  # bars
    again = nova3d(*words)
    assert again.returncode == 2 and "already exists" in again.stderr


def test_the_small_model_says_what_it_knows_and_which_file_would_be_better(place, tmp_path, nova3d):
    words = ["--model", place / "mini.safetensors", "--steps", "1"]
    done = nova3d("generate", place / "cup.png", "-o", tmp_path / "views", *words, "--json")
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert any("simple synthetic objects at 64 pixels only" in note for note in notes)
    assert any("sv3d_p.safetensors (9.37 GB, stabilityai/sv3d)" in note for note in notes)
    assert any("synthetic" in note for note in json.loads(done.stdout)["notes"])


def test_bad_input_is_one_line_and_leaves_nothing(nova3d, place, tmp_path):
    good = ("--model", place / "mini.safetensors", *QUICK)
    Image.new("RGB", (50, 50), "white").save(tmp_path / "white.png")
    mesh = tmp_path / "mesh.glb"
    cases = [
        ((place / "cup.png", "-o", mesh, "--model", tmp_path / "none.safetensors"), "none.safe"),
        ((tmp_path / "none.png", "-o", mesh, *good), "none.png"),
        ((tmp_path / "white.png", "-o", mesh, *good), "white all over"),
        ((place / "cup.png", "-o", tmp_path / "mesh.stp", *good), "mesh.stp"),
        ((place / "cup.png", "-o", mesh, *good, "--size-px", "68"), "multiple of 8"),
        ((place / "cup.png", "-o", mesh, *good, "--settings", tmp_path / "no.json"), "no.json"),
    ]
    for words, expected in cases:
        done = nova3d("run", *words)
        assert done.returncode == 2, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and expected in errors[0]
        assert "Traceback" not in done.stderr
        assert not mesh.exists()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")
@pytest.mark.parametrize("stage", ["sampling", "carving"])
def test_run_stopped_in_each_stage_leaves_nothing(place, tmp_path, stage):
    model = place / "mini.safetensors"
    slow = ["--steps", "500"] if stage == "sampling" else [*QUICK, "--hull.resolution", "200"]
    words = ["run", place / "cup.png", "-o", tmp_path / "mesh.glb", "--model", model, *slow]
    code, said, _ = interrupt_at(stage, [*words, "--views", tmp_path / "views"])
    assert code in STOPPED, said
    assert "stopped: nothing half-written was left." in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
