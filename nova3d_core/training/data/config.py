"""Settings of training data: images, shards, sources."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ...checks import check_bounds, check_choice
from ...conventions import UpAxis
from .orbits import TRAINING_ORBITS, TrainingOrbit

ImageFormat = Literal["png", "npy"]
IMAGE_FORMATS: tuple[str, ...] = get_args(ImageFormat)
NoiseTarget = Literal["image", "latent"]
NOISE_TARGETS: tuple[str, ...] = get_args(NoiseTarget)


@dataclass(frozen=True)
class LightConfig:
    """Soft directional light, fixed in the world, so that a surface has one shade in all views.

    Colours are multiplied by ambient + key * (0.5 + 0.5 n.l), without shadows.
    """

    ambient: float = 0.62
    """Ambient intensity; 1 with `key` 0 renders unlit colours."""
    key: float = 0.42
    """Additional intensity on surfaces that face the light; half of it at right angles."""
    azimuth_deg: float = -35.0
    """Azimuth of the light: 0 is the front view, 90 its right."""
    elevation_deg: float = 50.0
    """Elevation of the light."""

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
    """Rendering of training images."""

    size_px: int = 64
    """Width and height."""
    family: str = "nova3d"
    """Cameras of this model family's training: nova3d, sv3d_u, sv3d_p, v3d or ouroboros3d."""
    views: int | None = None
    """Number of views; the family's if None."""
    supersample: int = 3
    """Samples along each side of a pixel; 3 means 9 samples per pixel."""
    light: LightConfig = field(default_factory=LightConfig)
    """Lighting of the colour images."""

    def __post_init__(self):
        check_bounds(
            self,
            "image",
            size_px=(8, 2048),
            views=(1, 360),
            supersample=(1, 8),
        )
        check_choice("image family", self.family, tuple(TRAINING_ORBITS))

    @property
    def orbit(self) -> TrainingOrbit:
        """The kind of orbit."""
        return TRAINING_ORBITS[self.family]

    @property
    def view_count(self) -> int:
        """Number of views."""
        return self.orbit.views if self.views is None else self.views


@dataclass(frozen=True)
class DatasetConfig:
    """Rendering of a dataset."""

    seed: int = 0
    """Seed of procedural objects, of the random yaws of listed meshes, and of random orbits."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """Images."""
    objects_per_shard: int = 500
    """Objects per tar file."""
    yaws_per_mesh: int = 1
    """Number of random front views per listed mesh, each an object; procedural objects have one."""
    up_axis: UpAxis = "+Y"
    """Up axis of the listed meshes; +Y in glTF, often +Z in scans."""
    max_faces: int = 2_000_000
    """Listed meshes with more faces are skipped."""
    max_mesh_mib: float = 512.0
    """Larger mesh files are skipped without being read."""
    image_format: ImageFormat = "png"
    """png: an eighth of the size, viewable anywhere; npy: slightly faster to read."""

    def __post_init__(self):
        check_bounds(
            self,
            "dataset",
            seed=(0, 2**31 - 1),
            objects_per_shard=(1, 100_000),
            yaws_per_mesh=(1, 1000),
            max_faces=(1, 2**31 - 1),
            max_mesh_mib=(0.001, 1e6),
        )
        check_choice("dataset image_format", self.image_format, IMAGE_FORMATS)


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation of the input image: noise and background."""

    noise_log_mean: float = -3.0
    """Mean of ln(strength) of the noise added to the input image."""
    noise_log_std: float = 0.5
    """Standard deviation of ln(strength)."""
    random_background_fraction: float = 0.5
    """Fraction of input images with a random grey or coloured background instead of white. Target
    images are always on white."""

    def __post_init__(self):
        check_bounds(
            self,
            "augmentation",
            noise_log_mean=(-20.0, 5.0),
            noise_log_std=(0.0, 5.0),
            random_background_fraction=(0.0, 1.0),
        )


@dataclass(frozen=True)
class PrecomputeConfig:
    """Latents and embeddings computed once, so that training reads no images."""

    variants: int = 4
    """Augmented variants of each object's input image; each training step uses a random one."""
    noise_target: NoiseTarget = "image"
    """Where the noise is added: to the image, or to its latent, as V3D needs it."""
    keep_images: bool = False
    """Also store the colour images, which ouroboros3d needs."""
    seed: int = 0
    """Seed of the augmentation."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Noise and background of the input image."""

    def __post_init__(self):
        check_bounds(self, "precompute", variants=(1, 1000), seed=(0, 2**31 - 1))
        check_choice("precompute noise_target", self.noise_target, NOISE_TARGETS)
