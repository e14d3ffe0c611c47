"""Node that samples views of a scene along a camera path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..nova3d_core.diffusion.families import SCENE_FAMILY
from ..nova3d_core.diffusion.sampling.config import SAMPLER_NAMES
from .common_inputs import generated_size_input, noise_seed_input
from .compat import CATEGORY, schema
from .runtime import sampling_context, with_warnings
from .sockets import CAMERA_TYPES, MODEL, VIEWS, SocketBundle

if TYPE_CHECKING:
    from ..nova3d_core.diffusion.scenes.sample import PathSample
    from ..nova3d_core.views import Views
    from .model_management import ManagedModel


def _inputs() -> list[io.Input]:
    return [
        MODEL.Input("model", tooltip="A model for scenes (V3D), from Load Multi-View Model."),
        VIEWS.Input(
            "sources",
            tooltip=(
                "Posed images of the scene, usually 1 to 4, from Load Views or Assemble Views. The "
                "central square of each is used."
            ),
        ),
        io.MultiType.Input(
            "cameras",
            types=CAMERA_TYPES,
            tooltip=(
                "The path: one view is generated per camera. The cameras must be in the world of "
                "the sources."
            ),
        ),
        noise_seed_input(),
        io.Int.Input(
            "steps", default=0, min=0, max=1000,
            tooltip=f"Denoising steps; 0: the model's default ({SCENE_FAMILY.steps}).",
        ),
        io.Float.Input(
            "guidance_scale", default=SCENE_FAMILY.guidance.max_guidance_scale, min=0.0, max=20.0,
            step=0.1,
            tooltip=(
                "Scale of the classifier-free guidance for all views: higher values follow the "
                "sources more closely; 1: none, twice as fast."
            ),
        ),
        io.Combo.Input(
            "sampler", options=list(SAMPLER_NAMES), default="euler",
            tooltip=(
                "ODE solver. euler: as in V3D's code; dpmpp_2m: second order, a smaller error with "
                "the same steps; heun: second order, but two network evaluations per step."
            ),
        ),
        generated_size_input(step=8),
    ]  # fmt: skip


class SampleCameraPath(io.ComfyNode):
    """Samples views along a camera path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SampleCameraPath",
            display_name="Sample Camera Path (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Generates views of a scene along a camera path from a few posed images, with a "
                "model for scenes as in V3D. The authors published no weights: train one with the "
                "command train v3d_scenes."
            ),
            search_aliases=["v3d", "novel view synthesis", "pixelnerf", "few images"],
            inputs=_inputs(),
            outputs=[
                VIEWS.Output(
                    display_name="views",
                    tooltip="The generated images with their cameras, without masks.",
                ),
                io.Image.Output(
                    display_name="images", tooltip="Generated images in the order of the path."
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, model, sources, cameras, seed, steps, guidance_scale, sampler, size
    ) -> io.NodeOutput:
        from .adapters import image_from_tensor

        settings = {"seed": seed, "steps": steps, "sampler": sampler, "size": size}
        sample = _sample(model.bundle, sources.bundle, cameras, guidance_scale, settings)
        return io.NodeOutput(SocketBundle(sample.views), image_from_tensor(sample.views.colour))


def _sample(
    managed: ManagedModel, sources: Views, cameras: Any, scale: float, settings: dict[str, Any]
) -> PathSample:
    """The model's sample, cloned outside inference mode."""
    from ..nova3d_core.diffusion.families import GuidanceConfig
    from ..nova3d_core.diffusion.sampling.config import SampleConfig
    from ..nova3d_core.diffusion.scenes.model import check_scene_model
    from ..nova3d_core.diffusion.scenes.sample import sample_path
    from .adapters import cameras_in_own_size, clone_outside_inference_mode
    from .model_management import HostModelPlacement

    with sampling_context() as progress:
        model = check_scene_model(managed.model)
        config = SampleConfig(
            seed=settings["seed"],
            steps=settings["steps"] or None,
            size_px=settings["size"] or None,
            guidance=GuidanceConfig("constant", scale, scale),
            sampler=settings["sampler"],
        )
        path = cameras_in_own_size(cameras)
        result = sample_path(model, sources, path, config, HostModelPlacement(managed), progress)
        return clone_outside_inference_mode(result)


NODES = [SampleCameraPath]
