"""Runs the command line as users do: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KNIGHT = ROOT / "nova3d_core" / "assets" / "character_knight.glb"
SMALL_RIG = ["--rig.count", "8", "--rig.width-px", "96", "--rig.height-px", "96"]
SMALL_FUSE = [
    "--method", "hull", "--hull.resolution", "48",
    "--meshing.target-faces", "2000", "--bake.texture-px", "256",
]  # fmt: skip


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "nova3d_core", *(str(word) for word in words)]


@pytest.fixture(scope="session")
def nova3d():
    """Runs a command to its end: `nova3d("fuse", folder, "-o", path)`."""

    def run(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(*words), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.fixture(scope="session")
def knight_views(nova3d, tmp_path_factory) -> Path:
    """A small views folder of the object that ships with the package."""
    folder = tmp_path_factory.mktemp("knight") / "views"
    done = nova3d("render", KNIGHT, "-o", folder, *SMALL_RIG, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["views"] == 8
    return folder
