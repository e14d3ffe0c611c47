"""Nodes that give normals to views: from images, or estimated from the colours."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.conventions import NORMAL_FRAMES
from ..nova3d_core.normals.config import NORMAL_FLIPS
from .compat import CATEGORY, schema
from .runtime import node_context, with_warnings
from .sockets import VIEWS, SocketBundle
from .views import FRAME_TOOLTIP


class AddNormals(io.ComfyNode):
    """Adds normal maps to views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AddNormals",
            display_name="Add Normals to Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Adds normal maps to views that have colours only, such as those of SV3D and V3D: "
                "from ComfyUI's MoGe nodes or any other normal estimator. Checks them against the "
                "silhouettes and names a wrong frame or a flipped channel. Images, masks and "
                "cameras are unchanged."
            ),
            search_aliases=["normal map", "moge", "lotus", "marigold", "normals to views"],
            inputs=[
                VIEWS.Input(
                    "views", tooltip="Views with masks; normals that they have are replaced."
                ),
                io.Image.Input(
                    "normals",
                    tooltip=(
                        "One normal map per view, 0.5 n + 0.5, estimated from the views' own "
                        "images in the same order. Resized to the views; ignored outside the masks."
                    ),
                ),
                io.Combo.Input(
                    "normal_frame",
                    options=list(NORMAL_FRAMES),
                    default="camera",
                    tooltip=f"{FRAME_TOOLTIP} Most estimators: camera.",
                ),
                io.Combo.Input(
                    "flip",
                    options=list(NORMAL_FLIPS),
                    default="none",
                    tooltip=(
                        "Channels to invert. none: MoGe (normal_opengl), Marigold; red: Lotus, "
                        "DSINE; green: DirectX normal maps."
                    ),
                ),
            ],
            outputs=[VIEWS.Output(display_name="views", tooltip="The views with normals.")],
        )

    @classmethod
    @with_warnings
    def execute(cls, views, normals, normal_frame, flip) -> io.NodeOutput:
        from ..nova3d_core.normals.add import add_normals
        from .adapters import rgb_from_image

        with node_context():
            images = rgb_from_image(normals, "normals")
            return io.NodeOutput(
                SocketBundle(add_normals(views.bundle, images, normal_frame, flip))
            )


NODES = [AddNormals]
