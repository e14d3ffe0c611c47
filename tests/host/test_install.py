"""Installing our requirements into ComfyUI's environment changes nothing that was there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .server import PROJECT, Checkout

pytestmark = [pytest.mark.host, pytest.mark.slow]

# what ComfyUI's requirements bring, and what those ask for in turn: name, version, metadata folder
CLOSURE = """
import importlib.metadata as metadata, json, re, sys
from pathlib import Path
from pip._vendor.packaging.requirements import Requirement
lines = [line.split("#")[0].strip() for line in Path(sys.argv[1]).read_text().splitlines()]
left, found = [Requirement(line) for line in lines if line and not line.startswith("-")], {}
while left:
    wish = left.pop()
    name = re.sub(r"[-_.]+", "-", wish.name).lower()
    extras = wish.extras or {""}
    if name in found or (wish.marker and not wish.marker.evaluate({"extra": ""})):
        continue
    try:
        there = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    found[name] = [there.version, str(there._path)]
    for line in there.requires or []:
        asked = Requirement(line)
        if not asked.marker or any(asked.marker.evaluate({"extra": e}) for e in extras):
            asked.marker = None
            left.append(asked)
print(json.dumps(found))
"""


def test_requirements_change_no_package_that_comfyui_has(checkout: Checkout, tmp_path: Path):
    """pip plans our install into an environment that holds ComfyUI's packages and no others.

    Only metadata is laid out there, which is all that pip looks at; nothing is installed.
    """
    asked = _python(checkout, "-c", CLOSURE, checkout.path / "requirements.txt")
    theirs: dict[str, tuple[str, str]] = json.loads(asked.stdout)
    assert {"torch", "numpy", "pillow", "transformers"} <= set(theirs)
    environment = tmp_path / "environment"
    _python(checkout, "-m", "venv", "--without-pip", environment)
    packages = next(environment.rglob("site-packages"))
    for _, folder in theirs.values():
        shutil.copytree(folder, packages / Path(folder).name)

    planned = _planned(checkout, environment, tmp_path / "report.json")

    assert "trimesh" in planned
    changed = {name: (theirs[name][0], planned[name]) for name in set(planned) & set(theirs)}
    assert not changed


def _planned(checkout: Checkout, environment: Path, report: Path) -> dict[str, str]:
    """Versions by name that pip would install there."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    words = ["-m", "pip", "--disable-pip-version-check", "--python", environment / inside]
    words += ["install", "--dry-run", "--quiet", "--report", report]
    done = _python(checkout, *words, "-r", PROJECT / "requirements.txt", check=False)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("pip reaches no package index from here")
    assert done.returncode == 0, done.stderr[-4000:]
    items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {item["name"].lower().replace("_", "-"): item["version"] for item in items}


def _python(
    checkout: Checkout, *words: str | Path, check: bool = True
) -> subprocess.CompletedProcess:
    command = [checkout.python, *words]
    return subprocess.run(command, capture_output=True, text=True, check=check)
