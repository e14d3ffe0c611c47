"""Counts what a step of each stage asks of a GPU, without one: kernel launches and round trips.

    python dev.py bench launches

A pretend device (tests/devices/pretend_device.py) computes on the CPU and counts; the table goes to
docs/results/devices.md. With `--before COMMIT` an older commit is counted by the same script, for
the table's columns on the left; without it they are kept as they are in devices.json.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from measure import machine

from nova3d_core.io.files.atomic import atomic_file

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = ("cameras", "fusion", "fusion_hashgrid", "fusion_in_torch", "sampling")
KINDS = ("launches", "syncs", "uploads")
TARGETS = {
    "fusion step": {"launches": 200, "syncs": 1},
    "new Cameras": {"syncs": 1},
    "fusion step, hash grid": {"syncs": 20},
    "denoising step": {"syncs": 1},
}
"""At most; a name that goes on after a comma has its own."""

Table = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class LaunchBenchmark:
    """Counts launches, synchronisations and uploads."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = ROOT / "docs" / "results"
    """The folder of devices.md and devices.json."""
    before: str = ""
    """A commit of this repository to count, too."""
    workloads: tuple[str, ...] = WORKLOADS
    """What to count."""


def main(settings: LaunchBenchmark) -> int:
    kept = settings.output / "devices.json"
    old = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    before, commit = old.get("before", {}), old.get("before_commit", "")
    now = {**old.get("now", {}), **count(ROOT, settings.workloads)}
    if settings.before:
        with tempfile.TemporaryDirectory() as place:
            commit = check_out(settings.before, Path(place))
            before = {**before, **count(Path(place), settings.workloads)}
    document = {"machine": machine(), "before_commit": commit, "before": before, "now": now}
    settings.output.mkdir(parents=True, exist_ok=True)
    text = page(now, before, commit)
    with atomic_file(kept, overwrite=True) as path:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    with atomic_file(settings.output / "devices.md", overwrite=True) as path:
        path.write_text(text, encoding="utf-8")
    print(text)
    return 1 if missed(now) else 0


def check_out(commit: str, folder: Path) -> str:
    """Writes the files of a commit into a folder; gives its short name."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder)
    words = ["git", "rev-parse", "--short", commit]
    return subprocess.run(
        words, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def count(checkout: Path, workloads: tuple[str, ...]) -> Table:
    """Counts of a checkout's core, each workload in a process of its own.

    The scripts that count are always this checkout's; the core is the other's, whose folder comes
    first on the import path.
    """
    table: Table = {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in workloads:
        words = [sys.executable, "-m", "tests.devices.counts", name]
        done = subprocess.run(
            words, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"counting {name} failed:\n{done.stderr[-2000:]}")
        table.update(json.loads(done.stdout.strip().splitlines()[-1]))
    return table


def targets_of(name: str) -> dict[str, int]:
    """The most that a step may ask for."""
    return TARGETS.get(name) or (TARGETS["denoising step"] if name.startswith("denoising") else {})


def missed(table: Table) -> list[str]:
    """Names with a count beyond its target."""
    return [
        name
        for name, figures in table.items()
        if any(figures[kind] > most for kind, most in targets_of(name).items())
    ]


def page(now: Table, before: Table, commit: str) -> str:
    """The page, in Markdown."""
    rows = [
        ["per call", *(f"{kind} before" for kind in KINDS), *KINDS, "at most"],
        ["---", *["---:"] * 6, "---"],
    ]
    for name, figures in now.items():
        earlier = before.get(name, {})
        cells = [_number(earlier.get(kind)) for kind in KINDS]
        cells += [_number(figures[kind]) for kind in KINDS]
        most = ", ".join(f"{most} {kind}" for kind, most in targets_of(name).items())
        rows.append([name, *cells, most or "-"])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"""# What a GPU is asked to do

Written by `python dev.py bench launches`. Nothing here ran on a GPU: a pretend device computes on
the CPU, raises where CUDA would, and counts. `launches` are operations that start a kernel, so
views and allocations are left out; a composite operation counts once. `syncs` are times that the
host waits for the device, `uploads` copies to it. Figures are means per call on the sixteen shipped
views of 256 pixels, with pose gradients and the conflict model on; denoising steps are those of
small networks of each kind, with guidance. "before" is commit {commit or "-"}, counted by the same
script.

{table}
"""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}".removesuffix(".0")


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(LaunchBenchmark, description=__doc__)))
