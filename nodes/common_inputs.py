"""Inputs that several nodes have."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .compat import advanced

AUTO = "auto"
"""The choice of a preset or device that depends on the machine."""
DEVICES = (AUTO, "cpu")
MAX_SEED = 2**64 - 1


def device_input() -> io.Input:
    """The device to run on."""
    return advanced(
        io.Combo.Input(
            "device",
            options=list(DEVICES),
            default=AUTO,
            tooltip="auto: a CUDA GPU if available; cpu: do not use the GPU.",
        )
    )


def image_size_inputs(default_px: int) -> list[io.Input]:
    """Width and height of rendered images."""
    return [
        io.Int.Input(
            name, default=default_px, min=16, max=4096, step=8, tooltip=f"Image {name} in pixels."
        )
        for name in ("width", "height")
    ]


def object_image_input() -> io.Input:
    """The image from which views are generated."""
    return io.Image.Input(
        "image",
        tooltip="One image of the whole object; it is cropped and resized for the model.",
    )


def foreground_mask_input() -> io.Input:
    """The foreground mask of `object_image_input`."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip=(
            "Foreground mask: 1 on the object. Default: the image's alpha channel, else "
            "everything that is not white."
        ),
    )


def noise_seed_input(result: str = "views") -> io.Input:
    """The seed of the noise from which a model generates its result."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=True,
        tooltip=(
            f"Random seed of the noise; the same seed reproduces the {result} on the same device."
        ),
    )


def generated_size_input(step: int = 64, optional: bool = False) -> io.Input:
    """Size of the images that a model generates."""
    return advanced(
        io.Int.Input(
            "size",
            default=0,
            min=0,
            max=2048,
            step=step,
            optional=optional,
            tooltip="Image width and height in pixels; 0: the model's training resolution.",
        )
    )
