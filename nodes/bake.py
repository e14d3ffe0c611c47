"""Textures from views."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, advanced, mesh_or_file, schema
from .runtime import with_warnings, node_context
from .sockets import SURFACE, VIEWS

KEEP_UV = "keep"


def _bake_inputs() -> list[io.Input]:
    return [
        mesh_or_file("mesh", tooltip="A mesh in the world of the views' cameras."),
        VIEWS.Input("views", tooltip="The refined views of Fuse Views, or any others."),
        io.Int.Input(
            "texture_size",
            default=1024,
            min=64,
            max=8192,
            step=64,
            tooltip="Width and height of the texture; 1024 is enough for 16 views of 256.",
        ),
        SURFACE.Input(
            "surface",
            optional=True,
            tooltip=(
                "From the fusion of the same views: its cameras are used, and pixels that "
                "it found in conflict do not count."
            ),
        ),
        advanced(io.Combo.Input(
            "uv",
            options=[KEEP_UV, "xatlas", "box"],
            default=KEEP_UV,
            tooltip=(
                "keep: the mesh's own uv where it has some, else xatlas; xatlas: few "
                "charts; box: simple charts, quickly."
            ),
        )),
        advanced(io.Boolean.Input(
            "exposure",
            default=True,
            tooltip="Undo differences in brightness and tint between the views.",
        )),
        advanced(io.Boolean.Input(
            "consistency",
            default=True,
            tooltip="Let the views vote where they differ, so that faults do not show.",
        )),
        advanced(io.Boolean.Input(
            "sharpen",
            default=True,
            tooltip="Undo the blur of pixels, so that renders are as sharp as the views.",
        )),
    ]  # fmt: skip


class BakeTexture(io.ComfyNode):
    """Views onto a mesh."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BakeTexture",
            display_name="Bake Texture from Views (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Bakes the views' colours into a texture: each texel takes its colour from the "
                "images that see it well and agree about it; what no view has seen is filled "
                "from around. Runs on the CPU."
            ),
            search_aliases=["project texture", "multiview texture", "texture projection", "unwrap"],
            inputs=_bake_inputs(),
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="With uv, texture, smooth normals."),
                io.Image.Output(display_name="texture", tooltip="The base colour texture, sRGB."),
                io.Mask.Output(
                    display_name="coverage", tooltip="1 where views have seen the texel."
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, mesh, views, texture_size, uv, exposure, consistency, sharpen, surface=None
    ) -> io.NodeOutput:
        from ..nova3d_core.pipeline.config import FuseConfig
        from ..nova3d_core.pipeline.stages import bake_views
        from ..nova3d_core.texturing.config import BakeConfig
        from .adapters import image_from_tensor, mask_from_tensor, single_mesh_from_socket
        from .mesh_adapters import batch_from_meshes

        with node_context() as work:
            config = FuseConfig(
                unwrap=_unwrap(uv),
                bake=BakeConfig(
                    texture_size, exposure=exposure, consistency=consistency, sharpen=sharpen
                ),
            )
            known = None if surface is None else surface.bundle
            solid = single_mesh_from_socket(mesh)
            baked = bake_views(solid, views.bundle, config, known, uv == KEEP_UV, work.progress)
            return io.NodeOutput(
                batch_from_meshes([baked.mesh]),
                image_from_tensor(baked.mesh.texture[None]),
                mask_from_tensor(baked.coverage[None]),
            )


def _unwrap(uv: str):
    from ..nova3d_core.meshing.config import UnwrapConfig

    return UnwrapConfig(method="box" if uv == "box" else "xatlas")


NODES = [BakeTexture]
