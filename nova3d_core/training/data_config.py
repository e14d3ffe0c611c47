"""Settings of the training data: pictures, shards, sources."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..checks import check_between


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
        check_between("light ambient", self.ambient, 0.0, 2.0)
        check_between("light key", self.key, 0.0, 2.0)
        check_between("light azimuth_deg", self.azimuth_deg, -360.0, 360.0)
        check_between("light elevation_deg", self.elevation_deg, -90.0, 90.0)


@dataclass(frozen=True)
class PictureConfig:
    """How training pictures are taken."""

    size_px: int = 64
    """Width and height."""
    views: int = 16
    """Cameras of the default rig, evenly spaced from azimuth 0."""
    supersample: int = 2
    """Samples along each side of a pixel; 2 means 4 samples a pixel."""
    light: LightConfig = field(default_factory=LightConfig)
    """The light on the colours."""

    def __post_init__(self):
        check_between("picture size_px", self.size_px, 8, 2048)
        check_between("picture views", self.views, 1, 360)
        check_between("picture supersample", self.supersample, 1, 8)
