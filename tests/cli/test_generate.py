"""`generate` end to end with a small model file, and its messages for bad input."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.weights.save import save_nova3d

from ..diffusion.models import image_and_mask, small_model
from ..weights.models import copying_mini
from .test_interrupts import STOPPED, interrupt_at

QUICK = ["--steps", "1", "--size-px", "64"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with an image and small models."""
    folder = tmp_path_factory.mktemp("generate")
    image, mask = image_and_mask()
    levels = (torch.cat([image, mask[..., None]], dim=-1) * 255).round().to(torch.uint8)
    Image.fromarray(levels.numpy()).save(folder / "cup.png")
    for name in ("nova3d", "sv3d_p"):
        save_nova3d(small_model(name), folder / f"{name}.safetensors")
    return folder


def test_generates_views_with_normals_from_an_image(nova3d, inputs, tmp_path):
    out = tmp_path / "views"
    words = ["generate", inputs / "cup.png", "-o", out, "--model", inputs / "nova3d.safetensors"]
    result = nova3d(*words, *QUICK, "--seed", "5", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["family"] == "nova3d" and document["views"] == 16 and document["normals"]
    assert document["output"] == str(out) and document["size_px"] == 64
    assert set(document["seconds"]) == {"loading", "sampling"}
    views = read_views(out)
    assert views.colour.shape == (16, 64, 64, 3)
    assert views.normals is not None
    assert "sampling" in result.stderr and "decoding" in result.stderr  # bars
    again = nova3d(*words, *QUICK)
    assert again.returncode == 2 and "already exists" in again.stderr
    plain = nova3d(*words, *QUICK, "--seed", "5", "--overwrite")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.startswith("16 views of 64 px, colour and normals, in ")
    assert read_views(out).colour.equal(views.colour)  # the same seed


def test_options_become_the_settings_of_sampling(tmp_path):
    from nova3d_core.cli.generate import Generate

    options = {"seed": 3, "steps": 4, "sampler": "heun", "framing": "image", "size_px": 128}
    options |= {"elevation_deg": 10.0, "decode_chunk_size": 5, "memory_gib": 2.0}
    command = Generate(image=tmp_path / "cup.png", output=tmp_path / "views", **options)
    assert command._config() == SampleConfig(**options)
    defaults = Generate(image=tmp_path / "cup.png", output=tmp_path / "views")
    assert defaults._config() == SampleConfig()


def test_sv3d_p_varies_the_elevation_and_is_found_by_name(nova3d, inputs, tmp_path):
    result = nova3d(
        "generate", inputs / "cup.png", "-o", tmp_path / "v", "--model", "sv3d_p.safetensors",
        "--folder", inputs, *QUICK, "--elevation-deg", "10", "--elevation-amplitude-deg", "20",
        "--sampler", "dpmpp_2m", "--framing", "image", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["normals"] is False
    elevations = read_views(tmp_path / "v").cameras.elevation_deg
    expected = 10.0 + 20.0 * np.sin(2 * np.pi * np.arange(21) / 21)
    np.testing.assert_allclose(elevations.numpy(), expected, atol=1e-3)


def test_missing_model_file_names_the_command_that_lists_models(nova3d, inputs, tmp_path):
    words = ["generate", inputs / "cup.png", "-o", tmp_path / "v", "--folder", inputs]
    result = nova3d(*words, "--model", "v3d.ckpt")
    assert result.returncode == 2
    start = "error: model file v3d.ckpt does not exist. `python -m nova3d_core models` lists"
    assert result.stderr.splitlines()[-1].startswith(start)


def test_bad_input_prints_one_line_and_writes_nothing(nova3d, inputs, tmp_path):
    good = inputs / "nova3d.safetensors"
    Image.new("RGB", (50, 50), "white").save(tmp_path / "white.png")
    cases = [
        ((inputs / "cup.png", "--model", tmp_path / "none.safetensors"), "none.safetensors"),
        ((tmp_path / "none.png", "--model", good), "none.png"),
        ((tmp_path / "white.png", "--model", good), "is entirely white"),
        ((inputs / "cup.png", "--model", inputs / "cup.png"), "cup.png"),
        ((inputs / "cup.png", "--model", good, "--steps", "0"), "steps is 0"),
        ((inputs / "cup.png", "--model", good, "--size-px", "65"), "multiple of"),
        (
            (inputs / "cup.png", "--model", good, "--elevation-amplitude-deg", "9"),
            "--elevation-amplitude-deg is 9, but NOVA3D generates views at a constant elevation",
        ),
        ((inputs / "cup.png", "--model", good, "--device", "toaster"), "toaster"),
    ]
    for words, expected in cases:
        result = nova3d("generate", *words, "-o", tmp_path / "views")
        assert result.returncode == 2, result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and expected in errors[0]
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "views").exists()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")
@pytest.mark.parametrize("stage", ["loading the model", "sampling"])
def test_stopping_generate_in_each_stage_leaves_nothing_behind(inputs, tmp_path, stage):
    model = inputs / "nova3d.safetensors"
    words = ["generate", inputs / "cup.png", "-o", tmp_path / "views", "--model", model]
    code, stderr, _ = interrupt_at(stage, [*words, "--steps", "500", "--size-px", "64"])
    assert code in STOPPED, stderr
    assert "stopped: no incomplete files were left behind." in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


class HemisphereEstimator:
    """Normals of a ball that fills four fifths of the image, as a real estimator returns them."""

    label, is_convention_known = "hemisphere", True

    def estimate(self, images, progress):
        count, size = images.shape[:2]
        y, x = torch.meshgrid(*[torch.linspace(-1.0, 1.0, size) / 0.8] * 2, indexing="ij")
        z = (1.0 - x**2 - y**2).clamp_min(0.0).sqrt()
        normals = torch.nn.functional.normalize(torch.stack([x, -y, z], dim=-1), dim=-1)
        return (normals * 0.5 + 0.5).expand(count, -1, -1, -1)


def test_normals_are_estimated_and_written(nova3d, tmp_path, monkeypatch):
    """The model generates the image's silhouette in every view: a disc, that is, a ball."""
    from nova3d_core.normals import load

    save_nova3d(copying_mini(), tmp_path / "mini.safetensors")
    y, x = np.mgrid[:128, :128] - 63.5
    disc = np.where((x**2 + y**2 < 50**2)[..., None], 60, 255).astype(np.uint8).repeat(3, axis=2)
    Image.fromarray(disc).save(tmp_path / "disc.png")
    (tmp_path / "NormalCrafter" / "unet").mkdir(parents=True)
    given = []

    def load_estimator(name, folder, **settings):
        given.append((name, folder, settings["config"].seed))
        return HemisphereEstimator()

    monkeypatch.setattr(load, "load_estimator", load_estimator)
    words = ["generate", tmp_path / "disc.png", "-o", tmp_path / "out", "--steps", "1", "--json"]
    words += ["--model", tmp_path / "mini.safetensors", "--normals", "normalcrafter"]
    result = nova3d(*words, "--folder", tmp_path, "--seed", "4")
    assert result.returncode == 0, result.stderr
    assert given == [("normalcrafter", tmp_path / "NormalCrafter", 4)]
    assert set(json.loads(result.stdout)["seconds"]) == {"loading", "sampling", "normals"}
    views = read_views(tmp_path / "out")
    assert views.normal_frame == "camera"
    assert bool((views.normals[..., 2][views.masks > 0.9] > 0).all())


def test_missing_estimator_is_reported_before_sampling(nova3d, inputs, tmp_path):
    words = ["generate", inputs / "cup.png", "-o", tmp_path / "out"]
    words += ["--model", inputs / "sv3d_p.safetensors", "--folder", inputs, *QUICK]
    result = nova3d(*words, "--normals", "marigold")
    assert result.returncode == 2
    assert "prs-eth/marigold-normals-v1-1" in result.stderr.strip().splitlines()[-1]
    assert "sampling" not in result.stderr and not (tmp_path / "out").exists()
    result = nova3d(*words, "--normals-folder", tmp_path)
    assert result.returncode == 2
    assert "--normals-folder is given without --normals" in result.stderr
