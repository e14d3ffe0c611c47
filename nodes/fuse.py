"""Nodes that fuse views into a surface and refine camera poses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from ..nova3d_core.fusion.config import CONFLICT_MODES, FIELD_KINDS, PRESETS
from ..nova3d_core.pipeline.config import FALLBACKS
from .common_inputs import AUTO, device_input
from .compat import CATEGORY, advanced, camera_info_output, mesh_or_file, schema
from .runtime import NodeContext, node_context, with_warnings
from .sockets import SURFACE, VIEWS, SocketBundle

if TYPE_CHECKING:
    from ..nova3d_core.fusion.config import SdfFusionConfig

GPU_GIB = 5.0
"""GPU memory that ComfyUI frees: the finest level's grid of a cube-shaped object, its rays and
their gradients, with a margin."""


def _preset_input() -> io.Input:
    return io.Combo.Input(
        "preset",
        options=[AUTO, *PRESETS],
        default=AUTO,
        tooltip=(
            "Quality preset. draft: quick preview; fast: for CPUs, under a minute on two cores; "
            "quality: for GPUs; auto: quality on a GPU, fast on a CPU."
        ),
    )


def _seed_input() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**31 - 1,
        tooltip="Random seed of the ray sampling; the same seed reproduces the result on a CPU.",
    )


def _sdf_config(
    context: NodeContext, preset: str, seed: int, steps_scale: float = 1.0, **settings
) -> SdfFusionConfig:
    """The core's config from the node's inputs."""
    from ..nova3d_core.fusion.config import SdfFusionConfig
    from ..nova3d_core.pipeline.stages import scale_steps

    config = SdfFusionConfig(
        preset=context.preset(preset), seed=seed, memory_gib=context.memory_gib, **settings
    )
    return scale_steps(config, steps_scale)


def _fusion_inputs() -> list[io.Input]:
    return [
        VIEWS.Input(
            "views",
            tooltip="Images with their cameras; normals improve the result considerably.",
        ),
        _preset_input(),
        _seed_input(),
        io.Boolean.Input(
            "refine_poses",
            default=True,
            tooltip="Refine the camera poses, except the first; turn off for exact cameras.",
        ),
        io.Combo.Input(
            "conflict",
            options=list(CONFLICT_MODES),
            default="model",
            tooltip=(
                "Handling of contradictions between views. model: learned as a smooth map per "
                "view, best; field: learned by the paper's conflict network, only with the field "
                "hashgrid; robust: robust loss per pixel; off: trust all pixels."
            ),
        ),
        advanced(io.Float.Input(
            "steps_scale", default=1.0, min=0.02, max=10.0, step=0.05,
            tooltip=(
                "Multiplier for the preset's number of steps: 0.5 is twice as fast but coarser."
            ),
        )),
        advanced(io.Combo.Input(
            "field",
            options=list(FIELD_KINDS),
            default="grid",
            tooltip=(
                "Representation of the signed distance field. grid: dense voxel grid, fast; "
                "hashgrid: hash encoding with small MLPs as in the paper, for GPUs."
            ),
        )),
        advanced(io.Combo.Input(
            "fallback",
            options=list(FALLBACKS),
            default="none",
            tooltip="If the fusion fails. hull: return the visual hull; none: raise an error.",
        )),
        device_input(),
        io.Float.Input(
            "normals_weight", default=1.0, min=0.0, max=2.0, step=0.05, optional=True,
            tooltip=(
                "Weight of the normals: 1 for generated ones and for estimates within about 15 "
                "degrees; 0.3 for worse ones; 0: ignore the normals."
            ),
        ),
    ]  # fmt: skip


class DeconflictFusion(io.ComfyNode):
    """Fuses views into a surface."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DeconflictFusion",
            display_name="Fuse Views into a Surface (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Fuses views into a surface, even if their poses are inaccurate and the images "
                "contradict each other: shape, colour, poses and conflict are optimised jointly, "
                "starting from the visual hull. Needs about 8 views or more, with masks or on a "
                "white background; normals improve the result."
            ),
            search_aliases=["views to mesh", "reconstruct", "sdf fusion", "NeuS", "visual hull"],
            inputs=_fusion_inputs(),
            outputs=[
                SURFACE.Output(
                    display_name="surface",
                    tooltip="Fused surface, for Extract Mesh from a Surface.",
                ),
                VIEWS.Output(
                    display_name="refined_views",
                    tooltip="The views with masks and refined cameras, for Bake Texture.",
                ),
                io.Image.Output(
                    display_name="conflict_maps",
                    tooltip=(
                        "Conflict map of each view: white where the image contradicts the others."
                    ),
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Pose correction, conflict and exposure of each view.",
                ),
                camera_info_output(),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls,
        views,
        preset,
        seed,
        refine_poses,
        conflict,
        steps_scale,
        field,
        fallback,
        device,
        normals_weight=1.0,
    ) -> io.NodeOutput:
        from ..nova3d_core.fusion.config import ConflictConfig
        from ..nova3d_core.fusion.losses import LossConfig
        from ..nova3d_core.pipeline.config import FuseConfig
        from ..nova3d_core.pipeline.report import fusion_report
        from ..nova3d_core.pipeline.stages import conflict_images, fuse_to_surface
        from .adapters import image_from_tensor
        from .load3d import viewer_cameras

        with node_context(GPU_GIB, device, fusion_field=field) as context:
            sdf = _sdf_config(
                context,
                preset,
                seed,
                steps_scale,
                field=field,
                refine_poses=refine_poses,
                conflict=ConflictConfig(mode=conflict),
                losses=LossConfig(normal=normals_weight),
            )
            config = FuseConfig(sdf=sdf, fallback=fallback)
            bundle = views.bundle if normals_weight > 0 else views.bundle.without_normals()
            surface, refined = fuse_to_surface(bundle, config, context.progress, context.device)
            return io.NodeOutput(
                SocketBundle(surface),
                SocketBundle(refined),
                image_from_tensor(conflict_images(surface)),
                fusion_report(surface, views.bundle),
                viewer_cameras(refined.cameras),
            )


class RefinePoses(io.ComfyNode):
    """Refines the camera poses of views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RefinePoses",
            display_name="Refine Camera Poses (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Refines the camera pose of each image by a fusion that stops before its finest "
                "level. The first view stays fixed. Fuse Views into a Surface already includes "
                "this step: use this node for views that are exported to a NeRF or Gaussian "
                "splatting trainer."
            ),
            search_aliases=["camera calibration", "pose optimization", "bundle adjustment"],
            inputs=[
                VIEWS.Input("views", tooltip="Images with approximate cameras."),
                _preset_input(),
                _seed_input(),
                device_input(),
                mesh_or_file(
                    "mesh",
                    optional=True,
                    tooltip=(
                        "Mesh of the object in the cameras' world frame, if there is one: the "
                        "node checks first that the views fit it."
                    ),
                ),
            ],
            outputs=[
                VIEWS.Output(
                    display_name="refined_views",
                    tooltip="The views with refined cameras.",
                ),
                io.String.Output(display_name="report", tooltip="Pose correction of each view."),
                camera_info_output(),
            ],
        )

    @classmethod
    @with_warnings
    def execute(cls, views, preset, seed, device, mesh=None) -> io.NodeOutput:
        from ..nova3d_core.pipeline.report import pose_report
        from ..nova3d_core.pipeline.stages import refine_views
        from .adapters import single_mesh_from_socket
        from .load3d import viewer_cameras

        with node_context(GPU_GIB, device, fusion_field="grid") as context:
            config = _sdf_config(context, preset, seed)
            reference = None if mesh is None else single_mesh_from_socket(mesh)
            refined = refine_views(
                views.bundle, config, context.progress, context.device, reference
            )
            report = pose_report(views.bundle.cameras, refined.cameras)
            return io.NodeOutput(SocketBundle(refined), report, viewer_cameras(refined.cameras))


NODES = [DeconflictFusion, RefinePoses]
