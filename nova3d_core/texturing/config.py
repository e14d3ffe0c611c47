"""Settings of texture baking."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_bounds
from ..errors import InputError


@dataclass(frozen=True)
class BakeConfig:
    """How the views' colours become a texture."""

    texture_px: int = 1024
    """Width and height of the texture."""
    angle_power: float = 6.0
    """A view's weight is the cosine between surface normal and view, to this power."""
    min_cosine: float = 0.1
    """Views that see the surface at a flatter angle than this do not count."""
    edge_px: float = 2.0
    """Within this distance of a silhouette or a depth step, a view's weight fades to nothing."""
    sharpen: bool = True
    """Undo the blur of pixels, so that the baked mesh renders as sharp as the views are."""
    exposure: bool = True
    """Undo gains of the views' colour channels; view 0 is the one that is right."""
    agreement: bool = True
    """A texel takes its colour from the views that agree about it."""
    agreement_tolerance: float = 0.05
    """Colours this near to each other agree fully."""
    agreement_limit: float = 0.15
    """Colours this far from each other do not agree at all."""
    first_view_votes: float = 3.0
    """How many other views the first one, the input image, outweighs where views disagree."""

    def __post_init__(self):
        check_bounds(
            self,
            "bake",
            texture_px=(16, 16_384),
            angle_power=(0.0, 32.0),
            min_cosine=(0.0, 1.0 - 1e-9),
            edge_px=(0.0, 1024.0),
            agreement_tolerance=(0.0, 2.0),
            agreement_limit=(0.0, 2.0),
            first_view_votes=(1e-6, 1000.0),
        )
        if not self.agreement_tolerance < self.agreement_limit:
            raise InputError(
                f"agreement_tolerance is {self.agreement_tolerance}, expected 0 up to "
                f"agreement_limit ({self.agreement_limit})."
            )
