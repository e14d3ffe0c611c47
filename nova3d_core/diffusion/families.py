"""The model families that can be sampled, and how each one was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

GuidanceKind = Literal["triangle", "linear", "constant"]
GUIDANCE_KINDS: tuple[str, ...] = get_args(GuidanceKind)


@dataclass(frozen=True)
class GuidanceConfig:
    """How strongly each view follows the input image (classifier-free guidance)."""

    kind: GuidanceKind = "triangle"
    """triangle: grows with the angle from the input view, to the back; linear: grows from the first
    view to the last; constant: `max_guidance_scale` everywhere."""
    min_guidance_scale: float = 1.0
    """Scale at the input view (triangle) or at the first one (linear)."""
    max_guidance_scale: float = 2.5
    """Scale at the back (triangle), at the last view (linear), or everywhere (constant)."""

    def __post_init__(self):
        check_choice("guidance kind", self.kind, GUIDANCE_KINDS)
        check_bounds(
            self, "guidance", min_guidance_scale=(0.0, 100.0), max_guidance_scale=(0.0, 100.0)
        )


@dataclass(frozen=True)
class Family:
    """How the models of one family were trained, which is how they must be sampled."""

    name: str
    """A key of `weights.registry.FAMILIES`."""
    label: str
    """What users call it."""
    views: int
    """Images of a sample; these models know no other number."""
    size_px: int
    """Width and height of the images it was trained on."""
    orbit: str
    """Its cameras: a key of `orbits.ORBIT_PRESETS`."""
    steps: int
    """Steps that its authors sample with."""
    guidance: GuidanceConfig
    """The guidance that its authors sample with."""
    domains: tuple[str, ...] = ("colour",)
    """What is painted of each view, in this order."""
    sigma_max: float = 700.0
    """The noise level that sampling starts from."""
    sigma_min: float = 0.002
    """The last noise level above 0."""
    noise_aug_strength: float = 0.02
    """Standard deviation of the noise added to the input image, which is told to the network."""
    noise_aug_target: Literal["image", "latent"] = "image"
    """What the noise is added to: the image (-1..1), or its latent (V3D)."""
    input_view: int = 0
    """Which view shows the input image: 0, or -1 for the last (SV3D)."""
    reuse_input_view: bool = False
    """Whether that view is replaced by the input image itself after decoding."""
    added_conditions: tuple[str, ...] = ("fps", "motion", "augmentation")
    """What is embedded beside the noise level, in order: 256 numbers each, 512 for angles."""
    fps_id: int = 6
    """Frames a second less 1, as SVD was told."""
    motion_bucket_id: int = 127
    """SVD's motion bucket."""
    foreground_ratio: float = 0.7
    """The object's longer side as a share of the input image."""
    free_elevation: bool = False
    """Whether the orbit's elevations are free."""
    upscale: int = 1
    """How many times larger than painted the views are given: the fusion looks at pixels' centres,
    and between those of coarse ones it would see nothing."""
    caveats: str = ""
    """What users must know before they trust it, in one sentence; "" where there is nothing."""


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
        # trained by this project on simple synthetic objects, small enough to ship with it
        Family(
            name="nova3d-mini",
            label="NOVA3D mini",
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
                "NOVA3D mini knows simple synthetic objects at 64 pixels only: expect coarse or "
                "wrong views of photographs and of finer things."
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
            noise_aug_strength=1e-5,
            input_view=-1,
            reuse_input_view=True,
            added_conditions=("augmentation", "polar", "azimuth"),
            foreground_ratio=0.8,
            free_elevation=True,
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
    )
}
"""By name; SVD itself paints no orbit, and Ouroboros3D needs its reconstruction model."""
