"""benchmarks/gpu.py: its error without a GPU, and a complete run on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nova3d_core.compute.devices import available_devices

ROOT = Path(__file__).resolve().parents[2]


def run(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", *words]
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cdua", "meta"])
def test_missing_device_is_one_line_and_exit_code_2(device, tmp_path):
    result = run("--device", device, "-o", tmp_path)
    assert result.returncode == 2
    assert result.stdout == "" and list(tmp_path.iterdir()) == []
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and f"device '{device}' cannot be used" in lines[0]
    assert f"Available devices: {', '.join(available_devices())}." in lines[0]


@pytest.mark.slow
def test_runs_all_checks_and_timings_on_the_cpu(tmp_path):
    pytest.importorskip("warp")
    result = run("--device", "cpu", "--quick", "-o", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["details"]
    assert len(report["checks"]) == 10
    for check in report["checks"]:
        exact = "float16" not in check["name"]
        assert check["passed"]
        assert (check["difference"] == 0.0) == exact, check["name"]
    fusion, sampling = report["timings"]
    assert {"fusing", "meshing", "unwrapping", "baking"} <= set(fusion["seconds"])
    assert all(
        seconds > 0 for seconds in (*fusion["seconds"].values(), *sampling["seconds"].values())
    )
    assert all(peak > 0 for peak in fusion["peak_mib"].values())
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "| grid: ray gradients | 0 | 0.001 of the maximum | passed |" in page
