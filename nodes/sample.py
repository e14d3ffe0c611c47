"""Nodes that sample views around an object from one image, with a multi-view diffusion model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..nova3d_core.diffusion.families import GUIDANCE_KINDS
from ..nova3d_core.diffusion.sampling.config import FRAMINGS, SAMPLER_NAMES
from .common_inputs import (
    AUTO,
    foreground_mask_input,
    generated_size_input,
    noise_seed_input,
    object_image_input,
)
from .compat import CATEGORY, advanced, schema
from .runtime import sampling_context, with_warnings
from .sockets import CAMERA_TYPES, CAMERAS, MODEL, VIEWS, SocketBundle

if TYPE_CHECKING:
    from torch import Tensor

    from ..nova3d_core.diffusion.sampling.config import SampleConfig
    from ..nova3d_core.diffusion.sampling.pipeline import Sample
    from .model_management import ManagedModel


def _image_inputs(model_tooltip: str) -> list[io.Input]:
    return [
        MODEL.Input("model", tooltip=model_tooltip),
        object_image_input(),
        foreground_mask_input(),
    ]


def _sampling_inputs() -> list[io.Input]:
    return [
        noise_seed_input(),
        io.Int.Input(
            "steps", default=0, min=0, max=1000,
            tooltip=(
                "Denoising steps; 0: the model's default (NOVA3D and V3D 25, SV3D and Wonder3D 50)."
            ),
        ),
        io.Combo.Input(
            "guidance",
            options=[AUTO, *GUIDANCE_KINDS],
            default=AUTO,
            tooltip=(
                "Schedule of the classifier-free guidance scale over the views. auto: SV3D and V3D "
                "as in their authors' code, NOVA3D triangle; triangle: increases towards the back "
                "view; linear: increases from the first to the last view; constant: "
                "max_guidance_scale for all views."
            ),
        ),
        advanced(io.Float.Input(
            "min_guidance_scale", default=1.0, min=0.0, max=20.0, step=0.1,
            tooltip=(
                "Guidance scale at the input view (triangle) or the first view (linear); not used "
                "with auto."
            ),
        )),
        advanced(io.Float.Input(
            "max_guidance_scale", default=2.5, min=0.0, max=20.0, step=0.1,
            tooltip=(
                "Guidance scale at the back view (triangle), the last view (linear) or all views "
                "(constant); not used with auto."
            ),
        )),
        generated_size_input(),
        io.Combo.Input(
            "sampler", options=list(SAMPLER_NAMES), default="euler", optional=True,
            tooltip=(
                "ODE solver. euler: as in the models' code; dpmpp_2m: second order, a smaller "
                "error with the same steps; heun: second order, but two network evaluations per "
                "step, and unusable with fewer than 10 steps. Ignored by Wonder3D, which uses DDIM."
            ),
        ),
        advanced(io.Combo.Input(
            "framing", options=list(FRAMINGS), default="object", optional=True,
            tooltip=(
                "object: crop the image to the object, at the size the model was trained with; "
                "image: keep the image's framing, for a centred object; the image is padded to a "
                "square."
            ),
        )),
        advanced(io.Int.Input(
            "decode_chunk_size", default=0, min=0, max=64, optional=True,
            tooltip=(
                "Maximum number of views decoded together; 0: as many as fit into the free memory. "
                "Matters for V3D and NOVA3D, whose decoder makes consecutive views consistent."
            ),
        )),
    ]  # fmt: skip


class SampleMultiviewNormals(io.ComfyNode):
    """Samples views in colour and normals."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SampleMultiviewNormals",
            display_name="Sample Multi-View Normals (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Generates views of the object in an image, colours and normal maps together: 16 "
                "with a NOVA3D model, 6 with Wonder3D. 6 views leave gaps between them; 8 or more "
                "are better for the fusion. The node shows a preview while sampling. Connect the "
                "views to Fuse Views into a Surface."
            ),
            search_aliases=[
                "image to views",
                "multiview",
                "image to 3d",
                "normals",
                "nova3d",
                "wonder3d",
            ],
            inputs=[
                *_image_inputs("A NOVA3D or Wonder3D model; use Sample Orbit for SV3D and V3D."),
                *_sampling_inputs(),
            ],
            outputs=[
                VIEWS.Output(
                    display_name="views",
                    tooltip="Images, normals and masks with their cameras, for the fusion.",
                ),
                io.Image.Output(
                    display_name="colour", tooltip="Generated images, the input view first."
                ),
                io.Image.Output(
                    display_name="normals",
                    tooltip=(
                        "Generated normal maps, 0.5 n + 0.5, in the axes of the first view's "
                        "camera."
                    ),
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip=(
                        "Foreground masks: 1 on the object; 1 everywhere if the generated "
                        "background is not white."
                    ),
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, model, image, seed, steps, guidance, min_guidance_scale, max_guidance_scale, size,
        mask=None, sampler="euler", framing="object", decode_chunk_size=0,
    ) -> io.NodeOutput:  # fmt: skip
        from .adapters import image_from_tensor, mask_from_tensor

        settings = {"seed": seed, "steps": steps, "size": size, "sampler": sampler}
        settings |= {"framing": framing, "decode_chunk_size": decode_chunk_size}
        scales = (guidance, min_guidance_scale, max_guidance_scale)
        sample = _sample_views(model.bundle, image, mask, scales, settings, True)
        return io.NodeOutput(
            SocketBundle(sample.views),
            image_from_tensor(sample.images[0]),
            image_from_tensor(sample.images[1]),
            mask_from_tensor(_masks_or_ones(sample)),
        )


class SampleOrbit(io.ComfyNode):
    """Samples views in colour."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SampleOrbit",
            display_name="Sample Orbit (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Generates colour views around the object in an image: 21 with SV3D, 18 with V3D. "
                "SV3D p follows any camera orbit. The views can be fused directly; adding normals "
                "from another node through Assemble Views recovers finer detail."
            ),
            search_aliases=["sv3d", "v3d", "orbital video", "novel view", "image to 3d"],
            inputs=[
                *_image_inputs(
                    "An SV3D or V3D model; NOVA3D and Wonder3D use Sample Multi-View Normals."
                ),
                io.MultiType.Input(
                    "cameras",
                    types=CAMERA_TYPES,
                    optional=True,
                    tooltip=(
                        "SV3D p: camera orbit, 21 cameras from Orbit Cameras (preset sv3d, "
                        "sv3d_sine or custom) or the camera list of a 3D node. Only the angles are "
                        "used; distance and field of view are the model's."
                    ),
                ),
                io.Float.Input(
                    "elevation", default=0.0, min=-90.0, max=90.0, step=0.5,
                    tooltip=(
                        "Camera elevation of the input image in degrees above the horizon. SV3D p "
                        "is conditioned on it (its authors use 10); for SV3D u and V3D it only "
                        "places the cameras, so that the mesh is upright. Ignored if cameras are "
                        "connected."
                    ),
                ),
                *_sampling_inputs(),
            ],
            outputs=[
                VIEWS.Output(
                    display_name="views", tooltip="Images and masks with their cameras."
                ),
                io.Image.Output(
                    display_name="images", tooltip="Generated images, the input view first."
                ),
                CAMERAS.Output(
                    display_name="cameras",
                    tooltip="Cameras of the images, in the same order, for Assemble Views.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(
        cls, model, image, elevation, seed, steps, guidance, min_guidance_scale,
        max_guidance_scale, size, mask=None, cameras=None, sampler="euler", framing="object",
        decode_chunk_size=0,
    ) -> io.NodeOutput:  # fmt: skip
        from .adapters import image_from_tensor

        settings = {"seed": seed, "steps": steps, "size": size, "elevation": elevation}
        settings |= {"sampler": sampler, "framing": framing, "decode_chunk_size": decode_chunk_size}
        scales = (guidance, min_guidance_scale, max_guidance_scale)
        sample = _sample_views(model.bundle, image, mask, scales, settings, False, cameras)
        return io.NodeOutput(
            SocketBundle(sample.views),
            image_from_tensor(sample.images[0]),
            SocketBundle(sample.views.cameras),
        )


def _sample_views(
    managed: ManagedModel,
    image: Tensor,
    mask: Tensor | None,
    guidance: tuple[str, float, float],
    settings: dict[str, Any],
    with_normals: bool,
    cameras: Any = None,
) -> Sample:
    """The model's sample, cloned outside inference mode."""
    from ..nova3d_core.diffusion.sampling.pipeline import sample
    from .adapters import cameras_in_own_size, clone_outside_inference_mode, single_image
    from .model_management import HostModelPlacement

    with sampling_context() as progress:
        _check_family(managed, with_normals)
        image, mask = single_image(image, mask)
        orbit = None if cameras is None else cameras_in_own_size(cameras)
        config = _sample_config(guidance, settings)
        placement = HostModelPlacement(managed)
        result = sample(managed.model, image, mask, config, orbit, placement, progress)
        return clone_outside_inference_mode(result)


def _check_family(managed: ManagedModel, with_normals: bool) -> None:
    """Raises InputError if the model's domains are not those of the node."""
    from ..nova3d_core.errors import InputError
    from ..nova3d_core.reconstruction.model import ReconstructionModel
    from ..nova3d_core.recursion.model import RecursiveModel

    family = managed.model.family
    if isinstance(managed.model, RecursiveModel):
        raise InputError(
            f"model is {family.label}, which samples views and splats together.",
            "Connect it to the node Sample Recursive, and NOVA3D, Wonder3D, SV3D or V3D here.",
        )
    if isinstance(managed.model, ReconstructionModel):
        raise InputError(
            f"model is {family.label}, which makes splats of views and generates none.",
            "Connect it to the node Splats from Views, and NOVA3D, Wonder3D, SV3D or V3D here.",
        )
    has_normals = "normal" in family.domains
    if with_normals and not has_normals:
        raise InputError(
            f"model is {family.label}, which generates colours but no normals.",
            "Connect it to the node Sample Orbit, or load a NOVA3D or Wonder3D model.",
        )
    if has_normals and not with_normals:
        raise InputError(
            f"model is {family.label}, which generates colours and normals together.",
            "Connect it to the node Sample Multi-View Normals, or load SV3D or V3D.",
        )


def _sample_config(guidance: tuple[str, float, float], settings: dict[str, Any]) -> SampleConfig:
    """The core's config from the node's inputs; 0 and "auto" become None, the model's default."""
    from ..nova3d_core.diffusion.families import GuidanceConfig
    from ..nova3d_core.diffusion.sampling.config import SampleConfig

    return SampleConfig(
        seed=settings["seed"],
        steps=settings["steps"] or None,
        size_px=settings["size"] or None,
        elevation_deg=settings.get("elevation", 0.0),
        guidance=None if guidance[0] == AUTO else GuidanceConfig(*guidance),
        sampler=settings["sampler"],
        framing=settings["framing"],
        decode_chunk_size=settings["decode_chunk_size"] or None,
    )


def _masks_or_ones(sample: Sample) -> Tensor:
    """(V, H, W) masks of the views; all ones if they have none."""
    masks = sample.views.masks
    return sample.images.new_ones(sample.images.shape[1:4]) if masks is None else masks


NODES = [SampleMultiviewNormals, SampleOrbit]
