"""Settings of UV unwrapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InputError

UnwrapMethod = Literal["xatlas", "box"]
UNWRAP_METHODS: tuple[str, ...] = get_args(UnwrapMethod)


@dataclass(frozen=True)
class UnwrapConfig:
    """How a surface is cut into charts."""

    method: UnwrapMethod = "xatlas"
    """xatlas: few charts of little distortion, and the box atlas where it fails or takes too long.
    box: the box atlas at once, projections along the six axes."""
    padding_px: int = 3
    """Texels between two charts, and from side to opposite side; 2 is enough for bilinear reading,
    each mip level wants twice as much."""
    time_limit_s: float = 30.0
    """Seconds after which xatlas is stopped and the box atlas takes over."""
    faces_per_part: int = 2500
    """xatlas works on balanced pieces of about this many faces, side by side on all cores; its time
    grows with the square of the piece."""

    def __post_init__(self):
        if self.method not in UNWRAP_METHODS:
            raise InputError(
                f"method is '{self.method}', expected one of {', '.join(UNWRAP_METHODS)}."
            )
        if not 0 <= self.padding_px <= 64:
            raise InputError(f"padding_px is {self.padding_px}, expected 0 to 64.")
        if not self.time_limit_s > 0:
            raise InputError(f"time_limit_s is {self.time_limit_s}, expected a number above 0.")
        if self.faces_per_part < 100:
            raise InputError(f"faces_per_part is {self.faces_per_part}, expected at least 100.")
