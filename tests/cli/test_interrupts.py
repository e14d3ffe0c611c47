"""Ctrl-C in each stage: exit code 130, one line, nothing half-written, no worker left running."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest

from .conftest import KNIGHT, ROOT, SMALL_RIG, command

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")

STOPPED = (130, -signal.SIGINT)
"""Our own code, or Python's where the signal came while a library was being imported; a shell
shows 130 for both."""
SLOW_FUSE = ["--hull.resolution", "200", "--meshing.target-faces", "40000"]


def interrupt_at(
    stage: str, words: list[str], number: int = signal.SIGINT
) -> tuple[int, str, list[psutil.Process]]:
    """Starts a command, signals it when `stage` shows on stderr; what it left behind."""
    process = subprocess.Popen(
        command(*words),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # a test run in the background of a script hands down that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.set_blocking(process.stderr.fileno(), False)
    heard, children, deadline = "", [], time.monotonic() + 120
    while f"{stage}:" not in heard and process.poll() is None and time.monotonic() < deadline:
        heard += (process.stderr.read() or b"").decode()
        time.sleep(0.01)
    if process.poll() is None:
        time.sleep(0.15)  # into the stage
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
    os.set_blocking(process.stderr.fileno(), True)
    rest = process.communicate(timeout=60)[1]
    return process.returncode, heard + rest.decode(), children


@pytest.mark.parametrize("stage", ["reading views", "carving", "meshing", "unwrapping", "baking"])
def test_fuse_stopped_in_each_stage_leaves_nothing(knight_views, tmp_path, stage):
    words = ["fuse", knight_views, "-o", tmp_path / "mesh.glb", *SLOW_FUSE]
    code, said, children = interrupt_at(stage, words)
    assert code in STOPPED, said
    assert "stopped: nothing half-written was left." in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    _, alive = psutil.wait_procs(children, timeout=3)
    assert alive == []


@pytest.mark.parametrize("stage", ["rendering", "writing views"])
def test_render_stopped_leaves_nothing(tmp_path, stage):
    rig = [*SMALL_RIG[2:], "--rig.count", "96", "--render.supersample", "4"]
    code, said, _ = interrupt_at(stage, ["render", KNIGHT, "-o", tmp_path / "views", *rig])
    assert code in STOPPED, said
    assert list(tmp_path.iterdir()) == []


def test_evaluate_stopped_leaves_nothing(tmp_path):
    words = ["evaluate", KNIGHT, "--reference", KNIGHT, "-o", tmp_path / "report"]
    code, said, _ = interrupt_at("rendering", [*words, "--supersample", "4"])
    assert code in STOPPED, said
    assert list(tmp_path.iterdir()) == []
