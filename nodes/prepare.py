"""Images before a multi-view model or a fusion sees them."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, schema
from .runtime import with_warnings, working


class PrepareImage(io.ComfyNode):
    """Crops an image to its object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PrepareImage",
            display_name="Prepare Image for 3D (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Crops an image to its object and puts it in the middle of a square on white, as "
                "multi-view models want it. Without a mask the object is told from a white "
                "background; transparent images bring their own mask."
            ),
            search_aliases=["crop to object", "center object", "recenter", "white background"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch; RGB, or RGBA with alpha."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "1 on the object. Without it: the image's alpha, else what is not white."
                    ),
                ),
                io.Int.Input(
                    "size",
                    default=256,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Width and height of the result in pixels.",
                ),
                io.Float.Input(
                    "object_share",
                    default=0.7,
                    min=0.1,
                    max=1.0,
                    step=0.01,
                    tooltip="The object's longer side as a share of the image; 0.7 leaves a rim.",
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
                io.Image.Output(display_name="image", tooltip="The object on white, square."),
                io.Mask.Output(display_name="mask", tooltip="1 on the object, soft at its edge."),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, image, size: int, object_share: float, invert_mask: bool, mask=None
    ) -> io.NodeOutput:
        from ..nova3d_core.imaging.crop import CropConfig, prepare_images
        from .adapters import image_from, images_of, mask_from, masks_of

        with working():
            images = images_of(image)
            masks = masks_of(mask, images)
            if masks is not None and invert_mask:
                masks = 1.0 - masks
            colour, masks = prepare_images(images, masks, CropConfig(size, object_share))
            return io.NodeOutput(image_from(colour), mask_from(masks))


NODES = [PrepareImage]
