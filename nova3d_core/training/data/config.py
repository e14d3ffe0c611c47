"""Settings of the training data: images, shards, sources."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ...checks import check_bounds, check_choice
from ...conventions import UpAxis

ImageFormat = Literal["png", "npy"]
IMAGE_FORMATS: tuple[str, ...] = get_args(ImageFormat)


@dataclass(frozen=True)
class LightConfig:
    """A soft light that is fixed to the world, so that every view of a surface has one shade.

    Colours are multiplied by ambient + key * (0.5 + 0.5 n.l), without shadows.
    """

    ambient: float = 0.62
    """Share of full light that comes from everywhere; 1 with no key light is flat colour."""
    key: float = 0.42
    """Further share on surfaces that face the light; half of it at right angles."""
    azimuth_deg: float = -35.0
    """Where the light comes from: 0 from the front view, 90 from its right."""
    elevation_deg: float = 50.0
    """How high the light stands."""

    def __post_init__(self):
        check_bounds(
            self,
            "light",
            ambient=(0.0, 2.0),
            key=(0.0, 2.0),
            azimuth_deg=(-360.0, 360.0),
            elevation_deg=(-90.0, 90.0),
        )


@dataclass(frozen=True)
class ImageConfig:
    """How training images are taken."""

    size_px: int = 64
    """Width and height."""
    views: int = 16
    """Cameras of the default rig, evenly spaced from azimuth 0."""
    supersample: int = 3
    """Samples along each side of a pixel; 3 means 9 samples a pixel."""
    light: LightConfig = field(default_factory=LightConfig)
    """The light on the colours."""

    def __post_init__(self):
        check_bounds(
            self,
            "image",
            size_px=(8, 2048),
            views=(1, 360),
            supersample=(1, 8),
        )


@dataclass(frozen=True)
class DatasetConfig:
    """How a set of training objects is rendered."""

    seed: int = 0
    """Chooses the procedural objects, and the fronts of listed meshes."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """How images are taken."""
    per_shard: int = 500
    """Objects of a tar file."""
    fronts: int = 1
    """Random fronts of each listed mesh, each an object of its own; procedural objects have one,
    of their own."""
    up_axis: UpAxis = "+Y"
    """Which way is up in the listed meshes; glTF says +Y, many scans say +Z."""
    most_faces: int = 2_000_000
    """A listed mesh with more faces is skipped."""
    most_mib: float = 512.0
    """A listed file that is larger is skipped before it is read."""
    images_as: ImageFormat = "png"
    """png: an eighth of the size, any viewer shows them; npy: read a little quicker."""

    def __post_init__(self):
        check_bounds(
            self,
            "dataset",
            seed=(0, 2**31 - 1),
            per_shard=(1, 100_000),
            fronts=(1, 1000),
            most_faces=(1, 2**31 - 1),
            most_mib=(0.001, 1e6),
        )
        check_choice("dataset images_as", self.images_as, IMAGE_FORMATS)


@dataclass(frozen=True)
class PrecomputeConfig:
    """What is worked out of images once, so that training reads none."""

    variants: int = 4
    """Draws of each object's input image: its background and the noise on it. Training takes one
    of them at random."""
    seed: int = 0
    """Start of the draws."""
    augmentation_mean: float = -3.0
    """Mean of ln(strength) of the noise on the input image."""
    augmentation_std: float = 0.5
    """Standard deviation of ln(strength)."""
    background_share: float = 0.5
    """Share of the draws whose background is not white but a random grey or colour."""
    at_once: int = 16
    """Images that are encoded together."""

    def __post_init__(self):
        check_bounds(
            self,
            "precompute",
            variants=(1, 1000),
            seed=(0, 2**31 - 1),
            augmentation_mean=(-20.0, 5.0),
            augmentation_std=(0.0, 5.0),
            background_share=(0.0, 1.0),
            at_once=(1, 4096),
        )
