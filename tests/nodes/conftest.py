"""The pack as ComfyUI loads it, by its path, without ComfyUI: what of it runs on its own."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from ..host.conftest import NO_HOST, pytest_runtest_makereport
from ..host.server import Checkout, checkout_from_environment

__all__ = ["pytest_runtest_makereport"]  # all skips for want of a ComfyUI in one line

ROOT = Path(__file__).resolve().parents[2]
PACK = "nova3d_pack_under_test"


def _loaded(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """A module from a file, a package if it has a folder, as the host's loader makes it."""
    folders = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pack():
    """Imports a module of the pack: `pack("nodes.adapters")`.

    The pack's core is another copy than `nova3d_core`, as it is inside ComfyUI: errors and bundles
    have to be taken from it.
    """
    if PACK not in sys.modules:
        _loaded(PACK, ROOT / "__init__.py", ROOT)
    return lambda name: import_module(f"{PACK}.{name}")


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    """The ComfyUI to test with."""
    found = checkout_from_environment()
    if found is None:
        pytest.skip(NO_HOST)
    return found


@pytest.fixture(scope="session")
def host_types(checkout: Checkout) -> ModuleType:
    """The host's own MESH and File3D, from a ComfyUI that has them."""
    path = checkout.path / "comfy_api" / "latest" / "_util" / "geometry_types.py"
    module = _loaded("comfyui_geometry_types", path) if path.is_file() else ModuleType("none")
    if not hasattr(module, "File3D"):
        pytest.skip("this ComfyUI is older than textured meshes and 3D files")
    return module
