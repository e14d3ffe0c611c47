"""Node that crops and centres the object of an image."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, schema
from .runtime import node_context, with_warnings


class PrepareImage(io.ComfyNode):
    """Crops an image to its object and composites it over white."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PrepareImage",
            display_name="Prepare Image for 3D (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Crops an image to its object and centres it in a white square, as multi-view "
                "models expect. Without a mask, the object is separated from the background by the "
                "alpha channel or, without alpha, by a white background."
            ),
            search_aliases=["crop to object", "center object", "recenter", "white background"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch, RGB or RGBA."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Foreground mask: 1 on the object. Default: the image's alpha channel, "
                        "else everything that is not white."
                    ),
                ),
                io.Int.Input(
                    "size",
                    default=256,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Output width and height in pixels.",
                ),
                io.Float.Input(
                    "foreground_ratio",
                    default=0.7,
                    min=0.1,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Longer side of the object as a fraction of the image size; 0.7 leaves a "
                        "margin."
                    ),
                ),
                io.Boolean.Input(
                    "invert_mask",
                    default=False,
                    tooltip=(
                        "Turn on for the mask of Load Image, which is 1 where the image is "
                        "transparent."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The object, centred on a white square."
                ),
                io.Mask.Output(
                    display_name="mask", tooltip="Foreground mask with soft edges: 1 on the object."
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, image, size: int, foreground_ratio: float, invert_mask: bool, mask=None
    ) -> io.NodeOutput:
        from ..nova3d_core.imaging.crop import CropConfig, prepare_images
        from .adapters import (
            image_from_tensor,
            mask_from_tensor,
            tensor_from_image,
            tensor_from_mask,
        )

        with node_context():
            images = tensor_from_image(image)
            masks = tensor_from_mask(mask, images)
            if masks is not None and invert_mask:
                masks = 1.0 - masks
            colour, masks = prepare_images(images, masks, CropConfig(size, foreground_ratio))
            return io.NodeOutput(image_from_tensor(colour), mask_from_tensor(masks))


NODES = [PrepareImage]
