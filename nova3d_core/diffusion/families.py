"""The model families that can be sampled, and how each one was trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..checks import check_between, check_bounds, check_choice

GuidanceKind = Literal["triangle", "linear", "constant"]
GUIDANCE_KINDS: tuple[str, ...] = get_args(GuidanceKind)


@dataclass(frozen=True)
class GuidanceConfig:
    """How strongly each view follows the input image (classifier-free guidance)."""

    kind: GuidanceKind = "triangle"
    """triangle: grows with the angle from the input view, to the back; linear: grows from the first
    view to the last; constant: `highest` everywhere."""
    lowest: float = 1.0
    """Scale at the input view (triangle) or at the first one (linear)."""
    highest: float = 2.5
    """Scale at the back (triangle), at the last view (linear), or everywhere (constant)."""

    def __post_init__(self):
        check_choice("guidance kind", self.kind, GUIDANCE_KINDS)
        check_bounds(self, "guidance", lowest=(0.0, 100.0), highest=(0.0, 100.0))


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
    noise_augmentation: float = 0.02
    """Standard deviation of the noise added to the input image, which is told to the network."""
    augmented: Literal["image", "latent"] = "image"
    """What the noise is added to: the image (-1..1), or its latent (V3D)."""
    input_view: int = 0
    """Which view shows the input image: 0, or -1 for the last (SV3D)."""
    keeps_input: bool = False
    """Whether that view is replaced by the input image itself after decoding."""
    added: tuple[str, ...] = ("fps", "motion", "augmentation")
    """What is embedded beside the noise level, in order: 256 numbers each, 512 for angles."""
    fps_id: int = 6
    """Frames a second less 1, as SVD was told."""
    motion_id: int = 127
    """SVD's motion bucket."""
    object_share: float = 0.7
    """The object's longer side as a share of the input image."""
    any_elevation: bool = False
    """Whether the orbit's elevations are free."""
    enlarged: int = 1
    """How many times larger than painted the views are given: the fusion looks at pixels' centres,
    and between those of coarse ones it would see nothing."""
    limits: str = ""
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
            added=("augmentation",),
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
            added=("augmentation",),
            keeps_input=True,
            object_share=0.64,
            enlarged=2,
            limits=(
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
            noise_augmentation=1e-5,
            input_view=-1,
            keeps_input=True,
            added=("augmentation",),
            object_share=0.8,
        ),
        Family(
            name="sv3d_p",
            label="SV3D p",
            views=21,
            size_px=576,
            orbit="sv3d",
            steps=50,
            guidance=GuidanceConfig("triangle", 1.0, 2.5),
            noise_augmentation=1e-5,
            input_view=-1,
            keeps_input=True,
            added=("augmentation", "polar", "azimuth"),
            object_share=0.8,
            any_elevation=True,
        ),
        Family(
            name="v3d",
            label="V3D",
            views=18,
            size_px=512,
            orbit="v3d",
            steps=25,
            guidance=GuidanceConfig("constant", 3.5, 3.5),
            augmented="latent",
            fps_id=1,
            motion_id=300,
        ),
    )
}
"""By name; SVD itself paints no orbit, and Ouroboros3D needs its reconstruction model."""


@dataclass(frozen=True)
class SampleConfig:
    """How views are sampled."""

    seed: int = 0
    """Start of the noise; the same seed repeats the views on the same device."""
    steps: int | None = None
    """Denoising steps; the family's own if None."""
    guidance: GuidanceConfig | None = None
    """How strongly views follow the image; the family's own if None."""
    size_px: int | None = None
    """Width and height, mostly a multiple of 64; the family's own if None."""
    elevation_deg: float = 0.0
    """Height of the orbit where no cameras are given. SV3D p is told of it; the others stay at the
    height from which the image was taken, whatever that was, and only their cameras have it."""
    decode_at_once: int | None = None
    """Images decoded together; as many as fit `memory_gib` if None."""
    memory_gib: float = 4.0
    """Memory that one decoding may take beside the weights; where a step of sampling fits too, both
    halves of its guidance run together on a GPU."""
    guidance_cutoff: tuple[float, float] = field(default=(0.0, float("inf")))
    """Noise levels between which guidance is used; outside, the pass without image is saved."""

    def __post_init__(self):
        check_bounds(
            self,
            "sampling",
            seed=(0, 2**64 - 1),
            steps=(1, 1000),
            size_px=(64, 2048),
            elevation_deg=(-90.0, 90.0),
            decode_at_once=(1, 4096),
            memory_gib=(0.1, 1e6),
        )
        low, high = self.guidance_cutoff
        check_between("sampling guidance_cutoff's start", low, 0.0, 1e12)
        if high != float("inf"):  # no end
            check_between("sampling guidance_cutoff's end", high, low, 1e12)
