"""How the code is laid out: folders depend one way, names mean one thing, imports stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nova3d_core

from .relative_imports import relative_imports

CORE = Path(nova3d_core.__file__).parent
ROOT = CORE.parent
NODES = ROOT / "nodes"

MAX_ROOT_MODULES = 12
"""Besides `__init__` and `__main__`: the vocabulary that all folders share."""
SAME_NAME: dict[str, str] = {}
"""Classes of one name that are defined twice, each with its reason."""
DIALECT = {
    "alike",
    "askew",
    "asked",
    "beside",
    "blots",
    "crumbs",
    "figures",
    "gathered",
    "hollows",
    "lends",
    "painted",
    "painter",
    "paints",
    "picture",
    "pictures",
    "said",
    "says",
    "sheet",
    "sheets",
    "slope",
    "slopes",
    "told",
    "tells",
    "wanted",
    "worth",
}
"""Words for which the field has its own: conditioning, rotation, gradient, image, metrics."""
OPTIONAL = ("warp", "embreex", "xatlas", "diffusers", "fast_simplification", "transformers")
"""Packages without which every module must import; what needs one says so when it runs."""
NEEDS_ITS_PACKAGE = re.compile(r"_kernels$|warp_impl$|unwrap\.worker$")
"""Modules that only the code behind the check for their package imports."""


def modules() -> dict[tuple[str, ...], Path]:
    """Every module of the core by its dotted parts, without the package's own name."""
    found = {}
    for path in CORE.rglob("*.py"):
        parts = path.relative_to(CORE).with_suffix("").parts
        found[parts[:-1] if parts[-1] == "__init__" else parts] = path
    return found


@cache
def imports() -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """(importing module, imported module) of every relative import, also those in functions."""
    known = {path: module for module, path in modules().items()}
    found = []
    for each in relative_imports(CORE):
        target = each.module
        assert target.is_relative_to(CORE), f"{each.importer}:{each.line} leaves the core"
        found.append((known[each.importer], target.relative_to(CORE).parts))
    assert len(found) > 1000
    return tuple(found)


def circle(edges: Mapping[Hashable, set]) -> list:
    """One circle of a graph, as TopologicalSorter finds it; empty if there is none."""
    try:
        tuple(TopologicalSorter(edges).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def graph(name_of) -> dict[Hashable, set]:
    """The imports between what `name_of` maps modules to; None leaves a module out."""
    edges: dict[Hashable, set] = defaultdict(set)
    for importer, imported in imports():
        source, target = name_of(importer), name_of(imported)
        if None not in (source, target) and source != target:
            edges[source].add(target)
    return edges


def test_modules_form_no_circle():
    assert circle(graph(lambda module: module)) == []


def test_rooms_depend_one_way():
    """Rooms are the folders of the core; each module at its root stands for itself."""
    entry = ((), ("__main__",))
    edges = graph(lambda module: None if module in entry else module[0])
    assert len(edges) > 12
    assert circle(edges) == []


def test_folders_inside_a_room_depend_one_way():
    """What lies loose in a folder may import the folders inside it and be imported by them."""

    def folder(module: tuple[str, ...]) -> tuple[str, ...] | None:
        path = CORE.joinpath(*module)
        return module if path.is_dir() else module[:-1]

    def inside(parent: tuple[str, ...]):
        def name_of(module: tuple[str, ...]) -> str | None:
            own = folder(module)
            deeper = own[: len(parent)] == parent and len(own) > len(parent)
            return own[len(parent)] if deeper else None

        return name_of

    parents = {folder(module)[:depth] for module in modules() for depth in (1, 2)}
    for parent in sorted(parents - {()}):
        assert circle(graph(inside(parent))) == [], "/".join(parent)


def test_the_root_holds_only_the_shared_vocabulary():
    names = {path.stem for path in CORE.glob("*.py")} - {"__init__", "__main__"}
    assert len(names) <= MAX_ROOT_MODULES


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted([*CORE.rglob("*.py"), *NODES.rglob("*.py")]):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_no_class_name_is_defined_twice():
    places = defaultdict(list)
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path))
    doubled = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in doubled.items() if name not in SAME_NAME} == {}
    assert set(SAME_NAME) <= set(doubled)


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Names that a module gives to what it defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_identifiers_use_the_words_of_the_field():
    private = set()
    for path, tree in sources():
        for name in identifiers(tree):
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
            if DIALECT & set(words):
                private.add(f"{path}: {name}")
    assert sorted(private) == []


def test_presets_are_written_with_keywords():
    tree = ast.parse((CORE / "fusion" / "config.py").read_text(encoding="utf-8"))
    levels = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "LevelConfig"
    ]
    assert len(levels) > 5
    assert [ast.unparse(call) for call in levels if call.args] == []


MINIMAL = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
for name in sys.argv[2].split(","):
    importlib.import_module(name)
"""


@pytest.mark.slow
def test_every_module_imports_on_a_minimal_install():
    names = [".".join(("nova3d_core", *module)) for module in modules() if module != ("__main__",)]
    names = [name for name in names if not NEEDS_ITS_PACKAGE.search(name)]
    words = [sys.executable, "-c", MINIMAL, ",".join(OPTIONAL), ",".join(names)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
