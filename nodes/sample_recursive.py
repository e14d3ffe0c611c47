"""Node that samples views and splats together with Ouroboros3D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..nova3d_core.recursion.config import FEEDBACK_SOURCES
from .common_inputs import foreground_mask_input, noise_seed_input, object_image_input
from .compat import CATEGORY, advanced, has_splat_files, schema, splat_file_outputs, splats_output
from .folders import temporary_path
from .runtime import sampling_context, with_warnings
from .sockets import MODEL, VIEWS, SocketBundle

if TYPE_CHECKING:
    from torch import Tensor

    from ..nova3d_core.recursion.sample import RecursiveSample
    from .model_management import ManagedModel


def _inputs() -> list[io.Input]:
    return [
        MODEL.Input(
            "model",
            tooltip="Ouroboros3D: select mv_model_unet.pth in Load Multi-View Model.",
        ),
        object_image_input(),
        noise_seed_input("result"),
        io.Int.Input(
            "steps", default=0, min=0, max=1000,
            tooltip="Denoising steps; 0: as in the authors' code, 25.",
        ),
        io.Combo.Input(
            "feedback",
            options=list(FEEDBACK_SOURCES),
            default="both",
            tooltip=(
                "Renders of the splats that the next step sees. both: colours and canonical "
                "coordinates, as in the paper; colour or coordinates: only these; none: splats "
                "are made once, at the end."
            ),
        ),
        advanced(io.Int.Input(
            "every", default=1, min=1, max=1000,
            tooltip=(
                "Make splats after every n-th step; larger values are faster. 1: after each step, "
                "as in the paper."
            ),
        )),
        advanced(io.Float.Input(
            "elevation", default=0.0, min=-90.0, max=90.0, step=0.5,
            tooltip=(
                "Camera elevation of the input image in degrees above the horizon. It only places "
                "the cameras, so that the object is upright."
            ),
        )),
        advanced(io.Int.Input(
            "size", default=0, min=0, max=2048, step=64,
            tooltip="Width and height of the views in pixels; 0: the training resolution, 512.",
        )),
        foreground_mask_input(),
    ]  # fmt: skip


class SampleRecursive(io.ComfyNode):
    """Samples views and splats in one loop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [
            VIEWS.Output(
                display_name="views",
                tooltip="Images and masks with their cameras, for the fusion.",
            ),
            io.Image.Output(
                display_name="images", tooltip="The 8 generated images, the input view first."
            ),
            splats_output(),
            io.String.Output(
                display_name="report",
                tooltip="Number of splats, and how well views and splats agree.",
            ),
            *splat_file_outputs("The splats as a .ply file, for Preview Splat and Save Splat."),
        ]
        return schema(
            node_id="SampleRecursive",
            display_name="Sample Recursive (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Generates 8 views of the object in an image together with its Gaussian splats, "
                "with Ouroboros3D: in each step, the splats of the views so far are rendered, and "
                "the next step sees these renders. So views and splats agree. The preview shows "
                "the views, and the splats below them."
            ),
            search_aliases=["ouroboros3d", "image to 3d", "image to splats", "multiview"],
            inputs=_inputs(),
            outputs=outputs,
        )

    @classmethod
    @with_warnings
    def execute(
        cls, model, image, seed, steps, feedback, every, elevation, size, mask=None
    ) -> io.NodeOutput:
        from .adapters import image_from_tensor
        from .splat_adapters import batch_from_splats, file3d_from_splats

        settings = {"seed": seed, "steps": steps or None, "size_px": size or None}
        settings["elevation_deg"] = elevation
        result = _sample(model.bundle, image, mask, settings, (feedback, every))
        outputs: list[Any] = [
            SocketBundle(result.views),
            image_from_tensor(result.images[0]),
            batch_from_splats([result.splats]),
            result.report.to_text(),
        ]
        if has_splat_files():
            outputs.append(file3d_from_splats(result.splats, temporary_path("splats", ".ply")))
        return io.NodeOutput(*outputs)


def _sample(
    managed: ManagedModel,
    image: Tensor,
    mask: Tensor | None,
    settings: dict[str, Any],
    recursion: tuple[str, int],
) -> RecursiveSample:
    """The pair's sample, cloned outside inference mode."""
    from ..nova3d_core.diffusion.sampling.config import SampleConfig
    from ..nova3d_core.errors import InputError
    from ..nova3d_core.recursion.config import RecursionConfig
    from ..nova3d_core.recursion.model import RecursiveModel
    from ..nova3d_core.recursion.sample import sample_recursive
    from .adapters import clone_outside_inference_mode, single_image
    from .model_management import HostModelPlacement

    with sampling_context() as progress:
        model = managed.model
        if not isinstance(model, RecursiveModel):
            raise InputError(
                f"model is {model.family.label}, expected Ouroboros3D's pair of models.",
                "Select mv_model_unet.pth in Load Multi-View Model, with recon_model.pth next to "
                "it.",
            )
        image, mask = single_image(image, mask)
        config = SampleConfig(**settings)
        placement = HostModelPlacement(managed)
        result = sample_recursive(
            model, image, mask, config, RecursionConfig(*recursion), placement, progress
        )
        return clone_outside_inference_mode(result)


NODES = [SampleRecursive]
