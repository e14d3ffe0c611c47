"""Settings of the ruler and of the benchmark's conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice
from ..conventions import UP_AXES, UpAxis

Protocol = Literal["strict", "syncdreamer"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

Align = Literal["none", "bbox", "icp"]
ALIGNMENTS: tuple[str, ...] = get_args(Align)

Condition = Literal["clean", "noisy", "conflict", "noisy+conflict"]
CONDITIONS: tuple[str, ...] = get_args(Condition)

SMALLEST_IMAGE_PX = 16
"""Structural similarity looks through a window of 11 pixels."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How a mesh is measured against its reference."""

    protocol: Protocol = "strict"
    """strict: whole and visible surface of unit-sized objects; syncdreamer: the papers' tables."""
    points: int = 100_000
    """Points drawn on each surface, in proportion to area (strict)."""
    seed: int = 0
    """Start of the random points; the same seed gives the same figures."""
    iou_resolution: int = 128
    """Grid cells along the unit cube's side for the volume overlap (strict)."""
    align: Align = "none"
    """none: the mesh as it lies; bbox: centred, longest side 1; icp: turned, moved and scaled."""
    reference_up_axis: UpAxis = "+Y"
    """Which way is up in the reference's file."""
    visible_px: int = 256
    """Width and height of the images whose pixel centres see the visible surface (strict)."""
    with_images: bool = True
    """Also render both meshes from 32 poses and compare the images."""
    image_px: int = 256
    """Width and height of those images."""
    supersample: int = 2
    """Rays along each side of a pixel of those images."""

    def __post_init__(self):
        check_choice("evaluate protocol", self.protocol, PROTOCOLS)
        check_choice("evaluate align", self.align, ALIGNMENTS)
        check_choice("evaluate reference_up_axis", self.reference_up_axis, UP_AXES)
        check_bounds(
            self,
            "evaluate",
            points=(100, 10_000_000),
            seed=(0, 2**31 - 1),
            iou_resolution=(4, 512),
            visible_px=(4, 4096),
            image_px=(SMALLEST_IMAGE_PX, 4096),
            supersample=(1, 16),
        )


@dataclass(frozen=True)
class ConditionConfig:
    """How the benchmark's images differ from true ones."""

    condition: Condition = "noisy+conflict"
    """clean; noisy: wrong poses; conflict: colours and normals that disagree; or both."""
    seed: int = 0
    """Start of the random numbers; poses and conflicts have streams of their own."""
    rotation_sigma_deg: float = 2.0
    """Pose noise: spread of each component of the rotation about the object's centre."""
    shift_sigma: float = 0.01
    """Pose noise: spread of the shift along camera x and y, over the object's longest side."""
    normals_in_wrong_camera: bool = False
    """Store normals in the true camera's axes, so that the ideal pose misreads them."""
    gain_range: float = 0.15
    """Conflict: colour channels of a view are multiplied by 1 - range to 1 + range."""
    blob_views: int = 6
    """Conflict: how many views, never view 0, get a blob of wrong colour and normals."""
    blob_share: float = 0.05
    """Conflict: a blob's share of the view's foreground area."""
    blob_turn_deg: float = 25.0
    """Conflict: how far the normals in a blob's middle are turned."""
    supersample: int = 3
    """Rays along each side of a pixel."""

    def __post_init__(self):
        check_choice("condition", self.condition, CONDITIONS)
        check_bounds(
            self,
            "condition",
            seed=(0, 2**31 - 1),
            rotation_sigma_deg=(0.0, 45.0),
            shift_sigma=(0.0, 0.5),
            gain_range=(0.0, 0.9),
            blob_views=(0, 100_000),
            blob_share=(0.001, 0.5),
            blob_turn_deg=(0.0, 90.0),
            supersample=(1, 16),
        )

    @property
    def rotation_sigma_rad(self) -> float:
        """The spread of each rotation component in radians."""
        return math.radians(self.rotation_sigma_deg)

    @property
    def has_pose_noise(self) -> bool:
        """Whether images are taken from other poses than the views say."""
        return "noisy" in self.condition

    @property
    def has_conflict(self) -> bool:
        """Whether views contradict each other in colour and normals."""
        return "conflict" in self.condition
