"""Distributed training: several processes give the results of one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nova3d_core.training.checkpoint import checkpoints_in, read_state
from nova3d_core.training.tensor_files import read_tensors

from .parts import log_of

ROOT = __file__.rsplit("/tests/", 1)[0]
VALIDATING = {
    "run__validation_steps": 2,
    "run__validation_objects": 1,
    "run__sampling_steps": 1,
    "run__sample_grid_steps": 2,
}
CHANGES = {
    "optimiser__batch_size": 4,
    "optimiser__max_grad_norm": 1e6,
    "optimiser__steps": 3,
    "network__residual_init_scale": 0.5,
}


def train_distributed(world_size: int, output, **changes) -> str:
    """Runs `worker` in several processes over gloo; returns their output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.worker", str(output)]
    command.append(json.dumps(CHANGES | changes))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ
            | (shared | {"RANK": str(r), "LOCAL_RANK": str(r)} if world_size > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(world_size)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, "\n".join(outputs)
    return "\n".join(outputs)


RUNS = {
    "one": (1, {}),
    "ddp": (2, {}),
    "accumulate": (2, {"optimiser__micro_batch_size": 1}),
    "fsdp": (2, {"fsdp": True, **VALIDATING}),
}
"""Processes and changes of the compared runs."""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Folder of one of the `RUNS`, each run on first use."""
    folder = tmp_path_factory.mktemp("distributed")

    def get(name: str) -> Path:
        if not (folder / name).exists():
            world_size, changes = RUNS[name]
            train_distributed(world_size, folder / name, **changes)
        return folder / name

    return get


def gradients_of(output: Path, rank: int):
    return read_tensors(output.parent / f"{output.name}-{rank}.safetensors")


def newest(output: Path, name: str):
    return read_tensors(checkpoints_in(output)[-1] / f"{name}.safetensors")


def assert_close(one, two):
    """Equal up to the order of float32 sums, relative to the largest value of each tensor."""
    assert one.keys() == two.keys()
    for key, value in one.items():
        scale = float(value.abs().max()) + 1e-12
        torch.testing.assert_close(two[key] / scale, value / scale, rtol=0, atol=2e-5, msg=key)


def slow(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["ddp", slow("accumulate"), slow("fsdp")])
def test_two_processes_give_the_gradients_of_one(run_folder, name):
    one = gradients_of(run_folder("one"), 0)
    assert len(one) > 50
    for rank in (0, 1):
        assert_close(one, gradients_of(run_folder(name), rank))


@pytest.mark.parametrize("name", ["ddp", slow("fsdp")])
def test_main_process_writes_full_tensors_and_the_same_log(run_folder, name):
    folders = (run_folder("one"), run_folder(name))
    losses = []
    for folder in folders:
        log = log_of(folder)
        losses.append([line["loss"] for line in log if line["event"] == "train"])
        assert [path.name for path in checkpoints_in(folder)] == ["step-00000003"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert read_state(checkpoints_in(folders[1])[-1]).world_size == 2
    assert log_of(folders[1])[0]["processes"] == 2
    for part in ("weights", "ema", "optimiser"):
        shapes = [
            {key: value.shape for key, value in newest(folder, part).items()} for folder in folders
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_sharded_weights_are_validated(run_folder):
    folder = run_folder("fsdp")
    found = [line for line in log_of(folder) if line["event"] == "validation"]
    assert [line["step"] for line in found] == [2]
    assert (folder / "samples" / "00000002.png").is_file()


@pytest.mark.slow
def test_muon_supports_ddp_and_rejects_sharded_weights(tmp_path):
    for world_size in (1, 2):
        train_distributed(world_size, tmp_path / str(world_size), optimiser__name="muon")
    for part in ("weights", "ema", "optimiser"):
        assert_close(newest(tmp_path / "1", part), newest(tmp_path / "2", part))
    with pytest.raises(AssertionError, match="muon needs full weights in each process"):
        train_distributed(2, tmp_path / "fsdp", fsdp=True, optimiser__name="muon")


@pytest.mark.slow
def test_resumes_with_another_number_of_processes_and_notes_it(run_folder, tmp_path):
    ends = {}
    for name, world_size, fsdp in (("single", 1, False), ("fsdp", 2, True)):
        folder = tmp_path / name
        shutil.copytree(run_folder("one"), folder)
        output = train_distributed(world_size, folder, fsdp=fsdp, optimiser__steps=4)
        ends[name] = newest(folder, "weights")
        assert ("from step 3 on: 2 processes instead of 1" in output) == (world_size == 2)
        state = read_state(checkpoints_in(folder)[-1])
        assert state.data["position"] == 16  # four steps of four objects
    # an absolute tolerance: AdamW's step does not shrink with a small gradient
    for key, value in ends["single"].items():
        torch.testing.assert_close(ends["fsdp"][key], value, rtol=0, atol=1e-4, msg=key)
