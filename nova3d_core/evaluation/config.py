"""Settings of the evaluation and of the benchmark's perturbations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice
from ..conventions import UP_AXES, UpAxis

EvaluationProtocol = Literal["strict", "syncdreamer"]
PROTOCOLS: tuple[str, ...] = get_args(EvaluationProtocol)

Align = Literal["none", "bbox", "icp"]
ALIGNMENTS: tuple[str, ...] = get_args(Align)

Perturbation = Literal[
    "clean",
    "noisy",
    "conflict",
    "noisy+conflict",
    "generated",
    "generated_fine",
    "colour",
    "orbit576",
]
PERTURBATIONS: tuple[str, ...] = get_args(Perturbation)

MIN_IMAGE_PX = 16
"""SSIM uses a window of 11 pixels."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How a mesh is compared with its reference."""

    protocol: EvaluationProtocol = "strict"
    """strict: whole and visible surface of unit-sized objects; syncdreamer: as in published
    tables."""
    points: int = 100_000
    """Points sampled on each surface, uniformly by area (strict)."""
    seed: int = 0
    """Seed of the sampled points; the same seed gives the same metrics."""
    iou_resolution: int = 128
    """Grid cells along the unit cube's side for the volume IoU (strict)."""
    align: Align = "none"
    """none: no alignment; bbox: centre and scale the longest side to 1; icp: fit rotation,
    translation and scale."""
    reference_up_axis: UpAxis = "+Y"
    """Up axis of the reference's file."""
    visible_px: int = 256
    """Image size for sampling the visible surface, one ray per pixel (strict)."""
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
            image_px=(MIN_IMAGE_PX, 4096),
            supersample=(1, 16),
        )


@dataclass(frozen=True)
class PerturbationConfig:
    """How the benchmark perturbs exact views of an object."""

    kind: Perturbation = "noisy+conflict"
    """clean: none; noisy: wrong poses; conflict: inconsistent colours and normals; or both;
    generated: smoothly distorted images, normals and colours; generated_fine: the same with finer
    displacements; colour, orbit576: exact colours and masks without normals."""
    seed: int = 0
    """Random seed; poses and conflicts use independent streams."""
    rotation_sigma_deg: float = 2.0
    """Pose noise: standard deviation of each rotation component about the object's centre."""
    translation_sigma: float = 0.01
    """Pose noise: standard deviation of the translation along camera x and y, as a fraction of the
    object's longest side."""
    camera_frame_normals: bool = False
    """Store normals in the frame of the true camera, so that the given pose misinterprets them."""
    gain_range: float = 0.15
    """Conflict: each view's colour channels are scaled by gains in 1 - range to 1 + range."""
    blob_views: int = 6
    """Conflict: number of views with a blob of wrong colour and normals; never view 0."""
    blob_area_ratio: float = 0.05
    """Conflict: area of a blob over the view's foreground area."""
    blob_rotation_deg: float = 25.0
    """Conflict: rotation angle of the normals at a blob's centre."""
    supersample: int = 3
    """Rays along each side of a pixel."""

    def __post_init__(self):
        check_choice("perturbation kind", self.kind, PERTURBATIONS)
        check_bounds(
            self,
            "perturbation",
            seed=(0, 2**31 - 1),
            rotation_sigma_deg=(0.0, 45.0),
            translation_sigma=(0.0, 0.5),
            gain_range=(0.0, 0.9),
            blob_views=(0, 100_000),
            blob_area_ratio=(0.001, 0.5),
            blob_rotation_deg=(0.0, 90.0),
            supersample=(1, 16),
        )

    @property
    def rotation_sigma_rad(self) -> float:
        """Standard deviation of each rotation component in radians."""
        return math.radians(self.rotation_sigma_deg)

    @property
    def perturbs_poses(self) -> bool:
        """Whether the images are rendered from other poses than the views state."""
        return "noisy" in self.kind

    @property
    def distorts(self) -> bool:
        """Whether every view but the first is smoothly distorted."""
        return self.kind in ("generated", "generated_fine")

    @property
    def with_normals(self) -> bool:
        """Whether the views have normals."""
        return self.kind not in ("colour", "orbit576")

    @property
    def perturbs_appearance(self) -> bool:
        """Whether colours and normals are inconsistent between views."""
        return "conflict" in self.kind
