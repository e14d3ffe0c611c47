"""Loads the pack by its path, as ComfyUI does, for tests that need no ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from ..host.conftest import NO_HOST, pytest_runtest_makereport
from ..host.server import Checkout, checkout_from_environment

__all__ = ["pytest_runtest_makereport"]  # groups the skips of tests that need ComfyUI

ROOT = Path(__file__).resolve().parents[2]
PACK = "nova3d_pack_under_test"


def _load_module(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """Imports a file as a module, or as a package if a folder is given, as ComfyUI does."""
    search_locations = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=search_locations
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pack():
    """Imports a module of the pack: `pack("nodes.adapters")`.

    As inside ComfyUI, the pack has its own copy of the core, distinct from `nova3d_core`: use its
    error and bundle classes.
    """
    if PACK not in sys.modules:
        _load_module(PACK, ROOT / "__init__.py", ROOT)
    return lambda name: import_module(f"{PACK}.{name}")


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    """The ComfyUI checkout under test."""
    checkout = checkout_from_environment()
    if checkout is None:
        pytest.skip(NO_HOST)
    return checkout


@pytest.fixture(scope="session")
def host_types(checkout: Checkout) -> ModuleType:
    """ComfyUI's module with MESH and File3D."""
    path = checkout.path / "comfy_api" / "latest" / "_util" / "geometry_types.py"
    module = _load_module("comfyui_geometry_types", path) if path.is_file() else ModuleType("none")
    if not hasattr(module, "File3D"):
        pytest.skip("this ComfyUI is older than textured meshes and 3D files")
    return module
