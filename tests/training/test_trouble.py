"""Failures during a run: non-finite losses, a full disk, Ctrl-C while saving."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from nova3d_core.errors import InputError, StageError
from nova3d_core.training import checkpoint
from nova3d_core.training.checkpoint import checkpoints_in, read_state
from nova3d_core.training.objective import Objective

from .parts import SMALL, assert_equal, cancel_after, log_of, of, run, state

ROOT = __file__.rsplit("/tests/", 1)[0]


def spoil_losses(monkeypatch, steps, value=float("nan")):
    """Makes the loss of some steps non-finite."""
    original = Objective.losses

    def losses(self, batch, randomness, step):
        found, sigmas = original(self, batch, randomness, step)
        return (found * value if step in steps else found), sigmas

    monkeypatch.setattr(Objective, "losses", losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_step_with_non_finite_loss_is_skipped_and_counted(tmp_path, monkeypatch, value):
    config = of(SMALL, optimiser__steps=3)
    before = run(config, tmp_path / "good")
    spoil_losses(monkeypatch, {3}, value)
    longer = of(SMALL, optimiser__steps=4, run__checkpoint_steps=3)
    after = run(longer, tmp_path / "bad")
    assert after.progress.skipped == 1
    assert after.progress.step == 4
    assert after.ema.updates == 3
    assert_equal(state(after), state(before))
    events = [line for line in log_of(tmp_path / "bad") if line["event"] == "skipped"]
    assert [(line["step"], line["skipped"]) for line in events] == [(4, 1)]


def test_step_with_non_finite_gradient_is_skipped(tmp_path, monkeypatch):
    from nova3d_core.training import runs

    original = runs.build_module

    def poisoned(config, progress):
        module = original(config, progress)
        weight = module.unet.out[2].bias
        calls = [0]

        def grad(found):
            calls[0] += 1
            return found * float("inf") if calls[0] == 2 else found

        weight.register_hook(grad)
        return module

    monkeypatch.setattr(runs, "build_module", poisoned)
    result = run(of(SMALL, optimiser__steps=4), tmp_path)
    assert result.progress.skipped == 1
    assert result.ema.updates == 3
    assert all(bool(torch.isfinite(value).all()) for value in state(result).values())


def test_run_continues_if_skips_are_not_consecutive(tmp_path, monkeypatch):
    spoil_losses(monkeypatch, {0, 1, 3, 4})
    result = run(of(SMALL, optimiser__steps=6, run__max_consecutive_skips=3), tmp_path)
    assert (result.reason, result.progress.skipped) == ("finished", 4)


def test_too_many_consecutive_skips_end_the_run_and_keep_the_last_good_checkpoint(
    tmp_path, monkeypatch
):
    config = of(
        SMALL,
        optimiser__steps=100,
        run__checkpoint_steps=1,
        run__max_consecutive_skips=5,
        run__max_checkpoints=1,
    )
    with monkeypatch.context() as patch:
        spoil_losses(patch, set(range(3, 100)))
        with pytest.raises(StageError, match=r"5 consecutive steps .* step 8") as caught:
            run(config, tmp_path)
    assert "last checkpoint is kept" in str(caught.value)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000003"]
    kept = read_state(checkpoints_in(tmp_path)[-1])
    assert (kept.progress.skipped, kept.progress.consecutive_skips) == (0, 0)
    lower = of(config, optimiser__steps=4, optimiser__learning_rate=1e-4)
    assert run(lower, tmp_path, accept_changes=True).reason == "finished"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_saving_leaves_complete_checkpoints(
    tmp_path, monkeypatch, uninterrupted, times
):
    config = of(SMALL, run__checkpoint_steps=2)
    original, calls = checkpoint.write_tensors, [0]

    def interrupted(path, tensors):
        original(path, tensors)
        calls[0] += 1
        if calls[0] == 5:  # the second file of the second checkpoint
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoint, "write_tensors", interrupted)
    if times == 1:
        assert run(config, tmp_path / "a").reason == "interrupted"
    else:
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "a")
    names = ["step-00000002", "step-00000004"][: 2 if times == 1 else 1]
    assert [path.name for path in checkpoints_in(tmp_path / "a")] == names
    assert sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir()) == names
    monkeypatch.setattr(checkpoint, "write_tensors", original)
    assert_equal(state(run(config, tmp_path / "a")), uninterrupted)


def test_restores_signal_handlers(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(of(SMALL, optimiser__steps=1), tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


KILLED = """
import os, signal, sys
from pathlib import Path
from nova3d_core.training import checkpoint
from tests.training.parts import SMALL, of, run

original, calls = checkpoint.write_tensors, [0]
def killed(path, tensors):
    original(path, tensors)
    calls[0] += 1
    if calls[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_tensors = killed
run(of(SMALL, run__checkpoint_steps=2), Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_process_killed_while_saving_leaves_the_previous_checkpoint(tmp_path, uninterrupted):
    words = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.name for path in checkpoints_in(tmp_path / "a")] == ["step-00000002"]
    assert (
        len(list((tmp_path / "a" / "checkpoints").iterdir())) == 3
    )  # and the incomplete one with its lock
    config = of(SMALL, run__checkpoint_steps=2)
    resumed = run(config, tmp_path / "a")
    assert_equal(state(resumed), uninterrupted)
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000006"]


FULL = """
import json, resource, sys
from pathlib import Path
from nova3d_core.errors import InputError
from tests.training.parts import SMALL, of, run

resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    run(of(SMALL, run__checkpoint_steps=2, optimiser__steps=6), Path(sys.argv[1]))
except InputError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes")
def test_full_disk_keeps_the_last_checkpoint_and_the_run_continues(tmp_path, uninterrupted):
    config = of(SMALL, run__checkpoint_steps=2)
    run(config, tmp_path / "a", progress=cancel_after(2))  # takes effect one step later
    words = [sys.executable, "-c", FULL, str(tmp_path / "a")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    message = json.loads(done.stdout)
    assert "step-00000006 could not be written: no space left" in message
    assert [path.name for path in checkpoints_in(tmp_path / "a")] == [
        "step-00000002",
        "step-00000003",
    ]
    names = {path.name for path in (tmp_path / "a" / "checkpoints").iterdir()}
    assert names == {"step-00000002", "step-00000003"}
    failed = [line for line in log_of(tmp_path / "a") if line["event"] == "checkpoint_failed"]
    assert [line["step"] for line in failed] == [4, 6]
    assert "no space left" in failed[0]["reason"]
    assert_equal(state(run(config, tmp_path / "a")), uninterrupted)


def test_rejects_an_unwritable_output_early(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(SMALL, tmp_path / "file" / "run")


def test_rejects_an_uneven_batch_and_missing_shards(tmp_path):
    from nova3d_core.training.object_sources import batch_size_per_process, make_object_stream

    with pytest.raises(InputError, match="3 objects cannot be split evenly over 2"):
        batch_size_per_process(of(SMALL, optimiser__batch_size=3), 2)
    with pytest.raises(InputError, match="specify no shards"):
        make_object_stream(of(SMALL, data__source="shards"), 0, 1)
