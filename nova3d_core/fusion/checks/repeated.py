"""Check for one image that is given to several cameras."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ...views import Views
from .consistency import downsampled
from .silhouettes import listed

_SIDE_PX = 64
"""Object size at which images are compared."""
_SAME_IMAGE = 0.001
"""Mean difference of two copies of an image, relative to the object's area."""
_UNIFORM_ROW = 0.02
"""Mean deviation from its row's mean colour on an object without a texture around its axis."""
_SAME_ROTATION_RAD = 0.03
_MIN_ROTATION_RAD = 0.02
"""Cameras closer than this may show the same image."""


@dataclass(frozen=True)
class RepeatedImages:
    """Views of different cameras that show the same image."""

    views: tuple[int, ...]
    is_every_view: bool
    is_plain: bool = False
    """Whether the image may be that of a surface of revolution without texture around its axis."""

    @property
    def problem(self) -> str:
        """What is wrong, without a full stop."""
        if self.is_every_view:
            return f"all {len(self.views)} views show the same image"
        return f"views {listed(list(self.views))} show the same image"

    @property
    def hint(self) -> str:
        """What to do about it."""
        return (
            "Give each camera its own image; only an object that looks the same from these sides "
            "is right like this."
        )


def check_repeated(views: Views) -> RepeatedImages | None:
    """The views that repeat an image, unless the object's symmetry may explain that some do.

    A surface of revolution without texture around its axis, and an object with a rotational
    symmetry, look the same from several cameras: all pairs of cameras with that rotation between
    them then show the same image, not only some.

    Args:
        views: masked views on the CPU.
    """
    small = downsampled(views, _SIDE_PX)
    layers = torch.cat([small.colour, small.masks[..., None]], dim=-1)  # (V, H, W, 4)
    area = small.masks.sum(dim=(1, 2))  # (V,)
    pairs = list(itertools.combinations(range(len(views)), 2))
    same = {pair: _is_same(layers, area, *pair) for pair in pairs}
    rotation = views.cameras.rotation
    relative = {pair: rotation[pair[1]] @ rotation[pair[0]].T for pair in pairs}
    found: set[int] = set()
    for pair in pairs:
        if not same[pair] or _angle_rad(relative[pair]) < _MIN_ROTATION_RAD:
            continue
        if _has_uniform_rows(small, pair[0]):
            continue
        if not _is_symmetry(pair, same, relative):
            found |= set(pair)
    if all(same.values()):
        return RepeatedImages(tuple(range(len(views))), True, _has_uniform_rows(small, 0))
    return RepeatedImages(tuple(sorted(found)), False) if found else None


def _is_same(layers: Tensor, area: Tensor, one: int, other: int) -> bool:
    difference = (layers[one] - layers[other]).abs().mean(dim=-1).sum()
    return float(difference) < _SAME_IMAGE * float(torch.minimum(area[one], area[other]))


def _is_symmetry(
    pair: tuple[int, int],
    same: dict[tuple[int, int], bool],
    relative: dict[tuple[int, int], Tensor],
) -> bool:
    """Whether all other pairs with the same rotation between their cameras also look the same."""
    others = [
        same[other]
        for other, rotation in relative.items()
        if other != pair
        and min(_angle_rad(relative[pair] @ each.T) for each in (rotation, rotation.T))
        < _SAME_ROTATION_RAD
    ]
    return bool(others) and all(others)


def _angle_rad(rotation: Tensor) -> float:
    """Angle of a rotation (3, 3)."""
    cosine = (rotation.diagonal().sum() - 1.0) / 2.0
    return float(torch.acos(cosine.clamp(-1.0, 1.0)))


def _has_uniform_rows(views: Views, view: int) -> bool:
    """Whether each row of the object has one colour: nothing shows a rotation about the axis."""
    inside = (views.masks[view] > 0.95).float()[..., None]  # (H, W, 1)
    colour = views.colour[view]
    mean = (colour * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(1.0)  # (H, 3)
    deviation = ((colour - mean[:, None]).abs() * inside).sum() / inside.sum().clamp_min(1.0)
    return float(deviation) / 3.0 < _UNIFORM_ROW
