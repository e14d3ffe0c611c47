"""Inputs that several nodes have."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .compat import advanced

AUTO = "auto"
"""The choice of a preset or device that depends on the machine."""
DEVICES = (AUTO, "cpu")


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
