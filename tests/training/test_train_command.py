"""The commands `train` and `export`: start, stop, resume, export a model."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch

from nova3d_core.cli.export import Export
from nova3d_core.cli.train import Train
from nova3d_core.diffusion.families import FAMILIES, SCENE_FAMILY
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import sample
from nova3d_core.errors import InputError
from nova3d_core.progress import SILENT
from nova3d_core.training.checkpoint import checkpoints_in
from nova3d_core.training.presets import preset_names, read_train_config
from nova3d_core.training.tensor_files import read_tensors
from nova3d_core.weights.discovery.layouts import METADATA_KEY, read_header
from nova3d_core.weights.load import load_model

from .parts import SMALL, log_of, objects, of, run

ROOT = __file__.rsplit("/tests/", 1)[0]


def command(*words):
    return [sys.executable, "-m", "nova3d_core", "train", *map(str, words), "--device", "cpu"]


def train(*words):
    done = subprocess.run(
        command(*words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    config = of(
        SMALL,
        run__sample_grid_steps=2,
        run__sample_grid_objects=1,
        run__validation_steps=4,
        run__validation_objects=2,
        run__sampling_steps=1,
        run__tensorboard=True,
    )
    path = tmp_path_factory.mktemp("settings") / "small.json"
    path.write_text(json.dumps(asdict(config)))
    return path


@pytest.mark.slow
def test_time_limit_resuming_and_exported_model(settings, tmp_path):
    output, model = tmp_path / "run", tmp_path / "small.safetensors"
    code, stdout, stderr = train(settings, "-o", output, "--minutes", 0)
    assert code == 0, stderr
    assert f"step 1 of 6 is saved in {output}: the time limit was reached." in stdout
    assert "The same command resumes the run." in stdout
    code, stdout, stderr = train(settings, "-o", output, "--export", model, "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert (result["ended"], result["step"], result["export"]) == ("finished", 6, str(model))
    events = [line["event"] for line in log_of(output)]
    assert events.count("validation") == 3 and events.count("resumed") == 1
    assert {path.name for path in (output / "samples").iterdir()} == {
        "00000002.png", "00000004.png", "00000006.png"
    }  # fmt: skip
    assert list((output / "tensorboard").glob("events*"))
    validated = [line for line in log_of(output) if line["event"] == "validation"]
    assert {"psnr", "normal_error_deg", "silhouette_iou"} <= set(validated[1])
    loaded = load_model(model)
    assert loaded.family.name == "nova3d-mini"
    ema = read_tensors(checkpoints_in(output)[-1] / "ema.safetensors")
    weights = dict(loaded.unet.named_parameters())
    for name, value in ema.items():
        if name.startswith("unet."):
            assert torch.equal(weights[name.removeprefix("unet.")], value.half()), name
    sampled = sample(loaded, objects(1)[0]["colour"][0] / 255, config=SampleConfig(steps=1))
    assert sampled.images.shape == (2, 16, 64, 64, 3)
    assert train(settings, "-o", output, "--export", model)[0] == 2  # it exists already


@pytest.mark.skipif(os.name == "nt", reason="sends signals to one process")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, 0, id="sigterm", marks=pytest.mark.slow),
    ],
)
def test_signals_end_a_run_with_a_checkpoint(settings, tmp_path, number, code):
    words = command(settings, "-o", tmp_path / "run", "--steps", 100_000)
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and '"train"' in log.read_text():
            break
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert "is saved in" in stdout
    step = int(checkpoints_in(tmp_path / "run")[-1].name.removeprefix("step-"))
    assert f"step {step} of 100000" in stdout


def test_reports_bad_settings_in_one_line(settings, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"optimiser": {"learning_rat": 1}}')
    absent = tmp_path / "absent.json"
    for name, expected in (
        ("maxi", "training settings 'maxi' are unknown. Use one of mini, mini_tokens, nova3d"),
        (broken, "broken.json is not valid JSON"),
        (wrong, "settings.optimiser.learning_rat is unknown. Use one of name, steps"),
        (absent, "absent.json cannot be read: No such file"),
    ):
        with pytest.raises(InputError) as caught:
            read_train_config(str(name))
        assert expected in str(caught.value)


def test_reads_toml(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(
        'family = "nova3d-mini"\n[optimiser]\nsteps = 7\nbetas = [0.8, 0.9]\n'
        "[[noise]]\nstart = 0.0\nmean = 1.0\nstd = 2.0\n"
    )
    config = read_train_config(str(path))
    assert (config.optimiser.steps, config.optimiser.betas) == (7, (0.8, 0.9))
    assert [(stage.start, stage.mean, stage.std) for stage in config.noise] == [(0.0, 1.0, 2.0)]


def test_written_settings_read_back_the_same(settings):
    again = read_train_config(str(settings))
    assert json.loads(settings.read_text()) == json.loads(json.dumps(asdict(again)))
    for name in preset_names():
        assert read_train_config(name).family in {*FAMILIES, SCENE_FAMILY.name}


def test_shipped_nova3d_settings_are_the_papers():
    config = read_train_config("nova3d")
    optimiser = config.optimiser
    assert (optimiser.batch_size, optimiser.learning_rate, optimiser.steps) == (176, 2e-5, 30_000)
    assert optimiser.ema_decay == 0.9999
    assert config.data.size_px == 256
    assert [(s.mean, s.std) for s in config.noise] == [(1.0, 1.6), (1.8, 1.6), (2.2, 1.8), (2.5, 2)]
    assert [round(s.start * 30_000) for s in config.noise] == [0, 8000, 16_000, 24_000]


def test_help_names_every_preset():
    words = set(re.findall(r"\w+", inspect.getsource(Train)))
    assert set(preset_names()) <= words


def test_exports_an_unfinished_run(tmp_path, capsys):
    run(of(SMALL, optimiser__steps=2), tmp_path / "run", minutes=0.0)  # one of two steps
    path = tmp_path / "small.safetensors"
    Export(tmp_path / "run", path, "float32", json=True).run(SILENT)
    result = json.loads(capsys.readouterr().out)
    assert (result["step"], result["bytes"]) == (1, path.stat().st_size)
    ema = read_tensors(checkpoints_in(tmp_path / "run")[-1] / "ema.safetensors")
    weights = load_model(path).unet.state_dict()
    assert torch.equal(weights["out.2.weight"], ema["unet.out.2.weight"])
    metadata = read_header(path).metadata
    note = json.loads(json.loads(metadata[METADATA_KEY])["note"])
    assert note["trained"]["steps"] == 1
    assert note["settings"]["optimiser"]["steps"] == 2
    with pytest.raises(InputError, match="already exists"):
        Export(tmp_path / "run", path).run(SILENT)
    with pytest.raises(InputError, match="contains no checkpoint"):
        Export(tmp_path, tmp_path / "other.safetensors").run(SILENT)
    assert not (tmp_path / "other.safetensors").exists()
