"""Check for one image that is given to several cameras."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ...views import Views
from .consistency import downsampled, evenly_spaced
from .silhouettes import listed

_MAX_VIEWS = 64
"""Of more views, this many evenly spaced ones are compared, each with each."""
_SIDE_PX = 64
"""Object size at which images are compared."""
_SAME_IMAGE = 0.001
"""Mean difference of two copies of an image, relative to the object's area."""
_UNIFORM_ROW = 0.02
"""Mean deviation from its row's mean colour on an object without a texture around its axis."""
_MIRRORED = 0.01
"""Mean difference of an image of a surface of revolution from its mirror image. Bottles at an
elevation of 30 degrees: 0.001; snowmen with faces and irregular vases: 0.05 and more."""
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
    is_mirrored: bool = False
    """Whether the images equal their mirror images, as those of any such surface do, seen from any
    elevation; so do front views of other objects, whose silhouettes differ between cameras."""

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
    chosen = evenly_spaced(len(views), _MAX_VIEWS)
    small = downsampled(views.without_normals()[chosen], _SIDE_PX)
    layers = torch.cat([small.colour, small.masks[..., None]], dim=-1)  # (V, H, W, 4)
    area = small.masks.sum(dim=(1, 2))  # (V,)
    pairs = list(itertools.combinations(range(len(small)), 2))
    same = {pair: _is_same(layers, area, *pair) for pair in pairs}
    rotation = small.cameras.rotation
    one, other = torch.tensor(pairs).T
    relative = rotation[other] @ rotation[one].mT  # (N, 3, 3)
    is_same = torch.tensor([same[pair] for pair in pairs])  # (N,)
    angles = _angle_rad(relative)  # (N,)
    plain = [_has_uniform_rows(small, view) for view in range(len(small))]
    found: set[int] = set()
    for index in (is_same & (angles >= _MIN_ROTATION_RAD)).nonzero()[:, 0].tolist():
        if not plain[pairs[index][0]] and not _is_symmetry(index, is_same, relative):
            found |= set(pairs[index])
    if all(same.values()):
        return RepeatedImages(tuple(range(len(views))), True, plain[0], _is_mirrored(layers[0]))
    if not found:
        return None
    repeated = sorted(found)
    is_mirrored = all(_is_mirrored(layers[view]) for view in repeated)
    return RepeatedImages(tuple(chosen[repeated].tolist()), False, is_mirrored=is_mirrored)


def _is_same(layers: Tensor, area: Tensor, one: int, other: int) -> bool:
    difference = (layers[one] - layers[other]).abs().mean(dim=-1).sum()
    return float(difference) < _SAME_IMAGE * float(torch.minimum(area[one], area[other]))


def _is_symmetry(index: int, is_same: Tensor, relative: Tensor) -> bool:
    """Whether all other pairs with the same rotation between their cameras also look the same.

    Args:
        index: of a pair.
        is_same: (N,) whether the images of each pair are the same.
        relative: (N, 3, 3) rotations between the cameras of each pair.
    """
    differences = (_angle_rad(relative[index] @ each) for each in (relative.mT, relative))
    others = torch.minimum(*differences) < _SAME_ROTATION_RAD
    others[index] = False
    return bool(others.any()) and bool(is_same[others].all())


def _angle_rad(rotation: Tensor) -> Tensor:
    """(N,) angles of rotations (N, 3, 3)."""
    cosine = (rotation.diagonal(dim1=1, dim2=2).sum(dim=1) - 1.0) / 2.0
    return torch.acos(cosine.clamp(-1.0, 1.0))


def _is_mirrored(layers: Tensor) -> bool:
    """Whether colours and mask (H, W, 4) equal their mirror image about the object's middle."""
    columns = (layers[..., 3] > 0.5).any(dim=0).nonzero()[:, 0]
    cropped = layers[:, int(columns[0]) : int(columns[-1]) + 1]
    weight = torch.maximum(cropped[..., 3], cropped[..., 3].flip(1))
    difference = (cropped - cropped.flip(1)).abs().mean(dim=-1)
    return float((difference * weight).sum() / weight.sum()) < _MIRRORED


def _has_uniform_rows(views: Views, view: int) -> bool:
    """Whether each row of the object has one colour: nothing shows a rotation about the axis."""
    inside = (views.masks[view] > 0.95).float()[..., None]  # (H, W, 1)
    colour = views.colour[view]
    mean = (colour * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(1.0)  # (H, 3)
    deviation = ((colour - mean[:, None]).abs() * inside).sum() / inside.sum().clamp_min(1.0)
    return float(deviation) / 3.0 < _UNIFORM_ROW
