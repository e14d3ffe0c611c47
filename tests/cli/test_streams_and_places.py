"""Streams that are closed or full, a signal after the work, outputs that would share a place."""

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
posix = pytest.mark.skipif(os.name == "nt", reason="closes descriptors as a shell does")
full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")


def shell(words: list[str], redirections: str) -> subprocess.CompletedProcess:
    line = ["/bin/sh", "-c", f'"$@" {redirections}', "sh", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, timeout=120, check=False)


@posix
@pytest.mark.parametrize("words", [("--help",), ("fuse", "--help"), ("presets",)])
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_help_with_closed_streams_is_no_error(words, closed):
    done = shell(command(*words), closed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@full_device
def test_a_mistake_with_closed_streams_keeps_its_exit_code():
    assert shell(command("fuse"), ">&- 2>&-").returncode == 2


@full_device
def test_progress_that_cannot_be_written_ends_no_work(tmp_path):
    done = shell(command("render", KNIGHT, "-o", tmp_path / "views", *TINY), "2>/dev/full")
    assert done.returncode == 0
    assert b"8 views" in done.stdout
    assert (tmp_path / "views" / "transforms.json").is_file()


@posix
def test_progress_whose_reader_went_away_ends_no_work(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    words = command("render", KNIGHT, "-o", tmp_path / "views", *TINY)
    done = subprocess.run(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=writing, timeout=120, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert b"8 views" in done.stdout


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_after_the_work_keeps_the_exit_code_of_the_work(name):
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
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@posix
def test_a_block_that_does_not_end_the_process_restores_the_handlers():
    before = signal.getsignal(signal.SIGTERM)
    with TerminationSignals().handled():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


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
def test_outputs_that_share_a_place_are_refused_before_the_work(nova3d, tmp_path, words):
    in_place = [
        tmp_path / word if "." in str(word) or word in ("v", "d") else word for word in words
    ]
    in_place = [
        KNIGHT if word == KNIGHT else place for word, place in zip(words, in_place, strict=True)
    ]
    done = nova3d(*in_place)
    assert done.returncode == 2, done.stderr
    assert "are both written" in done.stderr
    assert list(tmp_path.iterdir()) == []
