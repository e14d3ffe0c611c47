"""Nodes that fit Gaussian splats to views, render splats, and export them to files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..nova3d_core.splatting.config import PERCEPTUAL_CHOICES, SPLAT_INITS, SPLAT_PRESETS
from .common_inputs import AUTO, device_input, image_size_inputs
from .compat import (
    CATEGORY,
    advanced,
    has_splat_files,
    mesh_or_file,
    schema,
    splat_file_outputs,
    splat_or_file,
    splat_type,
    splats_output,
)
from .folders import (
    check_prefix,
    new_output_path,
    temporary_path,
    validation_result,
    write_new_output,
)
from .fuse import GPU_GIB as FUSION_GPU_GIB
from .runtime import GIB, node_context, with_warnings
from .sockets import CAMERA_TYPES, VIEWS, SocketBundle

if TYPE_CHECKING:
    from ..nova3d_core.views import Views

FORMATS = ("ply", "splat")
RENDER_GPU_GIB = 1.5
"""GPU memory that ComfyUI frees: five million splats and an image of 1024 px."""


def _fit_inputs() -> list[io.Input]:
    return [
        VIEWS.Input(
            "views",
            tooltip=(
                "Images with their cameras and masks, or on a white background. Normals, if any, "
                "make the splats right from above and below, too."
            ),
        ),
        io.Combo.Input(
            "preset",
            options=[AUTO, *SPLAT_PRESETS],
            default=AUTO,
            tooltip=(
                "Number of splats and steps. fast: 20,000 and 600, for CPUs; quality: 60,000 and "
                "2,000, for GPUs; auto: quality on a GPU, fast on a CPU."
            ),
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=2**31 - 1,
            tooltip=(
                "Random seed of the points and of the order of the views; the same seed "
                "reproduces the splats on a CPU."
            ),
        ),
        io.Combo.Input(
            "perceptual",
            options=list(PERCEPTUAL_CHOICES),
            default="aligned",
            tooltip=(
                "Handling of views that contradict each other, as generated ones do. aligned: "
                "warp such views by some pixels; views that agree stay as they are; lpips: "
                "compare features of VGG16 or AlexNet, whose file must be in models/nova3d; "
                "none: compare pixels."
            ),
        ),
        io.Boolean.Input(
            "match_exposure",
            default=True,
            tooltip="Estimate the brightness and colour cast of each view except the first.",
        ),
        io.Boolean.Input(
            "refine_poses",
            default=False,
            tooltip=(
                "First refine the camera poses, except the first, as Refine Camera Poses does. "
                "For photographs and generated views; not for exact cameras."
            ),
        ),
        advanced(io.Combo.Input(
            "init",
            options=list(SPLAT_INITS),
            default="auto",
            tooltip=(
                "Initial splats, if no mesh is connected. surface: fuse the views into a surface "
                "first, start on it and stay close to it; hull: start on the visual hull; auto: "
                "surface if the views have normals, else hull."
            ),
        )),
        advanced(io.Int.Input(
            "splats", default=0, min=0, max=10_000_000, step=1000,
            tooltip="Number of splats at the start; 0: that of the preset.",
        )),
        advanced(io.Int.Input(
            "steps", default=0, min=0, max=100_000, step=100,
            tooltip="Optimisation steps of one view each; 0: those of the preset.",
        )),
        device_input(),
        mesh_or_file(
            "mesh",
            optional=True,
            tooltip=(
                "Textured mesh of the object in the world of the views, as from Fuse Views into a "
                "Surface and Bake Texture from Views: the splats start on it and stay close to it."
            ),
        ),
    ]  # fmt: skip


class FitSplats(io.ComfyNode):
    """Fits Gaussian splats to views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [
            splats_output(),
            VIEWS.Output(
                display_name="aligned_views",
                tooltip=(
                    "The views as they were fitted: with masks and refined cameras, warped if they "
                    "contradict each other."
                ),
            ),
            io.String.Output(
                display_name="report", tooltip="Number of splats, steps, loss and alignment."
            ),
            *splat_file_outputs("The splats as a .ply file, for Preview Splat and Save Splat."),
        ]
        return schema(
            node_id="FitSplats",
            display_name="Fit Splats (NOVA3D)",
            category=f"{CATEGORY}/splats",
            description=(
                "Fits Gaussian splats to views, without a CUDA compiler: the splats start on a "
                "surface and are optimised until their images equal the views. For "
                "photorealistic rendering from all sides; use Fuse Views into a Surface for a "
                "mesh. The node shows a preview."
            ),
            search_aliases=["gaussian splatting", "3dgs", "splat", "views to splats"],
            inputs=_fit_inputs(),
            outputs=outputs,
        )

    @classmethod
    @with_warnings
    def execute(
        cls,
        views,
        preset,
        seed,
        perceptual,
        match_exposure,
        refine_poses,
        init,
        splats,
        steps,
        device,
        mesh=None,
    ) -> io.NodeOutput:
        from ..nova3d_core.pipeline.stages import ensure_masks
        from ..nova3d_core.splatting.config import SplatFitConfig
        from ..nova3d_core.splatting.fit import fit_splats
        from ..nova3d_core.splatting.report import splat_report
        from .adapters import single_mesh_from_socket
        from .perceptual import lpips_or_warning
        from .splat_adapters import batch_from_splats, file3d_from_splats

        start = None if mesh is None else single_mesh_from_socket(mesh)
        with node_context(_fit_gib(splats, views.bundle), device) as context:
            lpips = lpips_or_warning(context, "aligned") if perceptual == "lpips" else None
            config = SplatFitConfig(
                preset=context.preset(preset),
                count=splats,
                steps=steps,
                init=init,
                perceptual="aligned" if perceptual == "lpips" and lpips is None else perceptual,
                match_exposure=match_exposure,
                refine_poses=refine_poses,
                memory_gib=context.memory_gib,
                seed=seed,
            )
            given = ensure_masks(views.bundle)
            fit = fit_splats(
                given, config, context.progress, context.device, lpips=lpips, mesh=start
            )
            outputs = [
                batch_from_splats([fit.splats]),
                SocketBundle(fit.views),
                splat_report(fit.report),
            ]
            if has_splat_files():
                outputs.append(file3d_from_splats(fit.splats, temporary_path("splats", ".ply")))
            return io.NodeOutput(*outputs)


def _fit_gib(splats: int, views: Views) -> float:
    """GPU memory that ComfyUI frees for a fit, and for a fusion before it, in GiB."""
    from ..nova3d_core.splatting.config import SplatFitConfig
    from ..nova3d_core.splatting.memory import splat_memory_bytes

    count = SplatFitConfig(preset="quality", count=splats).complete().count
    return max(splat_memory_bytes(count, views) / GIB, FUSION_GPU_GIB)


class RenderSplatViews(io.ComfyNode):
    """Renders views of splats."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RenderSplatViews",
            display_name="Render Splat Views (NOVA3D)",
            category=f"{CATEGORY}/splats",
            description=(
                "Renders Gaussian splats from given cameras: colour, opacity and depth. For "
                "turntables, comparisons with the input views, and views for the fusion."
            ),
            search_aliases=["gaussian splatting", "3dgs", "splat", "render splat"],
            inputs=[
                splat_or_file(
                    "splats",
                    tooltip=(
                        "Splats, or a .ply or .splat file in ComfyUI versions that support 3D "
                        "files."
                    ),
                ),
                io.MultiType.Input(
                    "cameras",
                    types=CAMERA_TYPES,
                    tooltip="Cameras from Orbit Cameras, or those of a 3D node.",
                ),
                *image_size_inputs(512),
                device_input(),
            ],
            outputs=[
                VIEWS.Output(display_name="views", tooltip="The images with their cameras."),
                io.Image.Output(display_name="images", tooltip="Colour on a white background."),
                io.Mask.Output(display_name="masks", tooltip="Opacity: 1 where nothing is behind."),
                io.Image.Output(
                    display_name="depth",
                    tooltip=(
                        "Depth maps, white at the nearest and black at the farthest point of all "
                        "images; black in the background."
                    ),
                ),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, splats, cameras, width, height, device) -> io.NodeOutput:
        from ..nova3d_core.splatting.render import depth_images, splat_views_with_depth
        from .adapters import cameras_from_socket, image_from_tensor, mask_from_tensor
        from .splat_adapters import single_splats_from_socket

        with node_context(RENDER_GPU_GIB, device) as context:
            given = single_splats_from_socket(splats).to(context.device)
            rig = cameras_from_socket(cameras, width, height).to(context.device)
            rendered = splat_views_with_depth(given, rig, progress=context.progress)
            views = rendered.views.to("cpu")
            return io.NodeOutput(
                SocketBundle(views),
                image_from_tensor(views.colour),
                mask_from_tensor(views.masks),
                image_from_tensor(depth_images(rendered.depths)),
            )


class ExportSplats(io.ComfyNode):
    """Exports splats to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [
            io.String.Output(
                display_name="path",
                tooltip="Path of the (first) file, relative to the output folder.",
            ),
            *splat_file_outputs("The (first) file, for Preview Splat."),
        ]
        return schema(
            node_id="ExportSplats",
            display_name="Export Splats (NOVA3D)",
            category=f"{CATEGORY}/splats",
            description=(
                "Exports splats to ComfyUI's output folder, as .ply or .splat. For .spz and "
                ".ksplat use ComfyUI's Create 3D File (from Splat). Nothing is overwritten."
            ),
            search_aliases=["gaussian splatting", "3dgs", "splat", "save splat", "save ply"],
            is_output_node=True,
            inputs=[
                splat_type().Input(
                    "splats", tooltip="Splats, or a batch of them, each written to its own file."
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="ply",
                    tooltip=(
                        "ply: exact, read by all viewers and trainers of Gaussian splats; splat: "
                        "half the size, colours, opacities and rotations in 8 bits."
                    ),
                ),
                io.String.Input(
                    "filename_prefix",
                    default="nova3d/splats",
                    tooltip="Path prefix inside ComfyUI's output folder; a number is appended.",
                ),
            ],
            outputs=outputs,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return validation_result(check_prefix, filename_prefix)

    @classmethod
    @with_warnings
    def execute(cls, splats, format, filename_prefix) -> io.NodeOutput:
        from .splat_adapters import splats_from_batch

        with node_context():
            new_output_path(filename_prefix)  # a linked prefix was not validated yet
            suffix = f".{format}"
            written = [_write(each, suffix, filename_prefix) for each in splats_from_batch(splats)]
            outputs: list[Any] = [written[0].relative(suffix)]
            if has_splat_files():
                from comfy_api.v0_0_2 import Types

                outputs.append(Types.File3D(str(written[0].path(suffix)), file_format=format))
            entries = [output.ui_entry(suffix) for output in written]
            return io.NodeOutput(*outputs, ui={"3d": entries})


def _write(splats: Any, suffix: str, prefix: str) -> Any:
    """Writes one file with the axes of viewers; returns its `OutputPath`."""
    from ..nova3d_core.conventions import SPLAT_UP_AXIS
    from ..nova3d_core.io.splats.files import write_splats

    return write_new_output(
        prefix, lambda output: write_splats(splats, output.path(suffix), up_axis=SPLAT_UP_AXIS)
    )


NODES = [FitSplats, RenderSplatViews, ExportSplats]
