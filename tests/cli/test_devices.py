"""`--device`: checked before any work; a fusion that moves to the CPU says so."""

from __future__ import annotations

import json

import pytest
import torch

from nova3d_core.cli.main import main
from nova3d_core.compute import devices
from nova3d_core.compute.devices import available_devices

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
COMMANDS = {
    "fuse": ("fuse", "nowhere", "-o", "out.glb"),
    "generate": ("generate", "none.png", "-o", "out"),
    "run": ("run", "none.png", "-o", "out.glb"),
    "render-dataset": ("render-dataset", "none.txt", "-o", "out", "--latents-of", "none.ckpt"),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("device", ["cudda", "cuda:99", pytest.param("cuda", marks=NO_CUDA)])
def test_a_device_that_is_not_there_stops_before_any_work(
    words, device, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # none of the inputs exists, but the device is what is wrong first
    assert main([*words, "--device", device]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"error: device '{device}' cannot be used: ")
    assert errors[0].endswith(f"Devices of this machine: {', '.join(available_devices())}.")
    assert list(tmp_path.iterdir()) == []


def test_training_names_its_choices(tmp_path, capsys):
    assert main(["train", "mini", "-o", str(tmp_path / "run"), "--device", "cuda:7"]) == 2
    said = capsys.readouterr().err
    assert "--device" in said and "auto, cpu" in said
    assert list(tmp_path.iterdir()) == []


def test_each_command_with_a_device_checks_it():
    """So that a new command with --device joins the list above."""
    from dataclasses import fields
    from importlib import import_module

    names = ("fuse.Fuse", "generate.Generate", "run.Run", "render_dataset.RenderDataset")
    names += ("train.Train", "ablate.Ablate", "demo.Demo", "evaluate.Evaluate", "export.Export")
    names += ("models.Models", "presets.Presets", "render.Render")
    with_device = set()
    for name in names:
        module, command = name.split(".")
        kind = getattr(import_module(f"nova3d_core.cli.{module}"), command)
        if "device" in {field.name for field in fields(kind)}:
            with_device.add(module.replace("_", "-"))
    assert with_device == {*COMMANDS, "train"}


@NO_CUDA
def test_fuse_on_a_gpu_that_warp_cannot_use_says_that_the_cpu_is_used(
    knight_views, tmp_path, monkeypatch, caplog
):
    pytest.importorskip("warp")
    monkeypatch.setattr(devices, "resolve_device", lambda name: torch.device(name))
    level = {"resolution": 16, "steps": 2, "ray_share": 0.1}
    settings = {
        "sdf": {"levels": [level], "hull": {"resolution": 32}, "check_inputs": False},
        "meshing": {"target_faces": 500},
        "bake": {"texture_px": 256},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    words = [knight_views, "-o", tmp_path / "mesh.glb", "--settings", tmp_path / "settings.json"]
    assert main(["fuse", *map(str, words), "--device", "cuda:0"]) == 0
    assert (tmp_path / "mesh.glb").stat().st_size > 10_000
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in said if "the fusion runs on the CPU" in line]) == 1


def test_sampling_without_memory_in_any_form_says_what_to_lower(tmp_path, monkeypatch, capsys):
    from nova3d_core.cli.demo import IMAGE
    from nova3d_core.diffusion.sampling import pipeline

    def full(*given, **more):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(pipeline, "sample", full)
    image = IMAGE / "images" / "000.png"
    words = ["generate", str(image), "-o", str(tmp_path / "views")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "error: sampling: memory ran out." in said and "--size-px" in said
    assert list(tmp_path.iterdir()) == []
