"""Settings of added and estimated normals."""

from __future__ import annotations

from typing import Literal, get_args

NormalFlip = Literal["none", "red", "green", "red and green"]
"""Channels of a normal map that are inverted before it is decoded."""
NORMAL_FLIPS: tuple[str, ...] = get_args(NormalFlip)

FLIPPED_CHANNELS: dict[str, frozenset[str]] = {
    flip: frozenset(channel for channel in ("red", "green") if channel in flip)
    for flip in NORMAL_FLIPS
}
"""Names of the channels that each flip inverts."""
