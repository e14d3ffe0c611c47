"""Killed commands lose no output and leave no partial files and no processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CAMPAIGN = Path(__file__).with_name("campaign.py")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks, and looks processes up in /proc"
)


def campaign(folder: Path, *words: object) -> dict[str, Any]:
    command = [sys.executable, str(CAMPAIGN), str(folder), *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_few_killed_commands_lose_and_leave_no_files(tmp_path):
    found = campaign(tmp_path, "--kills", 12, "--scenarios", "render", "obj", "--seed", 3)
    assert found["wrong"] == []
    assert found["ended_by_the_signal"] >= 6


@pytest.mark.long
def test_two_hundred_killed_commands_lose_and_leave_no_files(tmp_path):
    found = campaign(tmp_path, "--kills", 200)
    assert found["wrong"] == []
    assert found["ended_by_the_signal"] >= 150
