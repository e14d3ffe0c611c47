"""`run` end to end with a small model file, and its messages for bad input."""

from __future__ import annotations

import json
import os

import pytest
import torch
from PIL import Image

from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.weights.discovery.built_in import BUILT_IN_NAME
from nova3d_core.weights.save import save_nova3d

from ..diffusion.models import image_and_mask
from ..weights.models import copying_mini
from .conftest import SMALL_FUSE
from .test_interrupts import STOPPED, interrupt_at

QUICK = ["--steps", "1", *SMALL_FUSE]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with an image and a small model."""
    folder = tmp_path_factory.mktemp("run")
    image, mask = image_and_mask()
    levels = (torch.cat([image, mask[..., None]], dim=-1) * 255).round().to(torch.uint8)
    Image.fromarray(levels.numpy()).save(folder / "cup.png")
    save_nova3d(copying_mini(), folder / "mini.safetensors", note="copies the silhouette")
    return folder


def test_reconstructs_a_mesh_from_an_image(nova3d, inputs, tmp_path):
    mesh, views = tmp_path / "cup.glb", tmp_path / "views"
    words = ["run", inputs / "cup.png", "-o", mesh, "--model", inputs / "mini.safetensors", *QUICK]
    result = nova3d(*words, "--views", views, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["family"], document["views"], document["output"]) == (
        BUILT_IN_NAME,
        16,
        str(mesh),
    )
    assert {"loading", "sampling", "carving", "meshing", "baking"} <= set(document["seconds"])
    generated, fused = read_views(views), read_mesh(mesh)
    assert generated.colour.shape == (16, 128, 128, 3) and generated.normals is not None
    assert len(fused.faces) == document["faces"]
    sides = fused.vertices.amax(dim=0) - fused.vertices.amin(dim=0)
    assert bool((sides > 0.3).all()) and bool((sides < 1.1).all())
    for stage in ("loading the model", "sampling", "decoding", "carving", "baking"):
        assert f"{stage}:" in result.stderr  # bars
    again = nova3d(*words)
    assert again.returncode == 2 and "already exists" in again.stderr


def test_small_model_notes_its_limits_and_recommends_files(inputs, tmp_path, nova3d):
    words = ["--model", inputs / "mini.safetensors", "--steps", "1"]
    result = nova3d("generate", inputs / "cup.png", "-o", tmp_path / "views", *words, "--json")
    assert result.returncode == 0, result.stderr
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert any("simple synthetic objects at 64 pixels" in note for note in notes)
    assert any("sv3d_p.safetensors (9.37 GB, stabilityai/sv3d)" in note for note in notes)
    assert any("synthetic" in note for note in json.loads(result.stdout)["notes"])


def test_bad_input_prints_one_line_and_writes_nothing(nova3d, inputs, tmp_path):
    good = ("--model", inputs / "mini.safetensors", *QUICK)
    Image.new("RGB", (50, 50), "white").save(tmp_path / "white.png")
    mesh = tmp_path / "mesh.glb"
    cases = [
        ((inputs / "cup.png", "-o", mesh, "--model", tmp_path / "none.safetensors"), "none.safe"),
        ((tmp_path / "none.png", "-o", mesh, *good), "none.png"),
        ((tmp_path / "white.png", "-o", mesh, *good), "is entirely white"),
        ((inputs / "cup.png", "-o", tmp_path / "mesh.stp", *good), "mesh.stp"),
        ((inputs / "cup.png", "-o", mesh, *good, "--size-px", "68"), "multiple of 8"),
        ((inputs / "cup.png", "-o", mesh, *good, "--settings", tmp_path / "no.json"), "no.json"),
    ]
    for words, expected in cases:
        result = nova3d("run", *words)
        assert result.returncode == 2, result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and expected in errors[0]
        assert "Traceback" not in result.stderr
        assert not mesh.exists()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")
@pytest.mark.parametrize("stage", ["sampling", "carving"])
def test_stopping_run_in_each_stage_leaves_nothing_behind(inputs, tmp_path, stage):
    model = inputs / "mini.safetensors"
    slow = ["--steps", "500"] if stage == "sampling" else [*QUICK, "--hull.resolution", "200"]
    words = ["run", inputs / "cup.png", "-o", tmp_path / "mesh.glb", "--model", model, *slow]
    code, stderr, _ = interrupt_at(stage, [*words, "--views", tmp_path / "views"])
    assert code in STOPPED, stderr
    assert "stopped: no incomplete files were left behind." in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
