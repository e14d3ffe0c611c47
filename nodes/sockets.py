"""Custom socket types of the pack. Each carries a `SocketBundle` with a core bundle or a model.

IMAGE, MASK, MESH, FILE_3D and LOAD3D_CAMERA are ComfyUI's own types.
"""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .socket_bundle import SocketBundle

__all__ = ["CAMERAS", "CAMERA_TYPES", "MODEL", "SURFACE", "VIEWS", "SocketBundle"]

CAMERAS = io.Custom("NOVA3D_CAMERAS")
VIEWS = io.Custom("NOVA3D_VIEWS")
SURFACE = io.Custom("NOVA3D_SURFACE")
MODEL = io.Custom("NOVA3D_MODEL")
CAMERA_TYPES = [CAMERAS, io.Load3DCamera, io.Custom("DA3_GEOMETRY")]
"""Socket types that hold cameras; `adapters.cameras_from_socket` reads all of them."""
