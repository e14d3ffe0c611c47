"""Closed or full streams, a signal after the work, outputs that overlap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nova3d_core.cli.signals import TerminationSignals

from .conftest import KNIGHT, ROOT, SMALL_RIG, command

TINY = [*SMALL_RIG[:2], "--rig.width-px", "32", "--rig.height-px", "32"]
posix = pytest.mark.skipif(os.name == "nt", reason="closes descriptors in a shell")
full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")


def shell(words: list[str], redirections: str) -> subprocess.CompletedProcess:
    line = ["/bin/sh", "-c", f'"$@" {redirections}', "sh", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, timeout=120, check=False)


@posix
@pytest.mark.parametrize("words", [("--help",), ("fuse", "--help"), ("presets",)])
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_not_an_error(words, closed):
    result = shell(command(*words), closed)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@full_device
def test_wrong_arguments_with_closed_streams_keep_the_exit_code():
    assert shell(command("fuse"), ">&- 2>&-").returncode == 2


@full_device
def test_unwritable_progress_does_not_abort_the_work(tmp_path):
    result = shell(command("render", KNIGHT, "-o", tmp_path / "views", *TINY), "2>/dev/full")
    assert result.returncode == 0
    assert b"8 views" in result.stdout
    assert (tmp_path / "views" / "transforms.json").is_file()


@posix
def test_closed_progress_pipe_does_not_abort_the_work(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    words = command("render", KNIGHT, "-o", tmp_path / "views", *TINY)
    result = subprocess.run(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=writing, timeout=120, check=False
    )
    os.close(writing)
    assert result.returncode == 0
    assert b"8 views" in result.stdout


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_after_the_work_keeps_the_exit_code(name):
    code = (
        "import signal, sys\n"
        f"signal.signal(signal.{name}, signal.default_int_handler if {name!r} == 'SIGINT' "
        "else signal.SIG_DFL)\n"
        "sys.argv = ['nova3d', 'presets']\n"
        "from nova3d_core.cli.main import main\n"
        "code = main()\n"
        f"signal.raise_signal(signal.{name})\n"
        "sys.exit(code)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")


@posix
def test_restores_the_handlers_if_the_process_continues():
    previous = signal.getsignal(signal.SIGTERM)
    with TerminationSignals().handle():
        pass
    assert signal.getsignal(signal.SIGTERM) == previous


@pytest.mark.parametrize(
    "words",
    [
        ("render", KNIGHT, "-o", "v", "--turntable", "v/t.webp"),
        ("render", KNIGHT, "-o", "t.webp", "--turntable", "t.webp"),
        ("fuse", "views", "-o", "d/mesh.glb", "--details", "d"),
        ("fuse", "views", "-o", "mesh.obj", "--details", "mesh.png"),
        ("run", "image.png", "-o", "v/mesh.glb", "--views", "v"),
    ],
)
def test_overlapping_outputs_are_rejected_before_the_work(nova3d, tmp_path, words):
    relative = [word for word in words if word != KNIGHT and ("." in word or word in ("v", "d"))]
    result = nova3d(*(tmp_path / word if word in relative else word for word in words))
    assert result.returncode == 2, result.stderr
    assert "the outputs" in result.stderr
    assert list(tmp_path.iterdir()) == []
