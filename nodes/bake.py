"""Node that bakes views into a texture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, advanced, mesh_or_file, schema
from .runtime import node_context, with_warnings
from .sockets import SURFACE, VIEWS

if TYPE_CHECKING:
    from ..nova3d_core.meshing.config import UnwrapConfig

KEEP_UV = "keep"


def _bake_inputs() -> list[io.Input]:
    return [
        mesh_or_file("mesh", tooltip="Mesh in the world frame of the views' cameras."),
        VIEWS.Input(
            "views",
            tooltip="Refined views from Fuse Views into a Surface, or any other views.",
        ),
        io.Int.Input(
            "texture_size",
            default=1024,
            min=64,
            max=8192,
            step=64,
            tooltip="Texture width and height in pixels; 1024 suffices for 16 views of 256 px.",
        ),
        SURFACE.Input(
            "surface",
            optional=True,
            tooltip=(
                "Surface fused from the same views: its refined cameras are used, and pixels that "
                "the fusion found in conflict are ignored."
            ),
        ),
        advanced(io.Combo.Input(
            "uv",
            options=[KEEP_UV, "xatlas", "box"],
            default=KEEP_UV,
            tooltip=(
                "UV coordinates. keep: those of the mesh if it has any, else xatlas; xatlas: few "
                "charts, low distortion; box: fast box projection."
            ),
        )),
        advanced(io.Boolean.Input(
            "exposure",
            default=True,
            tooltip="Compensate for differences in exposure and white balance between the views.",
        )),
        advanced(io.Boolean.Input(
            "consistency",
            default=True,
            tooltip="Multi-view consistency: reject colours that the majority of views contradict.",
        )),
        advanced(io.Boolean.Input(
            "sharpen",
            default=True,
            tooltip=(
                "Compensate for the blur of resampling, so that renders are as sharp as the views."
            ),
        )),
        advanced(io.Boolean.Input(
            "keep_texture",
            default=True,
            optional=True,
            tooltip=(
                "Where no view sees the mesh, keep its own texture or vertex colours, if it has "
                "any. Off: inpaint. No effect with edit_masks, which always keep it."
            ),
        )),
        io.Mask.Input(
            "edit_masks",
            optional=True,
            tooltip=(
                "One mask per view, 1 on the pixels to bake: the rest keeps the mesh's own "
                "texture. For a mesh with a texture or vertex colours."
            ),
        ),
    ]  # fmt: skip


class BakeTexture(io.ComfyNode):
    """Bakes views into the texture of a mesh."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BakeTexture",
            display_name="Bake Texture from Views (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Bakes the colours of views into a texture: each texel is blended from the images "
                "that show it clearly and agree on its colour; texels not visible in any view keep "
                "the mesh's own colours, or are inpainted. Runs on the CPU."
            ),
            search_aliases=["project texture", "multiview texture", "texture projection", "unwrap"],
            inputs=_bake_inputs(),
            outputs=[
                io.Mesh.Output(
                    display_name="mesh",
                    tooltip="Mesh with UVs, texture and smooth normals.",
                ),
                io.Image.Output(display_name="texture", tooltip="Base colour texture, sRGB."),
                io.Mask.Output(
                    display_name="coverage", tooltip="1 for texels baked from at least one view."
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, mesh, views, texture_size, uv, exposure, consistency, sharpen,
        surface=None, keep_texture=True, edit_masks=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..nova3d_core.compute.cancellable import run_cancellable
        from ..nova3d_core.pipeline.config import FuseConfig
        from ..nova3d_core.pipeline.stages import bake_views
        from ..nova3d_core.texturing.config import BakeConfig
        from .adapters import (
            edit_masks_from_mask,
            image_from_tensor,
            mask_from_tensor,
            single_mesh_from_socket,
        )
        from .mesh_adapters import batch_from_meshes

        with node_context() as context:
            config = FuseConfig(
                unwrap=_unwrap_config(uv),
                bake=BakeConfig(
                    texture_size, exposure=exposure, consistency=consistency, sharpen=sharpen
                ),
            )
            core_mesh = single_mesh_from_socket(mesh)
            masks = edit_masks_from_mask(edit_masks, views.bundle.colour)
            core_surface = None if surface is None else surface.bundle
            baked = run_cancellable(
                lambda progress: bake_views(
                    core_mesh,
                    views.bundle,
                    config,
                    core_surface,
                    uv == KEEP_UV,
                    progress,
                    keep_colour=keep_texture,
                    edit_masks=masks,
                ),
                context.progress,
                "baking",
            )
            return io.NodeOutput(
                batch_from_meshes([baked.mesh]),
                image_from_tensor(baked.mesh.texture[None]),
                mask_from_tensor(baked.coverage[None]),
            )


def _unwrap_config(uv: str) -> UnwrapConfig:
    from ..nova3d_core.meshing.config import UnwrapConfig

    return UnwrapConfig(method="box" if uv == "box" else "xatlas")


NODES = [BakeTexture]
