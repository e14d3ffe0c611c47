"""Installing our requirements changes no package of ComfyUI's environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .server import PROJECT, Checkout

pytestmark = [pytest.mark.host, pytest.mark.slow]

# transitive closure of ComfyUI's requirements: name -> version, metadata folder
CLOSURE = """
import importlib.metadata as metadata, json, re, sys
from pathlib import Path
from pip._vendor.packaging.requirements import Requirement
lines = [line.split("#")[0].strip() for line in Path(sys.argv[1]).read_text().splitlines()]
queue = [Requirement(line) for line in lines if line and not line.startswith("-")]
closure = {}
while queue:
    requirement = queue.pop()
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    extras = requirement.extras or {""}
    marker = requirement.marker
    if name in closure or (marker and not marker.evaluate({"extra": ""})):
        continue
    try:
        installed = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    closure[name] = [installed.version, str(installed._path)]
    for line in installed.requires or []:
        dependency = Requirement(line)
        marker = dependency.marker
        if not marker or any(marker.evaluate({"extra": extra}) for extra in extras):
            dependency.marker = None
            queue.append(dependency)
print(json.dumps(closure))
"""


def test_requirements_change_no_package_that_comfyui_has(checkout: Checkout, tmp_path: Path):
    """Lets pip plan our install into an environment with ComfyUI's packages only.

    The environment contains their metadata, which is all that pip reads; nothing is installed.
    """
    output = _python(checkout, "-c", CLOSURE, checkout.path / "requirements.txt")
    installed: dict[str, tuple[str, str]] = json.loads(output.stdout)
    assert {"torch", "numpy", "pillow", "transformers"} <= set(installed)
    environment = tmp_path / "environment"
    _python(checkout, "-m", "venv", "--without-pip", environment)
    packages = next(environment.rglob("site-packages"))
    for _, folder in installed.values():
        shutil.copytree(folder, packages / Path(folder).name)

    planned = _planned(checkout, environment, tmp_path / "report.json")

    assert "trimesh" in planned
    changed = {name: (installed[name][0], planned[name]) for name in set(planned) & set(installed)}
    assert not changed


def _planned(checkout: Checkout, environment: Path, report: Path) -> dict[str, str]:
    """Name -> version of the packages that pip would install there."""
    executable = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    command = ["-m", "pip", "--disable-pip-version-check", "--python", environment / executable]
    command += ["install", "--dry-run", "--quiet", "--report", report]
    done = _python(checkout, *command, "-r", PROJECT / "requirements.txt", check=False)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("pip cannot reach a package index")
    assert done.returncode == 0, done.stderr[-4000:]
    items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {item["name"].lower().replace("_", "-"): item["version"] for item in items}


def _python(
    checkout: Checkout, *command: str | Path, check: bool = True
) -> subprocess.CompletedProcess:
    command = [checkout.python, *command]
    return subprocess.run(command, capture_output=True, text=True, check=check)
