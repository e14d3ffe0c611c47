"""Nodes that join cameras and views of several sources."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, camera_info_output, growing_inputs, grown_values, schema
from .runtime import node_context, with_warnings
from .sockets import CAMERA_TYPES, CAMERAS, VIEWS, SocketBundle


class JoinCameras(io.ComfyNode):
    """Joins cameras of several sources."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="JoinCameras",
            display_name="Join Cameras (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Joins cameras of several sources into one list, in the order of the inputs: "
                "orbits, cameras of 3D nodes, or poses estimated by Depth Anything 3. All must be "
                "in the same world."
            ),
            search_aliases=["batch cameras", "merge cameras", "camera list", "combine cameras"],
            inputs=growing_inputs(
                "cameras",
                "Cameras to join; their views come in the order of the inputs.",
                lambda name, **settings: io.MultiType.Input(name, types=CAMERA_TYPES, **settings),
            ),
            outputs=[
                CAMERAS.Output(display_name="cameras", tooltip="All cameras, in input order."),
                camera_info_output(),
            ],
        )

    @classmethod
    @with_warnings
    def execute(cls, **inputs) -> io.NodeOutput:
        from ..nova3d_core.cameras.join import join_cameras
        from .adapters import cameras_in_own_size
        from .load3d import viewer_cameras

        with node_context():
            values = grown_values("cameras", inputs)
            joined = join_cameras(
                [cameras_in_own_size(value) for value in values.values()],
                list(values),
            )
            return io.NodeOutput(SocketBundle(joined), viewer_cameras(joined))


class JoinViews(io.ComfyNode):
    """Joins views of several sources."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="JoinViews",
            display_name="Join Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Joins views of several sources into one set for the fusion, such as two orbits at "
                "different elevations, or photographs and generated views. All must show the same "
                "object in the same world. Image sizes and frames of the normals may differ."
            ),
            search_aliases=["merge views", "combine views", "batch views", "add views"],
            inputs=growing_inputs(
                "views",
                "Views to join, in the order of the inputs; the first view of the first input "
                "stays the first, whose pose the fusion keeps fixed.",
                VIEWS.Input,
            ),
            outputs=[VIEWS.Output(display_name="views", tooltip="All views, in input order.")],
        )

    @classmethod
    @with_warnings
    def execute(cls, **inputs) -> io.NodeOutput:
        from ..nova3d_core.imaging.join import join_views

        with node_context():
            values = grown_values("views", inputs)
            joined = join_views([value.bundle for value in values.values()], list(values))
            return io.NodeOutput(SocketBundle(joined))


NODES = [JoinCameras, JoinViews]
