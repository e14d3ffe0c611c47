"""Worker processes end with their parent, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ..orphans import living

ROOT = Path(__file__).resolve().parents[2]
BUSY = """
import time
from nova3d_core.training.data.workers import task_runner
from tests.training.test_worker_orphans import busy
if __name__ == "__main__":
    with task_runner(2) as run:
        for _ in run(busy, [0.0, 0.0, 60.0, 60.0]):
            print("answer", flush=True)
"""


def busy(seconds: float) -> float:
    """Keeps a worker busy in Python code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="sigkill"),
        pytest.param(signal.SIGTERM, id="sigterm", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, id="ctrl-c", marks=pytest.mark.slow),
    ],
)
def test_workers_die_with_their_parent(tmp_path, number):
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert [process.stdout.readline() for _ in range(2)] == [b"answer\n"] * 2
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(number)
    process.wait(timeout=30)
    assert living(children) == []
