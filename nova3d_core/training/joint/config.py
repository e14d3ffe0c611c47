"""Settings of joint training."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...checks import check_bounds, check_choice
from ...diffusion.network.config import COORDINATE_KINDS, CoordinateKind
from ...reconstruction.config import LgmConfig
from ...recursion.config import FEEDBACK_SOURCES, FeedbackSource

FAMILY = "ouroboros3d"
"""The family that is trained jointly."""


@dataclass(frozen=True)
class JointConfig:
    """Reconstruction model, feedback and losses of joint training; only for ouroboros3d."""

    feedback: FeedbackSource = "both"
    """Renders that the second pass sees: both, colour, coordinates, or none."""
    feedback_probability: float = 0.5
    """Probability that an object has a second pass with feedback, whose loss replaces that of the
    first."""
    coordinates: CoordinateKind = "true"
    """Coordinate maps: true: points of the object; released: as computed by the authors' code."""
    reconstruction_start: str = ""
    """LGM, or a reconstruction model of Ouroboros3D, to start from. Empty: random weights, or the
    second file of the pair if `start` is its first one."""
    reconstruction: LgmConfig = field(default_factory=lambda: LgmConfig(time_channels=128))
    """The reconstruction network, if `reconstruction_start` is empty."""
    reconstruction_size_px: int = 256
    """Width and height of its input images."""
    lpips_weight: float = 1.0
    """Weight of LPIPS (AlexNet) in the loss of the renders; 0 for L1 alone, which needs no file."""

    def __post_init__(self):
        check_choice("joint feedback", self.feedback, FEEDBACK_SOURCES)
        check_choice("joint coordinates", self.coordinates, COORDINATE_KINDS)
        check_bounds(
            self,
            "joint training",
            feedback_probability=(0.0, 1.0),
            reconstruction_size_px=(8, 2048),
            lpips_weight=(0.0, 100.0),
        )
