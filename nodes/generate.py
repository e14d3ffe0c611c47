"""From one image to views around its object, by a multi-view model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..nova3d_core.diffusion.families import GUIDANCE_KINDS
from .compat import CATEGORY, advanced, schema
from .runtime import sampling, with_warnings
from .sockets import CAMERAS, MODEL, VIEWS, Parcel

if TYPE_CHECKING:
    from torch import Tensor

    from ..nova3d_core.diffusion.families import SampleConfig
    from ..nova3d_core.diffusion.sampling.pipeline import Sample
    from .model_management import HostedModel

AUTO = "auto"
MOST_SEED = 2**64 - 1


def _image_inputs(model_tooltip: str) -> list[io.Input]:
    return [
        MODEL.Input("model", tooltip=model_tooltip),
        io.Image.Input(
            "image", tooltip="One image of the whole object; it is framed as the model wants it."
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="1 on the object. Without it: the image's alpha, else what is not white.",
        ),
    ]


def _sampling_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=MOST_SEED, control_after_generate=True,
            tooltip="Start of the noise; the same seed repeats the views on the same device.",
        ),
        io.Int.Input(
            "steps", default=0, min=0, max=1000,
            tooltip="Denoising steps; 0 takes the model's own (NOVA3D and V3D 25, SV3D 50).",
        ),
        io.Combo.Input(
            "guidance",
            options=[AUTO, *GUIDANCE_KINDS],
            default=AUTO,
            tooltip=(
                "How strongly views follow the image. auto: as the model's authors do; triangle: "
                "grows to the back; linear: grows from first to last; constant: highest for all."
            ),
        ),
        advanced(io.Float.Input(
            "lowest", default=1.0, min=0.0, max=20.0, step=0.1,
            tooltip="Guidance at the input view (triangle) or the first one (linear); not in auto.",
        )),
        advanced(io.Float.Input(
            "highest", default=2.5, min=0.0, max=20.0, step=0.1,
            tooltip="Guidance at the back, at the last view, or for all views; not in auto.",
        )),
        advanced(io.Int.Input(
            "size", default=0, min=0, max=2048, step=64,
            tooltip="Width and height in pixels; 0 takes the size that the model was trained with.",
        )),
    ]  # fmt: skip


class SampleMultiviewNormals(io.ComfyNode):
    """Views with normals."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SampleMultiviewNormals",
            display_name="Sample Multi-View Normals (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Paints 16 views of an image's object, colours and normals together, with a "
                "NOVA3D model. Watch them appear on the node. Link the views to Fuse Views into a "
                "Surface."
            ),
            search_aliases=["image to views", "multiview", "image to 3d", "normals", "nova3d"],
            inputs=[
                *_image_inputs("A NOVA3D model; for SV3D and V3D there is Sample Orbit."),
                *_sampling_inputs(),
            ],
            outputs=[
                VIEWS.Output(
                    display_name="views",
                    tooltip="Images, normals and masks with their cameras, for fusion.",
                ),
                io.Image.Output(display_name="colour", tooltip="As painted, the input view first."),
                io.Image.Output(
                    display_name="normals",
                    tooltip="As painted: 0.5 n + 0.5 in the axes of the first view's camera.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="1 on the object; 1 everywhere if the painted background is not white.",
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, model, image, seed, steps, guidance, lowest, highest, size, mask=None
    ) -> io.NodeOutput:
        from .adapters import image_from, mask_from

        config = {"seed": seed, "steps": steps, "size": size}
        made = _sampled(model.bundle, image, mask, (guidance, lowest, highest), config, True)
        return io.NodeOutput(
            Parcel(made.views),
            image_from(made.images[0]),
            image_from(made.images[1]),
            mask_from(_masks(made)),
        )


class SampleOrbit(io.ComfyNode):
    """Views in colour."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SampleOrbit",
            display_name="Sample Orbit (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Paints views around an image's object in colour: 21 with SV3D, 18 with V3D. "
                "SV3D p goes along any orbit that you link or set. The views can be fused as they "
                "are; with normals from another node, linked through Assemble Views, they get "
                "finer."
            ),
            search_aliases=["sv3d", "v3d", "orbital video", "novel view", "image to 3d"],
            inputs=[
                *_image_inputs("An SV3D or V3D model; for NOVA3D: Sample Multi-View Normals."),
                CAMERAS.Input(
                    "cameras",
                    optional=True,
                    tooltip=(
                        "SV3D p: the angles to go along, 21 cameras of Orbit Cameras (preset sv3d, "
                        "or custom). Distance and lens stay the model's own."
                    ),
                ),
                io.Float.Input(
                    "elevation", default=0.0, min=-90.0, max=90.0, step=0.5,
                    tooltip=(
                        "How high above the horizon the image was taken, in degrees; SV3D p is "
                        "told of it. Not used if cameras are linked."
                    ),
                ),
                *_sampling_inputs(),
            ],
            outputs=[
                VIEWS.Output(
                    display_name="views", tooltip="Images and masks with their cameras."
                ),
                io.Image.Output(
                    display_name="images", tooltip="As painted, the input view first."
                ),
                CAMERAS.Output(
                    display_name="cameras",
                    tooltip="Of these images in this order, for Assemble Views.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(
        cls, model, image, elevation, seed, steps, guidance, lowest, highest, size, mask=None,
        cameras=None,
    ) -> io.NodeOutput:  # fmt: skip
        from .adapters import image_from

        config = {"seed": seed, "steps": steps, "size": size, "elevation": elevation}
        given = None if cameras is None else cameras.bundle
        strength = (guidance, lowest, highest)
        made = _sampled(model.bundle, image, mask, strength, config, False, given)
        return io.NodeOutput(
            Parcel(made.views), image_from(made.images[0]), Parcel(made.views.cameras)
        )


def _sampled(
    model: HostedModel,
    image: Tensor,
    mask: Tensor | None,
    guidance: tuple[str, float, float],
    settings: dict[str, Any],
    with_normals: bool,
    cameras: Any = None,
) -> Sample:
    """What the model paints; tensors of which gradients can be taken."""
    from ..nova3d_core.diffusion.sampling.pipeline import sample
    from .adapters import kept
    from .model_management import HostPlacement

    with sampling() as progress:
        _check_family(model, with_normals)
        image, its_mask = _one_image(image, mask)
        made = sample(
            model.model,
            image,
            its_mask,
            _config(guidance, settings, model.memory_gib()),
            cameras,
            HostPlacement(model),
            progress,
        )
        return kept(made)


def _check_family(model: HostedModel, with_normals: bool) -> None:
    """Raises InputError if the model paints something else than the node gives."""
    from ..nova3d_core.errors import InputError

    family = model.model.family
    paints_normals = "normal" in family.domains
    if with_normals and not paints_normals:
        raise InputError(
            f"model is {family.label}, which paints colours and no normals.",
            "Link it to the node Sample Orbit, or load a NOVA3D model.",
        )
    if paints_normals and not with_normals:
        raise InputError(
            f"model is {family.label}, which paints colours and normals together.",
            "Link it to the node Sample Multi-View Normals, or load SV3D or V3D.",
        )


def _one_image(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(H, W, 3 or 4) in 0..1 and, if it says something, (H, W)."""
    from ..nova3d_core.errors import InputError
    from .adapters import images_of, masks_of

    images = images_of(image).clamp(0.0, 1.0)  # resizing nodes overshoot a little
    if len(images) != 1:
        raise InputError(
            f"image is a batch of {len(images)} images, expected one.",
            "Take one of them, with ImageFromBatch for example.",
        )
    masks = masks_of(mask, images)
    if masks is not None and len(masks) != 1:
        raise InputError(f"mask is a batch of {len(masks)} masks for one image.")
    return images[0], None if masks is None else masks[0]


def _config(
    guidance: tuple[str, float, float], settings: dict[str, Any], memory_gib: float
) -> SampleConfig:
    """The core's settings from what the node holds; its zeros and autos are the model's own."""
    from ..nova3d_core.diffusion.families import GuidanceConfig, SampleConfig

    return SampleConfig(
        seed=settings["seed"],
        steps=settings["steps"] or None,
        size_px=settings["size"] or None,
        elevation_deg=settings.get("elevation", 0.0),
        guidance=None if guidance[0] == AUTO else GuidanceConfig(*guidance),
        memory_gib=memory_gib,
    )


def _masks(made: Sample) -> Tensor:
    """(V, H, W); all ones where the views have none."""
    masks = made.views.masks
    return made.images.new_ones(made.images.shape[1:4]) if masks is None else masks


NODES = [SampleMultiviewNormals, SampleOrbit]
