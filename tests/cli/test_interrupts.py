"""Ctrl-C in each stage: exit code 130, one line, no incomplete files, no running worker."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest

from .conftest import KNIGHT, ROOT, SMALL_FUSE, SMALL_RIG, command

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to one process")

STOPPED = (130, -signal.SIGINT)
"""Our own exit code, or Python's if the signal arrives during an import; shells show 130."""
SLOW_STAGES = {
    "reading views": [],
    "carving": ["--hull.resolution", "200"],
    "meshing": ["--hull.resolution", "160"],
    "unwrapping": ["--hull.resolution", "112", "--meshing.target-faces", "30000"],
    "baking": [*SMALL_FUSE, "--bake.texture-px", "2048"],
}
"""Options of `fuse` that make a stage take long, and those before it not."""


def interrupt_at(
    stage: str, words: list[str], number: int = signal.SIGINT
) -> tuple[int, str, list[psutil.Process]]:
    """Starts a command and sends a signal when `stage` appears on stderr.

    Returns:
        Exit code, stderr, and the child processes at the time of the signal.
    """
    process = subprocess.Popen(
        command(*words),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # a background process ignores Ctrl-C, which child processes inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.set_blocking(process.stderr.fileno(), False)
    stderr, children, deadline = "", [], time.monotonic() + 120
    while f"{stage}:" not in stderr and process.poll() is None and time.monotonic() < deadline:
        stderr += (process.stderr.read() or b"").decode()
        time.sleep(0.01)
    if process.poll() is None:
        time.sleep(0.15)  # until the stage is running
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
    os.set_blocking(process.stderr.fileno(), True)
    rest = process.communicate(timeout=60)[1]
    return process.returncode, stderr + rest.decode(), children


@pytest.mark.parametrize("stage", list(SLOW_STAGES))
def test_stopping_fuse_in_each_stage_leaves_nothing_behind(knight_views, tmp_path, stage):
    words = [
        "fuse",
        knight_views,
        "-o",
        tmp_path / "mesh.glb",
        "--method",
        "hull",
        *SLOW_STAGES[stage],
    ]
    code, stderr, children = interrupt_at(stage, words)
    assert code in STOPPED, stderr
    assert "stopped: no incomplete files were left behind." in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
    _, alive = psutil.wait_procs(children, timeout=3)
    assert alive == []


@pytest.mark.parametrize("stage", ["rendering", "writing views"])
def test_stopping_render_leaves_nothing_behind(tmp_path, stage):
    rig = [*SMALL_RIG[2:], "--rig.count", "96", "--render.supersample", "4"]
    code, stderr, _ = interrupt_at(stage, ["render", KNIGHT, "-o", tmp_path / "views", *rig])
    assert code in STOPPED, stderr
    assert list(tmp_path.iterdir()) == []


def test_stopping_evaluate_leaves_nothing_behind(tmp_path):
    words = ["evaluate", KNIGHT, "--reference", KNIGHT, "-o", tmp_path / "report"]
    code, stderr, _ = interrupt_at("rendering", [*words, "--supersample", "4"])
    assert code in STOPPED, stderr
    assert list(tmp_path.iterdir()) == []
