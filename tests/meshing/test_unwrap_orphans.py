"""The unwrapping worker exits when its parent process dies, and its files are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nova3d_core.io.files.staging import remove_leftovers
from nova3d_core.meshing.unwrap.unwrap import WORKER

from ..orphans import living

ROOT = Path(__file__).resolve().parents[2]
BUSY = """
import sys, tempfile
import numpy as np, torch, trimesh
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.unwrap.unwrap import unwrap
from nova3d_core.meshing.config import UnwrapConfig
tempfile.tempdir = sys.argv[1]
ball = trimesh.creation.icosphere(subdivisions=6, radius=0.4)
rough = 1 + 0.02 * np.random.default_rng(0).normal(size=(len(ball.vertices), 1))
mesh = Mesh(torch.tensor(ball.vertices * rough, dtype=torch.float32), torch.tensor(ball.faces))
unwrap(mesh, UnwrapConfig(faces_per_chunk=10**7))
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")


def wait_for_child(process: subprocess.Popen) -> psutil.Process:
    """The first child of the process, once it has used a second of CPU time: it runs xatlas."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            if child.cpu_times().user > 1.0:
                return child
        time.sleep(0.02)
    pytest.fail("no worker was found")


def test_worker_inside_xatlas_exits_when_its_parent_is_killed(tmp_path):
    pytest.importorskip("xatlas")
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    worker = wait_for_child(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert living([worker]) == []
    assert len(os.listdir(tmp_path)) == 2  # its folder and its lock file
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_watchdog_process_ends_the_work_on_other_systems_than_linux(tmp_path):
    """macOS and Windows: the work is done by a child of a process that watches its stdin."""
    (tmp_path / "worker.py").write_text(
        WORKER.read_text().replace('"linux"', '"no such system"')
        .replace("    return main(*arguments[:2])", "    import time\n    time.sleep(60)")
    )  # fmt: skip
    pytest.importorskip("xatlas")
    command = [sys.executable, tmp_path / "worker.py", "in", "out", str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (found := psutil.Process(process.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) == 1
    process.stdin.close()  # as if the parent had died
    assert living(found) == []
    assert process.wait(timeout=10) != 0
