"""NOVA3D's core library, independent of ComfyUI: generates views and fuses them into meshes.

Public names are imported lazily, so that `import nova3d_core` is fast: torch, trimesh and other
heavy packages are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_MODULE_OF = {
    "Cameras": "cameras.cameras",
    "orbit_cameras": "cameras.cameras",
    "RigConfig": "cameras.rigs",
    "Views": "views",
    "read_image": "io.images.images",
    "read_views": "io.views.transforms_json",
    "write_views": "io.views.transforms_json",
    "Mesh": "mesh",
    "read_mesh": "io.mesh.read",
    "write_mesh": "io.mesh.write",
    "load_model": "weights.load",
    "sample_views": "diffusion.sampling.pipeline",
    "SampleConfig": "diffusion.sampling.config",
    "fuse_views": "pipeline.fuse",
    "FuseConfig": "pipeline.config",
    "SdfFusionConfig": "fusion.config",
    "MeshingConfig": "meshing.config",
    "UnwrapConfig": "meshing.config",
    "BakeConfig": "texturing.config",
    "render_views": "rendering.views",
    "RenderConfig": "rendering.config",
    "evaluate_mesh": "evaluation.protocol",
    "Progress": "progress",
    "Nova3DError": "errors",
    "InputError": "errors",
    "Cancelled": "errors",
}
"""Public names and their modules."""

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
