"""NOVA3D for ComfyUI: images of an object with their cameras in, a textured 3D mesh out.

ComfyUI imports this file and asks for the nodes; outside ComfyUI the core is `nova3d_core`.
Nothing heavy is imported here.
"""

from __future__ import annotations

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension that ComfyUI asks for its nodes."""
    from comfy_api.v0_0_2 import ComfyExtension

    from .nodes import node_classes

    class Nova3DExtension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return node_classes()

    return Nova3DExtension()
