"""Several processes do what one does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from nova3d_core.training.checkpoint import checkpoints_in, read_state
from nova3d_core.training.tensor_files import read_tensors

from .test_resume import log_of

ROOT = __file__.rsplit("/tests/", 1)[0]
LOOKING = {
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


def train_together(world: int, output, **changes) -> str:
    """Runs `worker` in so many processes over gloo; what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "tests.training.worker", str(output)]
    words.append(json.dumps(CHANGES | changes))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            words,
            cwd=ROOT,
            env=os.environ | (shared | {"RANK": str(r), "LOCAL_RANK": str(r)} if world > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(world)
    ]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * world, "\n".join(said)
    return "\n".join(said)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run in one process, in two, in two that accumulate, in two that split the weights."""
    folder = tmp_path_factory.mktemp("together")
    train_together(1, folder / "one")
    train_together(2, folder / "two")
    train_together(2, folder / "parts", optimiser__micro_batch_size=1)
    train_together(2, folder / "split", split=True, **LOOKING)
    return folder


def newest(output, name):
    return read_tensors(checkpoints_in(output)[-1] / f"{name}.safetensors")


def assert_close(one, two):
    """Up to float32 sums in another order, against the largest number of each tensor."""
    assert one.keys() == two.keys()
    for key, value in one.items():
        scale = float(value.abs().max()) + 1e-12
        torch.testing.assert_close(two[key] / scale, value / scale, rtol=0, atol=2e-5, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "parts", "split"])
def test_two_processes_give_the_gradients_of_one(runs, name):
    one = read_tensors(runs / "one-0.safetensors")
    assert len(one) > 50
    for rank in (0, 1):
        assert_close(one, read_tensors(runs / f"{name}-{rank}.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "split"])
def test_one_process_writes_whole_tensors_and_the_log_is_the_same(runs, name):
    losses = []
    for each in ("one", name):
        log = log_of(runs / each)
        losses.append([line["loss"] for line in log if line["event"] == "train"])
        assert [path.name for path in checkpoints_in(runs / each)] == ["step-00000003"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert read_state(checkpoints_in(runs / name)[-1]).world == 2
    assert log_of(runs / name)[0]["processes"] == 2
    for part in ("weights", "average", "optimiser"):
        shapes = [
            {key: value.shape for key, value in newest(runs / each, part).items()}
            for each in ("one", name)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_split_weights_are_looked_through_too(runs):
    found = [line for line in log_of(runs / "split") if line["event"] == "validation"]
    assert [line["step"] for line in found] == [2]
    assert (runs / "split" / "sheets" / "00000002.png").is_file()


@pytest.mark.slow
def test_muon_steps_alike_in_all_processes_and_refuses_split_weights(tmp_path):
    for world in (1, 2):
        train_together(world, tmp_path / str(world), optimiser__name="muon")
    for part in ("weights", "average", "optimiser"):
        assert_close(newest(tmp_path / "1", part), newest(tmp_path / "2", part))
    with pytest.raises(AssertionError, match="muon needs whole weights in each process"):
        train_together(2, tmp_path / "split", split=True, optimiser__name="muon")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_says_so(runs):
    ends = {}
    for name, world, split in (("alone", 1, False), ("split", 2, True)):
        shutil.copytree(runs / "one", runs / f"on-{name}")
        said = train_together(world, runs / f"on-{name}", split=split, optimiser__steps=4)
        ends[name] = newest(runs / f"on-{name}", "weights")
        assert ("from step 3 on: 2 processes instead of 1" in said) == (world == 2)
        state = read_state(checkpoints_in(runs / f"on-{name}")[-1])
        assert state.data["place"] == 16  # four steps of four objects, whoever took them
    for key, value in ends[
        "alone"
    ].items():  # Adam steps as far for a small gradient as for a large
        torch.testing.assert_close(ends["split"][key], value, rtol=0, atol=1e-4, msg=key)


@pytest.mark.slow
def test_deepspeeds_zero_2_does_what_one_process_does(runs):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    train_together(2, runs / "zero", zero=True)
    for part in ("weights", "average", "optimiser"):
        one, two = newest(runs / "one", part), newest(runs / "zero", part)
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=key)
    ends = []
    for name, world, zero in (("plain", 1, False), ("zero", 2, True)):
        shutil.copytree(runs / "zero", runs / f"zero-on-{name}")
        train_together(world, runs / f"zero-on-{name}", zero=zero, optimiser__steps=4)
        ends.append(newest(runs / f"zero-on-{name}", "weights"))
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=0, atol=1e-4, msg=key)
