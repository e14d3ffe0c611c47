"""From views to a surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from ..nova3d_core.fusion.config import CONFLICT_MODES, FIELD_KINDS, PRESETS
from ..nova3d_core.pipeline.config import FALLBACKS
from .compat import CATEGORY, advanced, schema
from .runtime import NodeContext, with_warnings, node_context
from .sockets import SURFACE, VIEWS, SocketBundle

if TYPE_CHECKING:
    from ..nova3d_core.fusion.config import SdfFusionConfig

AUTO = "auto"
DEVICES = ("auto", "cpu")
GPU_GIB = 5.0
"""What the host frees: the finest level's grid of an object like a cube, its rays and their
derivatives, with some to spare."""


def _preset_input() -> io.Input:
    return io.Combo.Input(
        "preset",
        options=[AUTO, *PRESETS],
        default=AUTO,
        tooltip=(
            "How far to go: draft to look, fast for CPUs (under a minute on two cores), quality "
            "for GPUs. auto takes quality on a GPU and fast on a CPU."
        ),
    )


def _seed_input() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**31 - 1,
        tooltip="Start of the random choice of rays; the same seed repeats the result on a CPU.",
    )


def _device_input() -> io.Input:
    return advanced(
        io.Combo.Input(
            "device",
            options=list(DEVICES),
            default=AUTO,
            tooltip="auto: the GPU where there is a CUDA one; cpu: leave it alone.",
        )
    )


def _sdf_config(
    work: NodeContext, preset: str, seed: int, steps_scale: float = 1.0, **settings
) -> SdfFusionConfig:
    """The core's settings from what the node holds."""
    from ..nova3d_core.fusion.config import SdfFusionConfig
    from ..nova3d_core.pipeline.stages import scale_steps

    if preset == AUTO:
        preset = "quality" if work.has_gpu else "fast"
    config = SdfFusionConfig(preset=preset, seed=seed, memory_gib=work.memory_gib, **settings)
    return scale_steps(config, steps_scale)


def _fusion_inputs() -> list[io.Input]:
    return [
        VIEWS.Input("views", tooltip="Images with their cameras; normals help greatly."),
        _preset_input(),
        _seed_input(),
        io.Boolean.Input(
            "refine_poses",
            default=True,
            tooltip="Let the cameras move, except the first; turn off for exact ones.",
        ),
        io.Combo.Input(
            "conflict",
            options=list(CONFLICT_MODES),
            default="model",
            tooltip=(
                "Where views contradict each other: model learns it (best), robust "
                "judges each pixel by itself, off believes all."
            ),
        ),
        advanced(io.Float.Input(
            "steps_scale", default=1.0, min=0.02, max=10.0, step=0.05,
            tooltip="Multiplies the preset's steps: 0.5 is twice as quick and rougher.",
        )),
        advanced(io.Combo.Input(
            "field",
            options=list(FIELD_KINDS),
            default="grid",
            tooltip=(
                "grid: dense and fast; hashgrid: hash grid and small networks as in the "
                "paper, for GPUs."
            ),
        )),
        advanced(io.Combo.Input(
            "fallback",
            options=list(FALLBACKS),
            default="none",
            tooltip="hull: take the visual hull if the fusion fails; none: stop there.",
        )),
        _device_input(),
    ]  # fmt: skip


class DeconflictFusion(io.ComfyNode):
    """The fusion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DeconflictFusion",
            display_name="Fuse Views into a Surface (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Fuses views into a surface although their poses are a little wrong and they "
                "contradict each other: shape, colour, poses and conflict are found together, "
                "starting from the silhouettes' visual hull. 8 views or more, with masks or on "
                "white, and normals if you can have them."
            ),
            search_aliases=["views to mesh", "reconstruct", "sdf fusion", "NeuS", "visual hull"],
            inputs=_fusion_inputs(),
            outputs=[
                SURFACE.Output(display_name="surface", tooltip="For Extract Mesh."),
                VIEWS.Output(
                    display_name="refine_views",
                    tooltip="The views with masks and refined cameras, for Bake Texture.",
                ),
                io.Image.Output(
                    display_name="conflict_maps",
                    tooltip="White where an image contradicts the others; one for each view.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="How far each view moved, its conflict and its exposure.",
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, views, preset, seed, refine_poses, conflict, steps_scale, field, fallback, device
    ) -> io.NodeOutput:
        from ..nova3d_core.fusion.config import ConflictConfig
        from ..nova3d_core.pipeline.config import FuseConfig
        from ..nova3d_core.pipeline.report import fusion_report
        from ..nova3d_core.pipeline.stages import conflict_images, fuse_to_surface
        from .adapters import image_from_tensor

        with node_context(GPU_GIB, device, fusion_field=field) as work:
            sdf = _sdf_config(
                work,
                preset,
                seed,
                steps_scale,
                field=field,
                refine_poses=refine_poses,
                conflict=ConflictConfig(mode=conflict),
            )
            config = FuseConfig(sdf=sdf, fallback=fallback)
            surface, refined = fuse_to_surface(views.bundle, config, work.progress, work.device)
            return io.NodeOutput(
                SocketBundle(surface),
                SocketBundle(refined),
                image_from_tensor(conflict_images(surface)),
                fusion_report(surface, views.bundle),
            )


class RefinePoses(io.ComfyNode):
    """Better cameras."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RefinePoses",
            display_name="Refine Camera Poses (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Finds where each image was really taken from, by a fusion that stops before its "
                "finest level. The first view stays as it is. Fuse Views does this itself: use "
                "this node for views that go elsewhere, into a NeRF or a splat trainer."
            ),
            search_aliases=["camera calibration", "pose optimization", "bundle adjustment"],
            inputs=[
                VIEWS.Input("views", tooltip="Images with cameras that are a little wrong."),
                _preset_input(),
                _seed_input(),
                _device_input(),
            ],
            outputs=[
                VIEWS.Output(display_name="refine_views", tooltip="With better cameras."),
                io.String.Output(display_name="report", tooltip="How far each view moved."),
            ],
        )

    @classmethod
    @with_warnings
    def execute(cls, views, preset, seed, device) -> io.NodeOutput:
        from ..nova3d_core.pipeline.report import pose_report
        from ..nova3d_core.pipeline.stages import refine_views

        with node_context(GPU_GIB, device, fusion_field="grid") as work:
            config = _sdf_config(work, preset, seed)
            refined = refine_views(views.bundle, config, work.progress, work.device)
            report = pose_report(views.bundle.cameras, refined.cameras)
            return io.NodeOutput(SocketBundle(refined), report)


NODES = [DeconflictFusion, RefinePoses]
