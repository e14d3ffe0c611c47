"""Coordinate frames, camera axes and encodings; see docs/conventions.md.

World: right-handed, +Y up (glTF). Azimuth 0 looks at the object from +Z and increases counter-
clockwise seen from above. Cameras have OpenCV axes (x right, y down, z forward) in memory and
OpenGL axes (x right, y up, z backward) in files. Normal maps are tagged with their frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

NormalFrame = Literal["world", "camera", "front_view"]
"""World frame; OpenGL axes of the view's own camera; OpenGL axes of view 0's camera."""
NORMAL_FRAMES: tuple[str, ...] = get_args(NormalFrame)

CameraKind = Literal["perspective", "orthographic"]
CAMERA_KINDS: tuple[str, ...] = get_args(CameraKind)

UpAxis = Literal["+Y", "+Z", "+X", "-X", "-Y", "-Z"]
UP_AXES: tuple[str, ...] = get_args(UpAxis)

FOCAL_PER_WIDTH = 1.3889
"""Focal length over image width of the default rig: a field of view of 39.6 degrees."""
ORBIT_RADIUS = 2.2
"""Camera distance of the default rig: any object in the unit cube fits with a 5 % margin."""

OPENGL_FROM_OPENCV = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
"""Rotation from OpenCV to OpenGL camera axes; it is its own inverse."""

Y_UP_ROTATIONS = {
    "+Y": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "+Z": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)),
    "-Y": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    "-Z": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "+X": ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "-X": ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
}
"""Rotations from a world with this up axis to +Y up.

Y and Z axes are rotated about X, X axes about Z: in a world with OpenCV axes (-Y up), a camera that
looks along +Z becomes one that looks along -Z, from the front.
"""
SPLAT_UP_AXIS: UpAxis = "-Y"
"""Up axis of the viewers of Gaussian splats and of ComfyUI's SPLAT, which look along +Z."""


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
    """Encodes unit vectors (..., 3) as a normal map in 0..1: 0.5 n + 0.5."""
    return normals * 0.5 + 0.5


def decode_normals(image: Tensor) -> Tensor:
    """Decodes a normal map (..., 3) in 0..1 to unit vectors; mid-grey becomes the zero vector.

    8-bit files round each component by up to 1/255: vectors shorter than 0.1 become zero.
    """
    import torch

    vectors = image * 2.0 - 1.0
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > 0.1, vectors / length.clamp_min(1e-6), torch.zeros_like(vectors))
