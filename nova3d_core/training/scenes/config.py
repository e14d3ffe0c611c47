"""Settings of a run that trains a model for scenes; the defaults are V3D's."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...checks import check_bounds
from ...diffusion.network.pixelnerf_config import PixelNerfConfig


@dataclass(frozen=True)
class SceneConfig:
    """Conditioner, clips and loss of a model for scenes; other families ignore it."""

    conditioner: PixelNerfConfig = field(default_factory=PixelNerfConfig)
    """The PixelNeRF conditioner, if `start` has none."""
    views: int = 24
    """Views of a clip, generated together; the first is also the first source."""
    rooms: int = 0
    """Distinct procedural rooms, which are kept in memory and repeated; 0 for new ones always."""
    max_sources: int = 4
    """1 to this many views of a clip are sources, the same number in a step."""
    dropout: float = 0.2
    """Probability with which each of image embeddings, latent and features is dropped."""
    colour_weight: float = 1.0
    """Weight of the mean squared error of the conditioner's colours (V3D, eq. 3)."""

    def __post_init__(self):
        check_bounds(
            self,
            "training scene",
            views=(2, 1024),
            rooms=(0, 10**6),
            max_sources=(1, 64),
            dropout=(0.0, 1.0),
            colour_weight=(0.0, 1e6),
        )
