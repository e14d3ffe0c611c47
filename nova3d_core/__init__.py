"""NOVA3D's core: views in, textured mesh out, without ComfyUI.

Names are imported on first use, so that `import nova3d_core` costs nothing: torch, trimesh and the
other heavy packages load only when something needs them.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOME_OF = {
    "Cameras": "cameras.cameras",
    "orbit_cameras": "cameras.cameras",
    "RigConfig": "cameras.rigs",
    "Views": "views",
    "Mesh": "mesh",
    "Progress": "progress",
    "Nova3DError": "errors",
    "InputError": "errors",
    "Cancelled": "errors",
    "read_views": "io.views.transforms_json",
    "write_views": "io.views.transforms_json",
    "read_mesh": "io.mesh.read",
    "write_glb": "io.mesh.write",
    "render_views": "rendering.views",
    "load_model": "weights.load",
    "sample_views": "diffusion.sampling.pipeline",
    "fuse_views": "pipeline.fuse",
    "evaluate_mesh": "evaluation.protocol",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
