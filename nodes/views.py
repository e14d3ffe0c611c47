"""Views: images with their cameras, from images, from folders, into folders, from meshes."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.conventions import NORMAL_FRAMES
from .compat import CATEGORY, advanced, mesh_or_file, model_info_inputs, schema
from .folders import (
    check_prefix,
    validation_result,
    file_fingerprint,
    list_view_folders,
    views_path,
    write_new_output,
)
from .runtime import host_errors, with_warnings, node_context
from .sockets import CAMERAS, VIEWS, SocketBundle

FRAME_TOOLTIP = (
    "The axes of the normals: world; camera: each image's own (OpenGL: a wall that faces the "
    "camera is (0, 0, 1), light blue); front_view: the first image's camera for all."
)


class AssembleViews(io.ComfyNode):
    """Views from image batches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AssembleViews",
            display_name="Assemble Views from Images (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Puts a batch of images and their cameras together as views, ready for fusion: "
                "images of any multi-view model, of renders or photographs. Masks come from the "
                "mask input, from alpha, or from a white background."
            ),
            search_aliases=["multiview", "images to views", "sv3d", "wonder3d", "combine normals"],
            inputs=[
                io.Image.Input("images", tooltip="One image for each camera, in their order."),
                CAMERAS.Input(
                    "cameras", tooltip="As many cameras as images; they take the images' size."
                ),
                io.Image.Input(
                    "normals",
                    optional=True,
                    tooltip="Normal images, 0.5 n + 0.5; they show the fusion hollows and folds.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="1 on the object; without them alpha, else what is not white.",
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
                        "Which image comes first: the fusion trusts it most and takes its pose "
                        "as exact. SV3D puts its input image last: use -1."
                    ),
                )),
                advanced(io.Boolean.Input(
                    "invert_masks",
                    default=False,
                    tooltip="Turn on for masks that are 1 on the background, as Load Image's are.",
                )),
            ],
            outputs=[VIEWS.Output(display_name="views", tooltip="Images with their cameras.")],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(
        cls, images, cameras, normal_frame, first_view, invert_masks, normals=None, masks=None
    ) -> io.NodeOutput:
        from ..nova3d_core.imaging.assemble import assemble_views
        from .adapters import rgb_from_image, tensor_from_image, tensor_from_mask

        with node_context():
            images = tensor_from_image(images, "images")
            normals = None if normals is None else rgb_from_image(normals, "normals")
            masks = tensor_from_mask(masks, images, "masks")
            if masks is not None and invert_masks:
                masks = 1.0 - masks
            views = assemble_views(images, cameras.bundle, normals, masks, normal_frame, first_view)
            return io.NodeOutput(SocketBundle(views))


class LoadViews(io.ComfyNode):
    """Views from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LoadViews",
            display_name="Load Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Reads a folder of views: a transforms.json (nerfstudio, instant-ngp, Save Views, "
                "the command line), a COLMAP model with its images, or Wonder3D's output. Put it "
                "into ComfyUI's input folder, or try the example."
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
                        "A folder of views inside ComfyUI's input folder: with a transforms.json, "
                        "a COLMAP model or Wonder3D's images; or the example that comes with the "
                        "pack."
                    ),
                )
            ],
            outputs=[
                VIEWS.Output(display_name="views", tooltip="Images with their cameras."),
                io.Image.Output(display_name="images", tooltip="The images on white."),
                io.Mask.Output(
                    display_name="masks", tooltip="1 on the object; mattes where there are none."
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
        from ..nova3d_core.io.views.transforms_json import read_views
        from ..nova3d_core.pipeline.stages import with_masks
        from .adapters import image_from_tensor, mask_from_tensor

        with node_context() as work:
            views = with_masks(read_views(views_path(folder), work.progress))
            return io.NodeOutput(
                SocketBundle(views), image_from_tensor(views.colour), mask_from_tensor(views.masks)
            )


class SaveViews(io.ComfyNode):
    """Views into a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SaveViews",
            display_name="Save Views (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Writes views as a folder with a transforms.json that nerfstudio, instant-ngp and "
                "Load Views read. A new folder each time; nothing is overwritten."
            ),
            search_aliases=["transforms.json", "export dataset", "nerfstudio"],
            is_output_node=True,
            inputs=[
                VIEWS.Input("views", tooltip="Images with their cameras."),
                io.String.Input(
                    "filename_prefix",
                    default="nova3d/views",
                    tooltip="Name inside ComfyUI's output folder; a number is added.",
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

        with node_context() as work:
            place = write_new_output(
                filename_prefix,
                lambda place: write_views(
                    views.bundle, place.folder / place.stem, progress=work.progress
                ),
            )
            names = sorted(path.name for path in (place.folder / place.stem / "images").iterdir())
            shown = [place.inside("images", name) for name in names]
            return io.NodeOutput(place.relative(), ui={"images": shown})


class RenderViews(io.ComfyNode):
    """Views of a mesh."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RenderViews",
            display_name="Render Views of a Mesh (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Takes images of a mesh from given cameras: colour without light, normals, "
                "masks. For turntables, test views and ground truth. Runs on the CPU."
            ),
            search_aliases=["turntable", "render mesh", "orbit render", "ground truth"],
            inputs=[
                mesh_or_file("mesh", tooltip="The mesh, or a 3D file where ComfyUI has such."),
                io.MultiType.Input(
                    "cameras",
                    types=[CAMERAS, io.Load3DCamera],
                    tooltip="Cameras of Orbit Cameras, or the camera of a 3D viewer.",
                ),
                io.Int.Input(
                    "width", default=256, min=16, max=4096, step=8, tooltip="Image width."
                ),
                io.Int.Input(
                    "height", default=256, min=16, max=4096, step=8, tooltip="Image height."
                ),
                io.Boolean.Input(
                    "normalise",
                    default=True,
                    tooltip=(
                        "Centre the mesh and make its longest side 1 first, as Orbit Cameras "
                        "expects. Turn off to see a fused mesh exactly where its views have it. A "
                        "viewer's camera sees the mesh as the viewer shows it, in any case."
                    ),
                ),
                advanced(io.Int.Input(
                    "supersample", default=3, min=1, max=8,
                    tooltip="Rays along each side of a pixel; 3 means 9 rays a pixel.",
                )),
                advanced(io.Combo.Input(
                    "normal_frame",
                    options=list(NORMAL_FRAMES),
                    default="world",
                    tooltip=FRAME_TOOLTIP,
                )),
                *model_info_inputs(),
            ],
            outputs=[
                VIEWS.Output(display_name="views", tooltip="The images with their cameras."),
                io.Image.Output(display_name="images", tooltip="Colour on white."),
                io.Image.Output(
                    display_name="normals", tooltip="0.5 n + 0.5; grey where there is no object."
                ),
                io.Mask.Output(display_name="masks", tooltip="1 on the object."),
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
            image_from_tensor,
            mask_from_tensor,
            image_from_normals,
            single_mesh_from_socket,
            mesh_for_cameras,
        )

        with node_context() as work:
            rig = cameras_from_socket(cameras, width, height)
            solid = mesh_for_cameras(
                cameras, single_mesh_from_socket(mesh), normalise, model_3d_info
            )
            views = render_views(solid, rig, RenderConfig(supersample), work.progress).views
            views = views.with_normals_in(normal_frame)
            return io.NodeOutput(
                SocketBundle(views),
                image_from_tensor(views.colour),
                image_from_normals(views),
                mask_from_tensor(views.masks),
            )


NODES = [AssembleViews, LoadViews, SaveViews, RenderViews]
