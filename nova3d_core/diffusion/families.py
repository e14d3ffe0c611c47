"""The model families that can be sampled, and how each was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

GuidanceKind = Literal["triangle", "linear", "constant"]
GUIDANCE_KINDS: tuple[str, ...] = get_args(GuidanceKind)
OrbitAxis = Literal["world", "input_camera"]
Process = Literal["edm", "ddim"]
PROCESSES: tuple[str, ...] = get_args(Process)


@dataclass(frozen=True)
class GuidanceConfig:
    """Classifier-free guidance: how strongly each view follows the input image."""

    kind: GuidanceKind = "triangle"
    """triangle: the scale grows from the input view to the back; linear: it grows from the first
    view to the last; constant: `max_guidance_scale` for every view."""
    min_guidance_scale: float = 1.0
    """Scale of the input view (triangle) or of the first view (linear)."""
    max_guidance_scale: float = 2.5
    """Scale of the back view (triangle), of the last view (linear) or of every view (constant)."""

    def __post_init__(self):
        check_choice("guidance kind", self.kind, GUIDANCE_KINDS)
        check_bounds(
            self, "guidance", min_guidance_scale=(0.0, 100.0), max_guidance_scale=(0.0, 100.0)
        )


@dataclass(frozen=True)
class Family:
    """How the models of a family were trained, and hence have to be sampled."""

    name: str
    """A key of `weights.registry.FAMILIES`."""
    label: str
    """Display name."""
    views: int
    """Number of views, which is fixed by the training."""
    size_px: int
    """Width and height of the training images."""
    orbit: str
    """Camera trajectory: a key of `orbits.ORBIT_PRESETS`."""
    steps: int
    """Default number of denoising steps: for SV3D and V3D, as their authors use."""
    guidance: GuidanceConfig
    """Default guidance: for SV3D and V3D, as their authors use."""
    triangle_by_index: bool = False
    """Whether the scales of triangle guidance follow the index of the view in the trained orbit, as
    SV3D's do; else, and in other orbits, the angle from the input view."""
    orbit_axis: OrbitAxis = "input_camera"
    """What the cameras circle where the input image is taken from an elevation.

    input_camera: the up axis of the input camera, whatever its elevation. The model is not
    conditioned on the elevation, and was trained on orbits at elevation 0 of that camera's frame.
    world: the object's vertical axis, at the elevation of the input image. SV3D was trained on
    elevated orbits: p is conditioned on the elevation, u recognises it in the image.
    """
    domains: tuple[str, ...] = ("colour",)
    """Kinds of images generated of each view, in this order."""
    sigma_max: float = 700.0
    """Noise level at the start of sampling."""
    sigma_min: float = 0.002
    """Last noise level above 0."""
    noise_aug_strength: float = 0.02
    """Standard deviation of the noise added to the input image; also a condition."""
    noise_aug_target: Literal["image", "latent"] = "image"
    """Where that noise is added: to the image in -1..1, or to its latent (V3D)."""
    input_view: int = 0
    """Index of the view that shows the input image: 0, or -1 for the last (SV3D)."""
    reuse_input_view: bool = False
    """Whether that view is replaced by the input image after decoding."""
    process: Process = "edm"
    """edm: the network predicts v at continuous noise levels, and an ODE solver samples (SVD);
    ddim: it predicts noise at 1000 timesteps, and DDIM samples (Stable Diffusion)."""
    eta: float = 0.0
    """ddim: fraction of fresh noise in each step."""
    shared_noise: bool = False
    """Whether the domains of a view start from the same noise."""
    scale_image_latent: bool = False
    """Whether the input image's latent is scaled as those that are generated."""
    condition_angles_rad: tuple[tuple[float, float], ...] = ()
    """Elevation and azimuth of each view relative to the input view, with which the network is
    conditioned instead of those of the orbit (Wonder3D)."""
    camera_type: tuple[float, ...] = ()
    """One-hot type of the cameras, a condition before the task (Wonder3D++)."""
    added_conditions: tuple[str, ...] = ("fps", "motion", "augmentation")
    """Conditions embedded besides the noise level, in order: 256 channels each, 512 for angles."""
    fps_id: int = 6
    """SVD's frame rate condition: frames per second minus 1."""
    motion_bucket_id: int = 127
    """SVD's motion bucket."""
    foreground_ratio: float = 0.7
    """Longer side of the object over the side of the input image."""
    free_angles: bool = False
    """Whether each view may have any azimuth and elevation."""
    upscale: int = 1
    """Factor by which generated views are upscaled: the fusion samples at pixel centres, which are
    too sparse in low-resolution views."""
    caveats: str = ""
    """What the model cannot do, in one sentence for users; "" for none."""


WONDER3D_ANGLES_RAD = (
    (0.0, 0.0),
    (-0.236240, 0.812378),
    (-0.168619, 1.693490),
    (0.522037, 3.141593),
    (0.690655, 4.835082),
    (0.373314, 5.586011),
)
"""Polar angle and azimuth of each camera minus those of the front view, from Wonder3D's pose files.

The views are a level orbit about the up axis of the input camera; these angles are in a world in
which that camera is raised by 29 degrees.
"""
WONDER3D_CAVEATS = (
    "Wonder3D generates 6 views: parts that none of them shows stay unknown, such as cavities and "
    "surfaces seen from above or below. NOVA3D (16 views) and SV3D (21) leave fewer gaps."
)
_WONDER3D = {
    "views": 6,
    "size_px": 256,
    "orbit": "wonder3d",
    "steps": 50,
    "domains": ("colour", "normal"),
    "process": "ddim",
    "eta": 1.0,
    "scale_image_latent": True,
    "condition_angles_rad": WONDER3D_ANGLES_RAD,
    "noise_aug_strength": 0.0,
    "added_conditions": (),
    "foreground_ratio": 0.75,
    "upscale": 2,
    "caveats": WONDER3D_CAVEATS,
}
"""What Wonder3D and Wonder3D++ have in common."""

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="nova3d",
            label="NOVA3D",
            views=16,
            size_px=256,
            orbit="nova3d",
            steps=25,
            guidance=GuidanceConfig("triangle", 1.0, 2.5),
            domains=("colour", "normal"),
            added_conditions=("augmentation",),
        ),
        # trained by this project on simple synthetic objects; shipped with the package
        Family(
            name="nova3d-mini",
            label="nova3d-mini",
            views=16,
            size_px=64,
            orbit="nova3d",
            steps=8,
            guidance=GuidanceConfig("constant", 1.5, 1.5),
            domains=("colour", "normal"),
            sigma_max=500.0,
            sigma_min=0.05,
            added_conditions=("augmentation",),
            reuse_input_view=True,
            foreground_ratio=0.64,
            upscale=2,
            caveats=(
                # two lines of a node at most
                "nova3d-mini was trained on simple synthetic objects at 64 pixels: photographs "
                "come out coarse."
            ),
        ),
        Family(
            name="sv3d_u",
            label="SV3D u",
            views=21,
            size_px=576,
            orbit="sv3d",
            steps=50,
            guidance=GuidanceConfig("triangle", 1.0, 2.5),
            triangle_by_index=True,
            orbit_axis="world",
            noise_aug_strength=1e-5,
            input_view=-1,
            reuse_input_view=True,
            added_conditions=("augmentation",),
            foreground_ratio=0.8,
        ),
        Family(
            name="sv3d_p",
            label="SV3D p",
            views=21,
            size_px=576,
            orbit="sv3d",
            steps=50,
            guidance=GuidanceConfig("triangle", 1.0, 2.5),
            triangle_by_index=True,
            orbit_axis="world",
            noise_aug_strength=1e-5,
            input_view=-1,
            reuse_input_view=True,
            added_conditions=("augmentation", "polar", "azimuth"),
            foreground_ratio=0.8,
            free_angles=True,
        ),
        Family(
            name="v3d",
            label="V3D",
            views=18,
            size_px=512,
            orbit="v3d",
            steps=25,
            guidance=GuidanceConfig("constant", 3.5, 3.5),
            noise_aug_target="latent",
            fps_id=1,
            motion_bucket_id=300,
        ),
        Family(
            name="ouroboros3d",
            label="Ouroboros3D",
            views=8,
            size_px=512,
            orbit="ouroboros3d",
            steps=25,
            guidance=GuidanceConfig("linear", 1.0, 3.0),
            foreground_ratio=0.8,
        ),
        Family(
            **_WONDER3D,
            name="wonder3d",
            label="Wonder3D",
            guidance=GuidanceConfig("constant", 1.0, 1.0),
        ),
        Family(
            **_WONDER3D,
            name="wonder3d_plus",
            label="Wonder3D++",
            guidance=GuidanceConfig("constant", 2.0, 2.0),
            shared_noise=True,
            camera_type=(0.0, 1.0),  # orthographic
        ),
    )
}
"""By name. SVD itself generates no orbit. Ouroboros3D is sampled by `recursion.sample` only."""

SCENE_FAMILY = Family(
    name="v3d_scenes",
    label="V3D scenes",
    views=24,
    size_px=256,
    orbit="",
    steps=25,
    guidance=GuidanceConfig("constant", 2.0, 2.0),
    fps_id=0,
    motion_bucket_id=300,
)
"""V3D's model for scenes, which follows any camera path; its authors published no weights. Not
among `FAMILIES`, since it takes posed images instead of one, and has no orbit. The guidance is
ours: the paper states none."""
