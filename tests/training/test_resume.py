"""A resumed run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import logging

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.progress import Progress
from nova3d_core.training.checkpoint import checkpoints_in, optimiser_tensors, read_state
from nova3d_core.training.tensor_files import read_tensors

from .parts import SMALL, assert_equal, cancel_after, log_of, of, run, state


@pytest.mark.parametrize(
    ("precision", "name"), [("float32", "adamw"), ("bfloat16", "adamw"), ("float32", "muon")]
)
def test_resumed_equals_uninterrupted(tmp_path, precision, name):
    config = of(SMALL, precision=precision, optimiser__lr_schedule="cosine", optimiser__name=name)
    uninterrupted = run(config, tmp_path / "uninterrupted")
    assert uninterrupted.reason == "finished"
    reasons = []
    while not reasons or reasons[-1] != "finished":
        done = len(reasons) * 2
        resumed = run(config, tmp_path / "resumed", progress=cancel_after(done + 1))
        reasons.append(resumed.reason)
    assert len(reasons) > 2 and set(reasons[:-1]) == {"cancelled"}
    assert_equal(state(resumed), state(uninterrupted))
    assert resumed.ema.updates == uninterrupted.ema.updates == 6
    files = [
        checkpoints_in(tmp_path / folder)[-1] / "optimiser.safetensors"
        for folder in ("uninterrupted", "resumed")
    ]
    assert_equal(*(read_tensors(file) for file in files))
    lines = [
        {
            line["step"]: (line["loss"], line["grad_norm"])
            for line in log
            if line["event"] == "train"
        }
        for log in (log_of(tmp_path / "uninterrupted"), log_of(tmp_path / "resumed"))
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 6


def test_killed_run_resumes_from_its_last_checkpoint(tmp_path, uninterrupted):
    config = of(SMALL, run__checkpoint_steps=2)

    class Killed(BaseException):
        pass

    def kill(event):
        if event.stage == "training" and event.step == 5:
            raise Killed

    with pytest.raises(Killed):
        run(config, tmp_path / "killed", progress=Progress(kill))
    assert [path.name for path in checkpoints_in(tmp_path / "killed")] == [
        "step-00000002",
        "step-00000004",
    ]
    assert_equal(state(run(config, tmp_path / "killed")), uninterrupted)


def test_finished_run_stays_finished(tmp_path):
    first = run(SMALL, tmp_path)
    again = run(SMALL, tmp_path)
    assert again.reason == "finished"
    assert again.progress == first.progress
    assert_equal(state(again), state(first))


def test_time_limit_ends_a_run_with_a_checkpoint(tmp_path):
    config = of(SMALL, optimiser__steps=100_000)
    result = run(config, tmp_path, minutes=0.02)
    assert result.reason == "time"
    step = result.progress.step
    assert 0 < step < 100_000
    assert read_state(checkpoints_in(tmp_path)[-1]).progress.step == step
    assert run(config, tmp_path, minutes=0.0).progress.step == step + 1


def test_rejects_changed_settings_and_names_them(tmp_path):
    run(of(SMALL, optimiser__steps=2), tmp_path)
    changed = of(SMALL, optimiser__steps=4, optimiser__learning_rate=0.5, conditioning__dropout=0.2)
    with pytest.raises(InputError) as caught:
        run(changed, tmp_path)
    message = str(caught.value)
    assert "optimiser.steps: 2 -> 4" in message
    assert "optimiser.learning_rate: 0.002 -> 0.5" in message
    assert "conditioning.dropout: 0.1 -> 0.2" in message
    assert "batch" not in message and "--accept-changes" in message
    assert len(checkpoints_in(tmp_path)) == 1
    result = run(changed, tmp_path, accept_changes=True)
    assert result.reason == "finished"
    notes = read_state(checkpoints_in(tmp_path)[-1]).notes
    assert "from step 2 on: optimiser.learning_rate: 0.002 -> 0.5" in notes


def test_settings_without_effect_on_the_result_may_change(tmp_path):
    run(of(SMALL, optimiser__steps=2), tmp_path)
    config = of(
        SMALL,
        optimiser__steps=2,
        run__log_steps=3,
        optimiser__micro_batch_size=1,
        data__prefetch_batches=0,
    )
    assert run(config, tmp_path).reason == "finished"


def test_rejects_another_network(tmp_path):
    run(of(SMALL, optimiser__steps=1), tmp_path)
    other = of(SMALL, optimiser__steps=2, network__encoder_channels=16)
    with pytest.raises(InputError, match=r"another network: 'encoder"):
        run(other, tmp_path, accept_changes=True)


def test_names_a_damaged_checkpoint_and_resumes_from_the_previous(tmp_path, uninterrupted):
    config = of(SMALL, run__checkpoint_steps=2)
    run(config, tmp_path / "b")
    newest = checkpoints_in(tmp_path / "b")[-1]
    content = (newest / "weights.safetensors").read_bytes()
    (newest / "weights.safetensors").write_bytes(content[:1000])
    with pytest.raises(InputError, match=r"step-00000006/weights\.safetensors cannot be read"):
        run(config, tmp_path / "b")
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert_equal(state(run(config, tmp_path / "b")), uninterrupted)


def test_gradient_accumulation_gives_nearly_the_same_step(tmp_path):
    config = of(SMALL, optimiser__batch_size=4, optimiser__micro_batch_size=4)
    full = state(run(config, tmp_path / "full"))
    config = of(config, optimiser__micro_batch_size=3)
    accumulated = state(run(config, tmp_path / "accumulated"))
    for name, value in full.items():
        torch.testing.assert_close(accumulated[name], value, rtol=2e-3, atol=2e-4, msg=name)


def test_optimiser_tensors_are_named_after_their_weights(tmp_path):
    run(of(SMALL, optimiser__steps=1), tmp_path)
    tensors = read_tensors(checkpoints_in(tmp_path)[-1] / "optimiser.safetensors")
    weights = read_tensors(checkpoints_in(tmp_path)[-1] / "weights.safetensors")
    assert tensors["exp_avg.unet.out.2.weight"].shape == weights["unet.out.2.weight"].shape
    assert not any("attn2.to_q" in name for name in tensors)
    assert (
        optimiser_tensors(
            torch.nn.Linear(1, 1), torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
        )
        == {}
    )


def test_logs_events_of_a_resumed_run(tmp_path, caplog):
    run(of(SMALL, optimiser__steps=1), tmp_path)
    with caplog.at_level(logging.WARNING):
        run(of(SMALL, optimiser__steps=1), tmp_path)
    assert [line["event"] for line in log_of(tmp_path)] == [
        "started", "train", "checkpoint", "resumed"
    ]  # fmt: skip
    assert caplog.messages == []
