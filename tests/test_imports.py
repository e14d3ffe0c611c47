"""What importing the core loads: next to nothing, and never ComfyUI."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import nova3d_core

CORE = Path(nova3d_core.__file__).parent
HOST = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "server", "execution"}
SCRIPT = """
import json, sys, time
start = time.perf_counter()
import nova3d_core
seconds = time.perf_counter() - start
import nova3d_core.cli.main
heavy = {"torch", "numpy", "scipy", "trimesh", "skimage", "PIL", "xatlas", "embreex", "diffusers"}
print(json.dumps({"seconds": seconds, "heavy": sorted(heavy & set(sys.modules))}))
"""


def test_import_is_quick_and_loads_nothing_heavy():
    words = [sys.executable, "-c", SCRIPT]
    tries = [
        json.loads(subprocess.run(words, capture_output=True, check=True).stdout) for _ in range(3)
    ]
    assert min(tried["seconds"] for tried in tries) < 0.3
    assert tries[0]["heavy"] == []


def test_public_names_all_exist():
    for name in nova3d_core.__all__:
        assert getattr(nova3d_core, name) is not None


def test_core_never_imports_the_host_and_never_by_its_own_name():
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots = {node.module.split(".")[0]}
            else:
                continue
            assert not roots & (HOST | {"nova3d_core"}), f"{path.name} imports {roots}"


def test_modules_and_functions_stay_short():
    for path in CORE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 400, path.name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.name}: {node.name} has {length} lines"
