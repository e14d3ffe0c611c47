"""The pack's own sockets; through each travels a `Parcel` with a bundle of the core, or a model.

IMAGE, MASK, MESH, FILE_3D and LOAD3D_CAMERA are the host's own.
"""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .socket_bundle import Parcel

__all__ = ["CAMERAS", "MODEL", "SURFACE", "VIEWS", "Parcel"]

CAMERAS = io.Custom("NOVA3D_CAMERAS")
VIEWS = io.Custom("NOVA3D_VIEWS")
SURFACE = io.Custom("NOVA3D_SURFACE")
MODEL = io.Custom("NOVA3D_MODEL")
