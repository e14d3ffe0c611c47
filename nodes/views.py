"""Nodes that assemble, load, save and render views: images with their cameras."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.conventions import NORMAL_FRAMES
from .common_inputs import image_size_inputs
from .compat import CATEGORY, advanced, mesh_or_file, model_info_inputs, schema
from .folders import (
    check_prefix,
    file_fingerprint,
    list_view_folders,
    validation_result,
    views_path,
    write_new_output,
)
from .runtime import host_errors, node_context, with_warnings
from .sockets import CAMERA_TYPES, VIEWS, SocketBundle

FRAME_TOOLTIP = (
    "Coordinate frame of the normals. world: world axes; camera: the axes of each image's own "
    "camera (OpenGL: a wall that faces the camera is (0, 0, 1), light blue); front_view: the axes "
    "of the first image's camera, for all images."
)


class AssembleViews(io.ComfyNode):
    """Combines image batches and cameras into views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AssembleViews",
            display_name="Assemble Views from Images (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Combines a batch of images with their cameras into views for the fusion: outputs "
                "of any multi-view model, renders, or photographs. Masks are taken from the mask "
                "input, the alpha channel, or a white background."
            ),
            search_aliases=["multiview", "images to views", "sv3d", "wonder3d", "combine normals"],
            inputs=[
                io.Image.Input("images", tooltip="One image per camera, in the same order."),
                io.MultiType.Input(
                    "cameras",
                    types=CAMERA_TYPES,
                    tooltip=(
                        "One camera per image: Orbit Cameras, the camera or camera list of a 3D "
                        "node, or a geometry of Depth Anything 3 (multiview). Rescaled to the size "
                        "of the images."
                    ),
                ),
                io.Image.Input(
                    "normals",
                    optional=True,
                    tooltip=(
                        "Normal maps, 0.5 n + 0.5; they help the fusion recover concavities and "
                        "folds."
                    ),
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip=(
                        "Foreground masks: 1 on the object. Default: the alpha channel, else "
                        "everything that is not white."
                    ),
                ),
                io.Combo.Input(
                    "normal_frame",
                    options=list(NORMAL_FRAMES),
                    default="world",
                    tooltip=FRAME_TOOLTIP,
                ),
                advanced(io.Int.Input(
                    "first_view", default=0, min=-4096, max=4096,
                    tooltip=(
                        "Index of the image that becomes the first view: the fusion keeps its pose "
                        "fixed and gives it the largest weight. SV3D puts its input image last: "
                        "use -1."
                    ),
                )),
                advanced(io.Boolean.Input(
                    "invert_masks",
                    default=False,
                    tooltip=(
                        "Turn on for masks that are 1 on the background, such as those of Load "
                        "Image."
                    ),
                )),
            ],
            outputs=[VIEWS.Output(display_name="views", tooltip="Images with their cameras.")],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(
        cls, images, cameras, normal_frame, first_view, invert_masks, normals=None, masks=None
    ) -> io.NodeOutput:
        from ..nova3d_core.fusion.checks.cameras import warn_about_cameras
        from ..nova3d_core.imaging.assemble import assemble_views
        from .adapters import (
            cameras_from_socket,
            rgb_from_image,
            tensor_from_image,
            tensor_from_mask,
        )

        with node_context() as context:
            images = tensor_from_image(images, "images")
            rig = cameras_from_socket(cameras, images.shape[2], images.shape[1])
            normals = None if normals is None else rgb_from_image(normals, "normals")
            masks = tensor_from_mask(masks, images, "masks")
            if masks is not None and invert_masks:
                masks = 1.0 - masks
            views = assemble_views(images, rig, normals, masks, normal_frame, first_view)
            warn_about_cameras(views, context.progress)
            return io.NodeOutput(SocketBundle(views))


class LoadViews(io.ComfyNode):
    """Loads views from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LoadViews",
            display_name="Load Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Loads a folder of views: a transforms.json (nerfstudio, instant-ngp, Save Views, "
                "the command line), a COLMAP model with its images, or Wonder3D's output. Put the "
                "folder into ComfyUI's input folder, or try the example."
            ),
            search_aliases=[
                "transforms.json",
                "nerf dataset",
                "instant-ngp",
                "nerfstudio",
                "colmap",
                "wonder3d",
            ],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=list_view_folders(),
                    tooltip=(
                        "View folder in ComfyUI's input folder, with a transforms.json, a COLMAP "
                        "model or Wonder3D's images; or a shipped example."
                    ),
                )
            ],
            outputs=[
                VIEWS.Output(display_name="views", tooltip="Images with their cameras."),
                io.Image.Output(
                    display_name="images", tooltip="The images, composited over white."
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip=(
                        "Foreground masks: 1 on the object; estimated where the folder has none."
                    ),
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        return validation_result(views_path, folder)

    @classmethod
    def fingerprint_inputs(cls, folder: str) -> str:
        with host_errors():
            return file_fingerprint(views_path(folder))

    @classmethod
    @with_warnings
    def execute(cls, folder: str) -> io.NodeOutput:
        from ..nova3d_core.fusion.checks.cameras import warn_about_cameras
        from ..nova3d_core.io.views.transforms_json import read_views
        from ..nova3d_core.pipeline.stages import ensure_masks
        from .adapters import image_from_tensor, mask_from_tensor

        with node_context() as context:
            views = ensure_masks(read_views(views_path(folder), context.progress))
            warn_about_cameras(views, context.progress)
            return io.NodeOutput(
                SocketBundle(views), image_from_tensor(views.colour), mask_from_tensor(views.masks)
            )


class SaveViews(io.ComfyNode):
    """Saves views to a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SaveViews",
            display_name="Save Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Saves views to a new folder with a transforms.json that nerfstudio, instant-ngp "
                "and Load Views can read. Nothing is overwritten."
            ),
            search_aliases=["transforms.json", "export dataset", "nerfstudio"],
            is_output_node=True,
            inputs=[
                VIEWS.Input("views", tooltip="Images with their cameras."),
                io.String.Input(
                    "filename_prefix",
                    default="nova3d/views",
                    tooltip="Path prefix inside ComfyUI's output folder; a number is appended.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="folder", tooltip="The new folder, relative to the output folder."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return validation_result(check_prefix, filename_prefix)

    @classmethod
    @with_warnings
    def execute(cls, views, filename_prefix: str) -> io.NodeOutput:
        from ..nova3d_core.io.views.transforms_json import write_views

        with node_context() as context:
            output = write_new_output(
                filename_prefix,
                lambda output: write_views(views.bundle, output.path(), progress=context.progress),
            )
            names = sorted(path.name for path in (output.path() / "images").iterdir())
            entries = [output.ui_entry_inside("images", name) for name in names]
            return io.NodeOutput(output.relative(), ui={"images": entries})


def _render_inputs() -> list[io.Input]:
    return [
        mesh_or_file(
            "mesh",
            tooltip="Mesh, or a 3D file in ComfyUI versions that support them.",
        ),
        io.MultiType.Input(
            "cameras",
            types=CAMERA_TYPES,
            tooltip="Cameras from Orbit Cameras, or the camera or camera list of a 3D node.",
        ),
        *image_size_inputs(256),
        io.Boolean.Input(
            "normalise",
            default=True,
            tooltip=(
                "Centre the mesh and scale its longest side to 1, as Orbit Cameras expects. Turn "
                "off to render a fused mesh in the coordinates of its views. Ignored with the "
                "cameras of 3D nodes, which see the mesh in its own coordinates."
            ),
        ),
        advanced(io.Int.Input(
            "supersample", default=3, min=1, max=8,
            tooltip="Antialiasing: rays per pixel along each axis; 3 means 9 rays per pixel.",
        )),
        advanced(io.Combo.Input(
            "normal_frame",
            options=list(NORMAL_FRAMES),
            default="world",
            tooltip=FRAME_TOOLTIP,
        )),
        *model_info_inputs(),
    ]  # fmt: skip


class RenderViews(io.ComfyNode):
    """Renders views of a mesh."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RenderViews",
            display_name="Render Views of a Mesh (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Renders a mesh from given cameras: unlit colour, normals and masks. For "
                "turntables, test views and ground truth. Runs on the CPU."
            ),
            search_aliases=["turntable", "render mesh", "orbit render", "ground truth"],
            inputs=_render_inputs(),
            outputs=[
                VIEWS.Output(display_name="views", tooltip="The images with their cameras."),
                io.Image.Output(
                    display_name="images",
                    tooltip="Unlit colour on a white background.",
                ),
                io.Image.Output(
                    display_name="normals",
                    tooltip="Normal maps, 0.5 n + 0.5; grey outside the object.",
                ),
                io.Mask.Output(display_name="masks", tooltip="Foreground masks: 1 on the object."),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(
        cls, mesh, cameras, width, height, normalise, supersample, normal_frame, model_3d_info=None
    ) -> io.NodeOutput:
        from ..nova3d_core.rendering.config import RenderConfig
        from ..nova3d_core.rendering.views import render_views
        from .adapters import (
            cameras_from_socket,
            image_from_normals,
            image_from_tensor,
            mask_from_tensor,
            mesh_for_cameras,
            single_mesh_from_socket,
        )

        with node_context() as context:
            rig = cameras_from_socket(cameras, width, height)
            core_mesh = mesh_for_cameras(
                cameras, single_mesh_from_socket(mesh), normalise, model_3d_info
            )
            views = render_views(core_mesh, rig, RenderConfig(supersample), context.progress).views
            views = views.with_normals_in(normal_frame)
            return io.NodeOutput(
                SocketBundle(views),
                image_from_tensor(views.colour),
                image_from_normals(views),
                mask_from_tensor(views.masks),
            )


NODES = [AssembleViews, LoadViews, SaveViews, RenderViews]
