"""Settings of texture baking."""

from __future__ import annotations

from dataclasses import dataclass

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
    """How many other views the first one, the input picture, outweighs where views disagree."""

    def __post_init__(self):
        if not 16 <= self.texture_px <= 16384:
            raise InputError(f"texture_px is {self.texture_px}, expected 16 to 16384.")
        if not 0.0 <= self.angle_power <= 32.0:
            raise InputError(f"angle_power is {self.angle_power}, expected 0 to 32.")
        if not 0.0 <= self.min_cosine < 1.0:
            raise InputError(f"min_cosine is {self.min_cosine}, expected 0 up to 1.")
        if not self.edge_px >= 0.0:
            raise InputError(f"edge_px is {self.edge_px}, expected 0 or more.")
        if not 0.0 <= self.agreement_tolerance < self.agreement_limit:
            raise InputError(
                f"agreement_tolerance is {self.agreement_tolerance}, expected 0 up to "
                f"agreement_limit ({self.agreement_limit})."
            )
        if not 0.0 < self.first_view_votes <= 1000.0:
            raise InputError(f"first_view_votes is {self.first_view_votes}, expected up to 1000.")
