"""Counts kernel launches, synchronisations and uploads per step of each stage, without a GPU.

    python dev.py bench launches [--before COMMIT]

A pretend device (tests/devices/pretend_device.py) computes on the CPU and counts. Writes
devices.json and devices.md. With `--before COMMIT` the same script also counts an older commit,
for the "before" columns; without it they are kept.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from measure import machine
from results import RESULTS, ResultPage, Table, load_page, markdown_page, save_page

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = ("cameras", "fusion", "fusion_hashgrid", "fusion_in_torch", "sampling", "normals")
KINDS = ("launches", "syncs", "uploads")
TARGETS = {
    "fusion step": {"launches": 200, "syncs": 1},
    "new Cameras": {"syncs": 1},
    "fusion step, hash grid": {"syncs": 20},
    "denoising step": {"syncs": 1},
    "normals of a window": {"syncs": 1},
}
"""Upper limits; names with a network after a comma are matched by what precedes it."""
SUMMARY = (
    "Means per call, counted on an emulated device that computes on the CPU, raises errors where "
    "CUDA would, and counts calls; nothing here ran on a GPU. `launches` are operations that start "
    "a kernel, so views and allocations are excluded; a composite operation counts once. `syncs` "
    "are waits of the host for the device, `uploads` copies to it. Inputs: the 16 shipped views "
    "of 256 px, with pose gradients and the conflict model; denoising steps use small networks "
    "of each kind, with guidance."
)

Counts = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class LaunchBenchmark:
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = RESULTS
    """Folder of devices.md and devices.json."""
    before: str = ""
    """Commit of this repository to count as well."""
    workloads: tuple[str, ...] = WORKLOADS
    """Workloads to count."""


def main(settings: LaunchBenchmark) -> int:
    path = settings.output / "devices.json"
    details = dict(load_page(path).details) if path.is_file() else {}
    details["now"] = {**details.get("now", {}), **count(ROOT, settings.workloads)}
    if settings.before:
        with tempfile.TemporaryDirectory() as folder:
            details["before_commit"] = check_out(settings.before, Path(folder))
            before = count(Path(folder), settings.workloads)
            details["before"] = {**details.get("before", {}), **before}
    page = result_page(details)
    save_page(settings.output, "devices", page)
    print(markdown_page(page, "devices.json"))
    return 1 if exceeded(details["now"]) else 0


def check_out(commit: str, folder: Path) -> str:
    """Extracts the files of a commit into a folder; returns its short hash."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder)
    words = ["git", "rev-parse", "--short", commit]
    return subprocess.run(
        words, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def count(checkout: Path, workloads: tuple[str, ...]) -> Counts:
    """Counts of a checkout's core, each workload in its own process.

    The counting scripts are always those of this checkout; the core is the one in `checkout`, whose
    folder comes first on the import path.
    """
    counts: Counts = {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in workloads:
        words = [sys.executable, "-m", "tests.devices.counts", name]
        done = subprocess.run(
            words, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"counting {name} failed:\n{done.stderr[-2000:]}")
        counts.update(json.loads(done.stdout.strip().splitlines()[-1]))
    return counts


def limits_of(name: str) -> dict[str, int]:
    """Upper limits of a step's counts."""
    return TARGETS.get(name) or (
        {} if name.startswith("fusion") else TARGETS.get(name.split(",")[0], {})
    )


def exceeded(counts: Counts) -> list[str]:
    """Names of the steps above a limit."""
    return [
        name
        for name, step in counts.items()
        if any(step[kind] > limit for kind, limit in limits_of(name).items())
    ]


def result_page(details: Mapping[str, Any]) -> ResultPage:
    """The page of counts, next to those of the older commit."""
    before = details.get("before", {})
    columns = [("per call", ""), *((f"{kind} before", ",g") for kind in KINDS)]
    columns += [*((kind, ",g") for kind in KINDS), ("limit", "")]
    rows = []
    for name, step in details["now"].items():
        earlier = before.get(name, {})
        counts = [earlier.get(kind) for kind in KINDS] + [step[kind] for kind in KINDS]
        limit = ", ".join(f"{limit} {kind}" for kind, limit in limits_of(name).items())
        rows.append(
            [name, *(None if value is None else round(value, 1) for value in counts), limit or "-"]
        )
    commit = details.get("before_commit", "-")
    return ResultPage(
        title="Kernel launches and synchronisations",
        summary=f'{SUMMARY} "Before" is commit {commit}, counted by the same script.',
        tables=[Table(columns, rows)],
        command="python dev.py bench launches",
        machine=machine(),
        details=details,
    )


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(LaunchBenchmark, description=__doc__)))
