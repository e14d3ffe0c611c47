"""The pack as ComfyUI loads it, by its path, without ComfyUI: what of it runs on its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

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
def host_types() -> ModuleType:
    """The host's own MESH and File3D, from a ComfyUI that has them."""
    given = os.environ.get("COMFYUI_PATH")
    if not given:
        pytest.skip("COMFYUI_PATH is not set: no host's own types here")
    path = Path(given, "comfy_api", "latest", "_util", "geometry_types.py")
    module = _loaded("comfyui_geometry_types", path) if path.is_file() else ModuleType("none")
    if not hasattr(module, "File3D"):
        pytest.skip("this ComfyUI is older than textured meshes and 3D files")
    return module
