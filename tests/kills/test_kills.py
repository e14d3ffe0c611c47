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

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc")


def run_campaign(folder: Path, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, str(CAMPAIGN), str(folder), *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_few_killed_commands_keep_outputs_and_leave_no_files(tmp_path):
    found = run_campaign(tmp_path, "--kills", 12, "--scenarios", "render", "obj", "--seed", 3)
    assert found["problems"] == []
    assert found["ended_by_the_signal"] >= 6


@pytest.mark.long
def test_200_killed_commands_keep_outputs_and_leave_no_files(tmp_path):
    found = run_campaign(tmp_path, "--kills", 200)
    assert found["problems"] == []
    assert found["ended_by_the_signal"] >= 150
