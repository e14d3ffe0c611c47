"""Runs the command line, in this process or in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nova3d_core.cli.main import main
from nova3d_core.fusion import config as fusion_config
from nova3d_core.fusion.config import LevelConfig
from nova3d_core.rendering.turntable import TURNTABLE_RIG

ROOT = Path(__file__).resolve().parents[2]
KNIGHT = ROOT / "nova3d_core" / "assets" / "character_knight.glb"
SMALL_RIG = ["--rig.count", "8", "--rig.width-px", "96", "--rig.height-px", "96"]
SMALL_FUSE = [
    "--method", "hull", "--hull.resolution", "48",
    "--meshing.target-faces", "2000", "--bake.texture-px", "256",
]  # fmt: skip


def command(*words: object) -> list[str]:
    """The argument list of a process: `command("fuse", folder, "-o", path)`."""
    return [sys.executable, "-m", "nova3d_core", *(str(word) for word in words)]


@pytest.fixture(scope="session")
def nova3d():
    """Runs a command in this process and captures it like a process of its own.

    `nova3d("fuse", folder, "-o", path)` returns its exit code, stdout and stderr. Importing torch
    takes seconds in each new process, so only tests of processes start one, see `command`.
    """

    def run(*words: object) -> subprocess.CompletedProcess:
        arguments = [str(word) for word in words]
        with _fresh_process_state(), _captured_streams() as streams:
            try:
                code = main(arguments)
            except SystemExit as error:
                code = error.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *streams)

    return run


@contextlib.contextmanager
def _captured_streams() -> Iterator[list[str]]:
    """Redirects descriptors 1 and 2, with `sys.stdout` and `sys.stderr`; fills in their text."""
    texts: list[str] = []
    with contextlib.ExitStack() as stack:
        files = []
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            getattr(sys, name).flush()
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            stack.callback(setattr, sys, name, getattr(sys, name))
            file = stack.enter_context(tempfile.TemporaryFile())
            os.dup2(file.fileno(), descriptor)
            binary = os.fdopen(descriptor, "wb", closefd=False)
            setattr(sys, name, io.TextIOWrapper(binary, encoding="utf-8"))
            files.append(file)
        try:
            yield texts
        finally:
            for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
                stream.flush()
                file.seek(0)
                texts.append(file.read().decode())


@contextlib.contextmanager
def _fresh_process_state() -> Iterator[None]:
    """Logging without the handlers of pytest; restores them, environment and folder afterwards."""
    root = logging.getLogger()
    handlers, level, environment = root.handlers[:], root.level, dict(os.environ)
    folder, raise_exceptions = Path.cwd(), logging.raiseExceptions
    root.handlers[:] = []
    os.chdir(ROOT)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raise_exceptions
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture
def small_turntable(monkeypatch):
    """Turntables of small frames, which take a tenth of the time."""
    rig = replace(TURNTABLE_RIG, width_px=64, height_px=64)
    for package in ("rendering", "splatting"):
        monkeypatch.setattr(f"nova3d_core.{package}.turntable.TURNTABLE_RIG", rig)


@pytest.fixture
def short_draft(monkeypatch):
    """The preset draft with one level of 8 steps."""
    levels = (LevelConfig(resolution=32, steps=8, ray_fraction=0.2),)
    monkeypatch.setitem(fusion_config._LEVELS, "draft", levels)


@pytest.fixture(scope="session")
def knight_views(nova3d, tmp_path_factory) -> Path:
    """A small views folder of the object that ships with the package."""
    folder = tmp_path_factory.mktemp("knight") / "views"
    result = nova3d("render", KNIGHT, "-o", folder, *SMALL_RIG, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["views"] == 8
    return folder
