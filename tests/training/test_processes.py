"""Several processes do what one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from nova3d_core.training.checkpoint import checkpoints_in, read_state
from nova3d_core.training.tensor_files import read_tensors

from .test_resume import log_of

ROOT = __file__.rsplit("/tests/", 1)[0]
CHANGES = {
    "optimiser__batch": 4,
    "optimiser__clip": 1e6,
    "optimiser__steps": 3,
    "network__small_residuals": 0.5,
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
    """The same run in one process, in two, and in two that accumulate."""
    folder = tmp_path_factory.mktemp("together")
    train_together(1, folder / "one")
    train_together(2, folder / "two")
    train_together(2, folder / "parts", optimiser__at_once=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "parts"])
def test_two_processes_give_the_gradients_of_one(runs, name):
    one = read_tensors(runs / "one-0.safetensors")
    assert len(one) > 50
    for rank in (0, 1):
        two = read_tensors(runs / f"{name}-{rank}.safetensors")
        assert two.keys() == one.keys()
        for key, value in one.items():
            scale = float(value.abs().max()) + 1e-12
            torch.testing.assert_close(two[key] / scale, value / scale, rtol=0, atol=2e-5, msg=key)


@pytest.mark.slow
def test_one_process_writes_and_the_log_is_the_same(runs):
    losses = []
    for name in ("one", "two"):
        log = log_of(runs / name)
        losses.append([line["loss"] for line in log if line["event"] == "train"])
        assert [path.name for path in checkpoints_in(runs / name)] == ["step-00000003"]
    assert read_state(checkpoints_in(runs / "two")[-1]).world == 2
    assert log_of(runs / "two")[0]["processes"] == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_says_so(runs):
    said = train_together(1, runs / "two", optimiser__steps=3)
    assert "from step 3 on: 1 processes instead of 2" in said
    state = read_state(checkpoints_in(runs / "two")[-1])
    assert state.data["place"] == 12  # three steps of four objects, whoever took them
