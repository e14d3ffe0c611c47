"""A run stopped and gone on with is the run that was never stopped, bit for bit."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.progress import Progress
from nova3d_core.training.checkpoint import checkpoints_in, named_moments, read_state
from nova3d_core.training.tensor_files import read_tensors

from .parts import SMALL, assert_equal, of, run, state


def stopped_after(steps: int) -> Progress:
    """A progress that cancels when so many steps are done."""
    done = [0]

    def note(event):
        done[0] = event.step if event.stage == "training" else done[0]

    return Progress(note, lambda: done[0] >= steps)


def log_of(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("precision", "method"), [("float32", "adamw"), ("bfloat16", "adamw"), ("float32", "muon")]
)
def test_stopped_and_resumed_equals_unbroken(tmp_path, precision, method):
    config = of(SMALL, precision=precision, optimiser__lr_schedule="cosine", optimiser__name=method)
    unbroken = run(config, tmp_path / "unbroken")
    assert unbroken.reason == "finished"
    reasons = []
    while not reasons or reasons[-1] != "finished":
        done = len(reasons) * 2
        broken = run(config, tmp_path / "broken", progress=stopped_after(done + 1))
        reasons.append(broken.reason)
    assert len(reasons) > 2 and set(reasons[:-1]) == {"cancelled"}
    assert_equal(state(broken), state(unbroken))
    assert broken.ema.updates == unbroken.ema.updates == 6
    files = [
        checkpoints_in(tmp_path / name)[-1] / "optimiser.safetensors"
        for name in ("unbroken", "broken")
    ]
    assert_equal(*(read_tensors(file) for file in files))
    lines = [
        {line["step"]: (line["loss"], line["gradient"]) for line in log if line["event"] == "train"}
        for log in (log_of(tmp_path / "unbroken"), log_of(tmp_path / "broken"))
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 6


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_ends_the_same(tmp_path):
    config = of(SMALL, run__checkpoint_steps=2)
    unbroken = run(config, tmp_path / "unbroken")

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
    assert_equal(state(run(config, tmp_path / "killed")), state(unbroken))


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    first = run(SMALL, tmp_path)
    again = run(SMALL, tmp_path)
    assert again.reason == "finished"
    assert again.place == first.place
    assert_equal(state(again), state(first))


def test_minutes_end_a_run_cleanly(tmp_path):
    config = of(SMALL, optimiser__steps=100_000)
    outcome = run(config, tmp_path, minutes=0.02)
    assert outcome.reason == "time"
    step = outcome.place.step
    assert 0 < step < 100_000
    assert read_state(checkpoints_in(tmp_path)[-1]).place.step == step
    assert run(config, tmp_path, minutes=0.0).place.step == step + 1


def test_changed_settings_are_refused_with_the_difference(tmp_path):
    run(of(SMALL, optimiser__steps=2), tmp_path)
    changed = of(SMALL, optimiser__steps=4, optimiser__learning_rate=0.5, conditioning__dropout=0.2)
    with pytest.raises(InputError) as caught:
        run(changed, tmp_path)
    said = str(caught.value)
    assert "optimiser.steps: 2 -> 4" in said
    assert "optimiser.learning_rate: 0.002 -> 0.5" in said
    assert "conditioning.dropout: 0.1 -> 0.2" in said
    assert "batch" not in said and "--accept-changes" in said
    assert len(checkpoints_in(tmp_path)) == 1
    outcome = run(changed, tmp_path, accept_changes=True)
    assert outcome.reason == "finished"
    notes = read_state(checkpoints_in(tmp_path)[-1]).notes
    assert "from step 2 on: optimiser.learning_rate: 0.002 -> 0.5" in notes


def test_how_a_run_is_watched_may_change(tmp_path):
    run(of(SMALL, optimiser__steps=2), tmp_path)
    config = of(
        SMALL,
        optimiser__steps=2,
        run__log_steps=3,
        optimiser__micro_batch_size=1,
        data__prefetch_batches=0,
    )
    assert run(config, tmp_path).reason == "finished"


def test_another_network_is_refused(tmp_path):
    run(of(SMALL, optimiser__steps=1), tmp_path)
    other = of(SMALL, optimiser__steps=2, network__encoder_channels=16)
    with pytest.raises(InputError, match=r"another network: 'encoder"):
        run(other, tmp_path, accept_changes=True)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_left(tmp_path):
    config = of(SMALL, run__checkpoint_steps=2)
    unbroken = run(config, tmp_path / "a")
    run(config, tmp_path / "b")
    newest = checkpoints_in(tmp_path / "b")[-1]
    whole = (newest / "weights.safetensors").read_bytes()
    (newest / "weights.safetensors").write_bytes(whole[:1000])
    with pytest.raises(InputError, match=r"step-00000006/weights\.safetensors cannot be read"):
        run(config, tmp_path / "b")
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert_equal(state(run(config, tmp_path / "b")), state(unbroken))


def test_accumulated_parts_make_nearly_the_same_step(tmp_path):
    whole = run(
        of(SMALL, optimiser__batch_size=4, optimiser__micro_batch_size=4), tmp_path / "whole"
    )
    parts = run(
        of(SMALL, optimiser__batch_size=4, optimiser__micro_batch_size=3), tmp_path / "parts"
    )
    for name, value in state(whole).items():
        torch.testing.assert_close(state(parts)[name], value, rtol=2e-3, atol=2e-4, msg=name)


def test_the_optimisers_moments_have_their_weights_names(tmp_path):
    run(of(SMALL, optimiser__steps=1), tmp_path)
    held = read_tensors(checkpoints_in(tmp_path)[-1] / "optimiser.safetensors")
    weights = read_tensors(checkpoints_in(tmp_path)[-1] / "weights.safetensors")
    assert held["exp_avg.unet.out.2.weight"].shape == weights["unet.out.2.weight"].shape
    assert not any("attn2.to_q" in name for name in held)
    assert (
        named_moments(torch.nn.Linear(1, 1), torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))
        == {}
    )


def test_a_note_is_logged_where_a_run_goes_on(tmp_path, caplog):
    run(of(SMALL, optimiser__steps=1), tmp_path)
    with caplog.at_level(logging.WARNING):
        run(of(SMALL, optimiser__steps=1), tmp_path)
    assert [line["event"] for line in log_of(tmp_path)] == ["started", "train", "kept", "resumed"]
    assert caplog.messages == []
