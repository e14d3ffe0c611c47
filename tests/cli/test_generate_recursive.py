"""`generate` with a small Ouroboros3D pair: views, splats, report, messages for bad input."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from nova3d_core.conventions import SPLAT_UP_AXIS
from nova3d_core.io.splats.files import read_splats
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.reconstruction.save import save_reconstruction
from nova3d_core.weights.save import save_nova3d

from ..diffusion.models import image_and_mask, small_model
from ..reconstruction.conftest import EIGHTH_WITH_TIME, random_network

QUICK = ["--steps", "2", "--size-px", "64"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with an image and a small pair."""
    folder = tmp_path_factory.mktemp("recursive")
    image, mask = image_and_mask()
    levels = (torch.cat([image, mask[..., None]], dim=-1) * 255).round().to(torch.uint8)
    Image.fromarray(levels.numpy()).save(folder / "cup.png")
    save_nova3d(small_model("ouroboros3d"), folder / "mv.safetensors")
    save_nova3d(small_model("sv3d_p"), folder / "sv3d_p.safetensors")
    save_reconstruction(random_network(EIGHTH_WITH_TIME), folder / "recon_model.safetensors")
    return folder


def words_for(inputs, out, model: str = "mv.safetensors") -> list:
    return ["generate", inputs / "cup.png", "-o", out, "--model", inputs / model, *QUICK]


def test_writes_views_and_splats(nova3d, inputs, tmp_path):
    out, splats = tmp_path / "views", tmp_path / "cup.ply"
    result = nova3d(*words_for(inputs, out), "--splats", splats, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["family"] == "ouroboros3d" and document["views"] == 8
    assert document["recursion"]["reconstructions"] == 2
    assert document["recursion"]["feedback"] == "both" and document["splats"] == str(splats)
    views = read_views(out)
    assert views.colour.shape == (8, 64, 64, 3)
    expected = [0, 45, 90, 135, 180, 225, 270, 337.5]
    assert views.cameras.azimuth_deg.remainder(360).tolist() == pytest.approx(expected, abs=0.01)
    written = read_splats(splats, SPLAT_UP_AXIS)
    assert len(written) == document["recursion"]["count"] > 1000
    again = nova3d(*words_for(inputs, tmp_path / "other"), "--splats", splats)
    assert again.returncode == 2 and "already exists" in again.stderr


def test_feedback_options_and_the_summary(nova3d, inputs, tmp_path):
    words = [*words_for(inputs, tmp_path / "views"), "--feedback", "none"]
    result = nova3d(*words)
    assert result.returncode == 0, result.stderr
    assert "splats, 1 reconstruction, views and splats agree to" in result.stdout


@pytest.mark.parametrize(
    "options", [["--feedback", "none"], ["--feedback-every", "2"], ["--splats", "x.ply"]]
)
def test_options_without_effect_are_errors(nova3d, inputs, tmp_path, options):
    result = nova3d(*words_for(inputs, tmp_path / "views", "sv3d_p.safetensors"), *options)
    assert result.returncode == 2 and "no effect" in result.stderr
    assert "mv_model_unet.pth" in result.stderr


def test_the_wrong_file_of_the_pair(nova3d, inputs, tmp_path):
    result = nova3d(*words_for(inputs, tmp_path / "views", "recon_model.safetensors"))
    assert result.returncode == 2 and "the other file of the pair" in result.stderr


def test_an_image_without_an_object(nova3d, inputs, tmp_path):
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    words = words_for(inputs, tmp_path / "views")
    result = nova3d("generate", tmp_path / "empty.png", *words[2:])
    assert result.returncode == 2 and "object" in result.stderr
