"""`--device`: checked before any work; a fallback to the CPU is reported."""

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
    "render-dataset": (
        "render-dataset",
        "none.txt",
        "-o",
        "out",
        "--precompute-latents",
        "none.ckpt",
    ),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("device", ["cudda", "cuda:99", pytest.param("cuda", marks=NO_CUDA)])
def test_unavailable_device_is_rejected_before_any_work(
    words, device, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # the inputs do not exist either, but the device is checked first
    assert main([*words, "--device", device]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"error: device '{device}' cannot be used: ")
    assert errors[0].endswith(f"Available devices: {', '.join(available_devices())}.")
    assert list(tmp_path.iterdir()) == []


def test_train_lists_the_devices(tmp_path, capsys):
    assert main(["train", "mini", "-o", str(tmp_path / "run"), "--device", "cuda:7"]) == 2
    error = capsys.readouterr().err
    assert "--device" in error and "auto, cpu" in error
    assert list(tmp_path.iterdir()) == []


def test_all_commands_with_a_device_are_tested():
    """A new command with --device must be added to the list above."""
    from dataclasses import fields
    from importlib import import_module

    names = ("fuse.Fuse", "generate.Generate", "run.Run", "render_dataset.RenderDataset")
    names += ("train.Train", "ablate.Ablate", "demo.Demo", "evaluate.Evaluate", "export.Export")
    names += ("bake.Bake", "models.Models", "presets.Presets", "render.Render")
    with_device = set()
    for name in names:
        module, command = name.split(".")
        kind = getattr(import_module(f"nova3d_core.cli.{module}"), command)
        if "device" in {field.name for field in fields(kind)}:
            with_device.add(module.replace("_", "-"))
    assert with_device == {*COMMANDS, "train"}


@NO_CUDA
def test_fuse_reports_the_fallback_to_the_cpu_if_warp_lacks_the_gpu(
    knight_views, short_draft, tmp_path, monkeypatch, caplog
):
    pytest.importorskip("warp")
    monkeypatch.setattr(devices, "resolve_device", lambda name: torch.device(name))
    settings = {
        "sdf": {"preset": "draft", "check_inputs": False},
        "meshing": {"target_faces": 500},
        "bake": {"texture_px": 256},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    words = [knight_views, "-o", tmp_path / "mesh.glb", "--settings", tmp_path / "settings.json"]
    assert main(["fuse", *map(str, words), "--device", "cuda:0"]) == 0
    assert (tmp_path / "mesh.glb").stat().st_size > 10_000
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in warnings if "the fusion runs on the CPU" in line]) == 1


def test_running_out_of_memory_in_sampling_has_a_hint(tmp_path, monkeypatch, capsys):
    from nova3d_core.cli.demo import IMAGE
    from nova3d_core.diffusion.sampling import pipeline

    def fail(*args, **kwargs):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(pipeline, "sample", fail)
    image = IMAGE / "images" / "000.png"
    words = ["generate", str(image), "-o", str(tmp_path / "views")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "error: sampling: memory ran out." in error and "--size-px" in error
    assert list(tmp_path.iterdir()) == []
