"""Frames, axes and encodings that every part agrees on; docs/conventions.md explains them.

World: right-handed, +Y up (glTF). Azimuth 0 looks at the object from +Z and grows counter-clockwise
seen from above. Cameras inside have OpenCV axes (x right, y down, z forward), in files OpenGL axes
(x right, y up, z backward). Normal maps carry the name of the frame they are given in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

NormalFrame = Literal["world", "camera", "front_view"]
"""world; OpenGL axes of the image's own camera; OpenGL axes of view 0's camera."""
NORMAL_FRAMES: tuple[str, ...] = get_args(NormalFrame)

CameraKind = Literal["perspective", "orthographic"]
CAMERA_KINDS: tuple[str, ...] = get_args(CameraKind)

UpAxis = Literal["+Y", "+Z", "+X", "-X", "-Y", "-Z"]
UP_AXES: tuple[str, ...] = get_args(UpAxis)

AZIMUTH_STEP_OF_16_DEG = 22.5
FOCAL_PER_WIDTH = 1.3889
"""Focal length over image width of the default rig: a field of view of 39.6 degrees."""
ORBIT_RADIUS = 2.2
"""Distance of the default rig's cameras: every object of the unit cube fits with a 5 % margin."""

OPENGL_FROM_OPENCV = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
"""Turns OpenCV camera axes into OpenGL ones, and back: it is its own inverse."""

ROTATIONS_TO_Y_UP = {
    "+Y": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "+Z": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)),
    "-Y": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    "-Z": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "+X": ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "-X": ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
}
"""Rotations into our world from a world with the named axis up.

Y and Z axes rotate about X, X axes about Z: a world with OpenCV axes (-Y up, a camera that looks
along +Z) becomes one whose camera looks along -Z, from the front.
"""


def orbit_position(
    azimuth_rad: float, elevation_rad: float, radius: float
) -> tuple[float, float, float]:
    """Camera position on an orbit: r (sin az cos el, sin el, cos az cos el)."""
    return (
        radius * math.sin(azimuth_rad) * math.cos(elevation_rad),
        radius * math.sin(elevation_rad),
        radius * math.cos(azimuth_rad) * math.cos(elevation_rad),
    )


def encode_normals(normals: Tensor) -> Tensor:
    """Unit vectors (..., 3) in -1..1 to an image in 0..1: 0.5 n + 0.5."""
    return normals * 0.5 + 0.5


def decode_normals(image: Tensor) -> Tensor:
    """A normal image (..., 3) in 0..1 to unit vectors; mid-grey becomes the zero vector.

    Eight-bit files round each component by up to 1/255: a vector shorter than 0.1 is "no normal".
    """
    import torch

    vectors = image * 2.0 - 1.0
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > 0.1, vectors / length.clamp_min(1e-6), torch.zeros_like(vectors))
