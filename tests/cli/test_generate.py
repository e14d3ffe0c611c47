"""`generate` from end to end with a small model file, and what it says when the input is bad."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.weights.save import save_nova3d

from ..diffusion.models import image_and_mask, small_model
from .test_interrupts import STOPPED, interrupt_at

QUICK = ["--steps", "1", "--size-px", "64"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an image and small models."""
    folder = tmp_path_factory.mktemp("generate")
    image, mask = image_and_mask()
    levels = (torch.cat([image, mask[..., None]], dim=-1) * 255).round().to(torch.uint8)
    Image.fromarray(levels.numpy()).save(folder / "cup.png")
    for name in ("nova3d", "sv3d_p"):
        save_nova3d(small_model(name), folder / f"{name}.safetensors")
    return folder


def test_a_image_becomes_a_folder_of_views_with_normals(nova3d, place, tmp_path):
    out = tmp_path / "views"
    words = ["generate", place / "cup.png", "-o", out, "--model", place / "nova3d.safetensors"]
    done = nova3d(*words, *QUICK, "--seed", "5", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["family"] == "nova3d" and said["views"] == 16 and said["normals"]
    assert said["output"] == str(out) and said["size_px"] == 64
    assert set(said["seconds"]) == {"loading", "sampling"}
    views = read_views(out)
    assert views.colour.shape == (16, 64, 64, 3)
    assert views.normals is not None
    assert "sampling" in done.stderr and "decoding" in done.stderr  # bars
    again = nova3d(*words, *QUICK)
    assert again.returncode == 2 and "already exists" in again.stderr
    plain = nova3d(*words, *QUICK, "--seed", "5", "--overwrite")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.startswith("16 views of 64 px, colours and normals, in ")
    assert read_views(out).colour.equal(views.colour)  # the same seed


def test_sv3d_p_goes_up_and_down_and_a_name_is_found_below_the_folders(nova3d, place, tmp_path):
    done = nova3d(
        "generate", place / "cup.png", "-o", tmp_path / "v", "--model", "sv3d_p.safetensors",
        "--folder", place, *QUICK, "--elevation-deg", "10", "--rise-deg", "20", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["normals"] is False
    elevations = read_views(tmp_path / "v").cameras.elevation_deg
    known = 10.0 + 20.0 * np.sin(2 * np.pi * np.arange(21) / 21)
    np.testing.assert_allclose(elevations.numpy(), known, atol=1e-3)


def test_bad_input_is_one_line_and_leaves_nothing(nova3d, place, tmp_path):
    good = place / "nova3d.safetensors"
    Image.new("RGB", (50, 50), "white").save(tmp_path / "white.png")
    cases = [
        ((place / "cup.png", "--model", tmp_path / "none.safetensors"), "none.safetensors"),
        ((tmp_path / "none.png", "--model", good), "none.png"),
        ((tmp_path / "white.png", "--model", good), "white all over"),
        ((place / "cup.png", "--model", place / "cup.png"), "cup.png"),
        ((place / "cup.png", "--model", good, "--steps", "0"), "steps is 0"),
        ((place / "cup.png", "--model", good, "--size-px", "65"), "multiple of"),
        ((place / "cup.png", "--model", good, "--rise-deg", "9"), "one height"),
        ((place / "cup.png", "--model", good, "--device", "toaster"), "toaster"),
    ]
    for words, expected in cases:
        done = nova3d("generate", *words, "-o", tmp_path / "views")
        assert done.returncode == 2, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and expected in errors[0]
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "views").exists()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")
@pytest.mark.parametrize("stage", ["loading the model", "sampling"])
def test_generate_stopped_in_each_stage_leaves_nothing(place, tmp_path, stage):
    model = place / "nova3d.safetensors"
    words = ["generate", place / "cup.png", "-o", tmp_path / "views", "--model", model]
    code, said, _ = interrupt_at(stage, [*words, "--steps", "500", "--size-px", "64"])
    assert code in STOPPED, said
    assert "stopped: nothing half-written was left." in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
