"""NOVA3D for ComfyUI: reconstructs textured meshes from images of an object and their cameras.

Entry point for ComfyUI, which imports this file as a custom node pack. Outside ComfyUI, use the
package `nova3d_core`. This file imports nothing heavy.
"""

from __future__ import annotations

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Returns the extension with the pack's nodes."""
    from comfy_api.v0_0_2 import ComfyExtension

    from .nodes import node_classes
    from .nodes.example_image import provide_example_image
    from .nodes.replacements import register_replacements

    provide_example_image()
    register_replacements()

    class Nova3DExtension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return node_classes()

    return Nova3DExtension()
