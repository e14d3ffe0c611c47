"""What goes wrong in a run: numbers that are not finite, a full disk, Ctrl-C while saving."""

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

from .parts import SMALL, assert_equal, of, run, state
from .test_resume import log_of, stopped_after

ROOT = __file__.rsplit("/tests/", 1)[0]


def spoil(monkeypatch, where, value=float("nan")):
    """Makes the loss of some steps not finite."""
    plain = Objective.losses

    def losses(self, batch, randomness, step):
        found, sigmas = plain(self, batch, randomness, step)
        return (found * value if step in where else found), sigmas

    monkeypatch.setattr(Objective, "losses", losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_step_changes_nothing_and_is_counted(tmp_path, monkeypatch, value):
    config = of(SMALL, optimiser__steps=3)
    before = run(config, tmp_path / "good")
    spoil(monkeypatch, {3}, value)
    longer = of(SMALL, optimiser__steps=4, run__checkpoint_steps=3)
    after = run(longer, tmp_path / "bad")
    assert after.place.skipped == 1
    assert after.place.step == 4
    assert after.ema.updates == 3
    assert_equal(state(after), state(before))
    events = [line for line in log_of(tmp_path / "bad") if line["event"] == "skipped"]
    assert [(line["step"], line["skipped"]) for line in events] == [(4, 1)]


def test_a_gradient_that_is_not_finite_is_a_bad_step_too(tmp_path, monkeypatch):
    from nova3d_core.training import runs

    plain = runs.build_train_module

    def poisoned(config, progress):
        trainee = plain(config, progress)
        weight = trainee.unet.out[2].bias
        calls = [0]

        def grad(found):
            calls[0] += 1
            return found * float("inf") if calls[0] == 2 else found

        weight.register_hook(grad)
        return trainee

    monkeypatch.setattr(runs, "build_train_module", poisoned)
    outcome = run(of(SMALL, optimiser__steps=4), tmp_path)
    assert outcome.place.skipped == 1
    assert outcome.ema.updates == 3
    assert all(bool(torch.isfinite(value).all()) for value in state(outcome).values())


def test_good_steps_between_bad_ones_let_the_run_go_on(tmp_path, monkeypatch):
    spoil(monkeypatch, {0, 1, 3, 4})
    outcome = run(of(SMALL, optimiser__steps=6, run__max_consecutive_skips=3), tmp_path)
    assert (outcome.reason, outcome.place.skipped) == ("finished", 4)


def test_too_many_bad_steps_in_a_row_end_the_run_and_keep_the_last_good_checkpoint(
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
        spoil(patch, set(range(3, 100)))
        with pytest.raises(StageError, match=r"5 steps in a row .* step 8") as caught:
            run(config, tmp_path)
    assert "last checkpoint is kept" in str(caught.value)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000003"]
    kept = read_state(checkpoints_in(tmp_path)[-1])
    assert (kept.place.skipped, kept.place.consecutive_skips) == (0, 0)
    lower = of(config, optimiser__steps=4, optimiser__learning_rate=1e-4)
    assert run(lower, tmp_path, accept_changes=True).reason == "finished"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_saving_leaves_whole_checkpoints(tmp_path, monkeypatch, times):
    config = of(SMALL, run__checkpoint_steps=2)
    unbroken = run(config, tmp_path / "unbroken")
    plain, calls = checkpoint.write_tensors, [0]

    def interrupted(path, tensors):
        plain(path, tensors)
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
    monkeypatch.setattr(checkpoint, "write_tensors", plain)
    assert_equal(state(run(config, tmp_path / "a")), state(unbroken))


def test_the_users_handlers_are_back_after_a_run(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(of(SMALL, optimiser__steps=1), tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


KILLED = """
import os, signal, sys
from pathlib import Path
from nova3d_core.training import checkpoint
from tests.training.parts import SMALL, of, run

plain, calls = checkpoint.write_tensors, [0]
def killed(path, tensors):
    plain(path, tensors)
    calls[0] += 1
    if calls[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write_tensors = killed
run(of(SMALL, run__checkpoint_steps=2), Path(sys.argv[1]))
"""


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_a_process_killed_while_saving_leaves_the_checkpoint_before(tmp_path):
    words = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.name for path in checkpoints_in(tmp_path / "a")] == ["step-00000002"]
    assert (
        len(list((tmp_path / "a" / "checkpoints").iterdir())) == 3
    )  # and the half one with its lock
    config = of(SMALL, run__checkpoint_steps=2)
    resumed = run(config, tmp_path / "a")
    assert_equal(state(resumed), state(run(config, tmp_path / "b")))
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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes to set")
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_until_its_end(tmp_path):
    config = of(SMALL, run__checkpoint_steps=2, optimiser__steps=6)
    run(config, tmp_path / "a", progress=stopped_after(2))  # noticed a step later
    words = [sys.executable, "-c", FULL, str(tmp_path / "a")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    said = json.loads(done.stdout)
    assert "step-00000006 could not be written: no space left" in said
    assert [path.name for path in checkpoints_in(tmp_path / "a")] == [
        "step-00000002",
        "step-00000003",
    ]
    names = {path.name for path in (tmp_path / "a" / "checkpoints").iterdir()}
    assert names == {"step-00000002", "step-00000003"}
    failed = [line for line in log_of(tmp_path / "a") if line["event"] == "not kept"]
    assert [line["step"] for line in failed] == [4, 6]
    assert "no space left" in failed[0]["reason"]
    assert_equal(state(run(config, tmp_path / "a")), state(run(config, tmp_path / "b")))


def test_an_unwritable_place_is_refused_before_anything_is_built(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(SMALL, tmp_path / "file" / "run")


def test_a_batch_that_cannot_be_dealt_out_and_a_run_without_shards_are_refused(tmp_path):
    from nova3d_core.training.data.object_sources import batch_size_per_process, make_object_stream

    with pytest.raises(InputError, match="3 objects cannot be dealt out evenly to 2"):
        batch_size_per_process(of(SMALL, optimiser__batch_size=3), 2)
    with pytest.raises(InputError, match="name no shards"):
        make_object_stream(of(SMALL, data__source="shards"), 0, 1)
