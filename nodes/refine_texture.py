"""Node that refines the texture of a mesh by views."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.texturing.config import TEXTURE_LOSSES, RefineConfig
from .compat import CATEGORY, mesh_or_file, schema
from .runtime import node_context, with_warnings
from .sockets import VIEWS


class RefineTexture(io.ComfyNode):
    """Optimises the texture of a mesh by the views that it was baked from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RefineTexture",
            display_name="Refine Texture (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Makes a baked texture sharper where the views contradict each other by some "
                "pixels, as generated ones do: each view is moved smoothly onto the renders of "
                "the texture, the texture is baked again, and then optimised. The geometry does "
                "not change, and texels that no view sees clearly stay as they are."
            ),
            search_aliases=["refine texture", "texture optimisation", "sharpen texture"],
            inputs=[
                mesh_or_file(
                    "mesh",
                    tooltip="Mesh with a texture, from Bake Texture from Views.",
                ),
                VIEWS.Input("views", tooltip="The views that the texture was baked from."),
                io.Int.Input(
                    "steps", default=RefineConfig().steps, min=0, max=10_000,
                    tooltip=(
                        "Optimisation steps of one view each. 0: only move the views and bake "
                        "again."
                    ),
                ),
                io.Combo.Input(
                    "perceptual",
                    options=list(TEXTURE_LOSSES),
                    default="aligned",
                    tooltip=(
                        "Handling of views that contradict each other. aligned: move them by some "
                        "pixels; views that agree stay as they are; lpips: also compare features "
                        "of VGG16 or AlexNet, whose file must be in models/nova3d; none: only "
                        "compare pixels."
                    ),
                ),
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="Mesh with the refined texture."),
                io.Image.Output(display_name="texture", tooltip="Base colour texture, sRGB."),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, mesh, views, steps, perceptual) -> io.NodeOutput:
        from ..nova3d_core.compute.cancellable import run_cancellable
        from ..nova3d_core.texturing.refine import refine_texture
        from .adapters import image_from_tensor, single_mesh_from_socket
        from .mesh_adapters import batch_from_meshes
        from .perceptual import lpips_or_warning

        with node_context() as context:
            lpips = None
            if perceptual == "lpips" and steps:
                lpips = lpips_or_warning(context, "aligned")
                perceptual = "aligned" if lpips is None else perceptual
            config = RefineConfig(steps, perceptual)
            core_mesh = single_mesh_from_socket(mesh)
            refined = run_cancellable(
                lambda progress: refine_texture(
                    core_mesh, views.bundle, config, progress, context.device, lpips
                ),
                context.progress,
                "refining",
            )
            return io.NodeOutput(
                batch_from_meshes([refined.mesh]),
                image_from_tensor(refined.mesh.texture[None]),
            )


NODES = [RefineTexture]
