"""What importing the core loads: next to nothing, and never ComfyUI."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import nova3d_core

from .relative_imports import relative_imports

CORE = Path(nova3d_core.__file__).parent
ROOT = CORE.parent
NODES = ROOT / "nodes"
WITH_TORCH = {
    "adapters.py",
    "da3_geometry.py",
    "load3d.py",
    "mesh_adapters.py",
    "mesh_material.py",
    "model_management.py",
    "splat_adapters.py",
}
"""Modules of the nodes that a node imports when it runs."""
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


def defined_names(path: Path) -> set[str]:
    """Names that a module binds at its top level, also in branches and `try` blocks."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def test_every_relative_import_finds_its_name():
    """Also imports inside functions, which no other test may reach."""
    checked, missing = 0, []
    for each in [*relative_imports(CORE), *relative_imports(NODES)]:
        checked += 1
        source = each.source
        path = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        found = each.module != source
        if not found and not (path.is_file() and each.name in defined_names(path)):
            missing.append(f"{each.importer.relative_to(ROOT)}:{each.line} {each.name}")
    assert checked > 1000
    assert missing == []


PACK_SCRIPT = """
import importlib.util, json, sys, time
from importlib import import_module
start = time.perf_counter()
spec = importlib.util.spec_from_file_location(
    "pack", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]]
)
sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for name in ("", ".folders", ".socket_bundle", ".runtime"):
    import_module("pack.nodes" + name)
settings = ("cameras.orbits", "pipeline.config", "fusion.config", "evaluation.config")
for name in ("conventions", *settings):
    import_module("pack.nova3d_core." + name)
seconds = time.perf_counter() - start
heavy = {"torch", "numpy", "scipy", "trimesh", "skimage", "PIL", "warp", "diffusers"}
print(json.dumps({"seconds": seconds, "heavy": sorted(heavy & set(sys.modules))}))
"""


def test_the_pack_costs_the_host_next_to_nothing():
    words = [sys.executable, "-c", PACK_SCRIPT, str(ROOT)]
    tries = [
        json.loads(subprocess.run(words, capture_output=True, check=True).stdout) for _ in range(3)
    ]
    assert tries[0]["heavy"] == []
    assert min(tried["seconds"] for tried in tries) < 0.3


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


def test_nodes_load_what_is_heavy_when_they_run_and_the_core_relatively():
    for path in NODES.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots = {node.module.split(".")[0]}
            else:
                continue
            heavy = roots - sys.stdlib_module_names - {"comfy_api"}
            allowed = {"torch"} if path.name in WITH_TORCH else set()
            assert heavy <= allowed, f"nodes/{path.name} imports {heavy} before a node runs"


def test_every_node_module_is_listed_and_lists_its_nodes():
    listed = ast.parse((NODES / "__init__.py").read_text(encoding="utf-8"))
    modules = next(
        ast.literal_eval(node.value)
        for node in listed.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "MODULES"
    )
    for path in NODES.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [
            each.name
            for each in tree.body
            if isinstance(each, ast.ClassDef)
            and any(ast.unparse(base) == "io.ComfyNode" for base in each.bases)
        ]
        assert (path.stem in modules) == bool(nodes), path.name
        if nodes:
            exported = next(
                each
                for each in tree.body
                if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "NODES"
            )
            assert [item.id for item in exported.value.elts] == nodes, path.name


def test_modules_and_functions_stay_short():
    for path in [*CORE.rglob("*.py"), *NODES.rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 500, path.name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 80, f"{path.name}: {node.name} has {length} lines"
