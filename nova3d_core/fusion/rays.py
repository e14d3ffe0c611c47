"""The views' pixels as rays with what they should see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..views import Views

STEEPEST_COSINE = -0.1
"""L_normal leaves out normals at a flatter angle to their ray than this (Wonder3D)."""
_SEEN = 0.02
"""A mask's value that counts as seeing something of the object."""


@dataclass(frozen=True, eq=False)
class RayBank:
    """N rays of all views' pixels on the object and a little around it, with their targets."""

    view: Tensor
    """(N,) index of the view."""
    pixel: Tensor
    """(N, 2) x and y, pixel centres at +0.5."""
    origin: Tensor
    """(N, 3) in the world of the given poses."""
    direction: Tensor
    """(N, 3) unit vectors."""
    mask: Tensor
    """(N,) in 0..1."""
    colour: Tensor
    """(N, 3) of the object alone, on black, times the mask."""
    normal: Tensor
    """(N, 3) in the world of the given poses, zero where there is none."""
    normal_weight: Tensor
    """(N,) exp |cos| to the ray where the normal counts, else 0; at most 1."""
    turns_normals: bool
    """Whether normals were given in their camera's frame and turn with its pose."""
    area: float
    """World area of a pixel at the object, times 3 / V: a point is seen by about V / 3 views."""

    def __len__(self) -> int:
        return len(self.view)

    def to(self, device: torch.device) -> RayBank:
        """The same rays on another device."""
        return self.each(lambda values: values.to(device))

    def at(self, ids: Tensor) -> RayBank:
        """Some of the rays, ids (R,)."""
        # a third of the time that indexing takes
        return self.each(lambda values: values.index_select(0, ids))

    def each(self, change: Callable[[Tensor], Tensor]) -> RayBank:
        """The bank with every tensor (N, ...) changed the same way."""
        parts = vars(self).items()
        changed = {name: change(part) for name, part in parts if isinstance(part, Tensor)}
        return replace(self, **changed)


def ray_bank(views: Views, margin_px: int, use_normals: bool) -> RayBank:
    """Collects the rays of masked views.

    Args:
        views: V views with masks.
        margin_px: pixels so far outside a mask are looked at, too.
        use_normals: whether normals are wanted, where there are some.
    """
    turns = views.normal_frame == "camera"
    views = views.with_world_normals()
    reach = 2 * margin_px + 1
    seen = (views.masks > _SEEN).float()[:, None]
    near = torch.nn.functional.max_pool2d(seen, reach, 1, margin_px)[:, 0] > 0  # (V, H, W)
    view, row, column = near.nonzero().unbind(dim=1)
    pixel = torch.stack([column, row], dim=1) + 0.5
    origin, direction = rays_of(views.cameras, view, pixel)
    mask, colour = views.masks[near], views.colour[near]
    normal = torch.zeros_like(colour)
    if use_normals and views.normals is not None:
        normal = views.normals[near]
    cosine = (direction * normal).sum(dim=1)
    counts = (cosine < STEEPEST_COSINE) & (normal.norm(dim=1) > 0.5) & (mask > 0.5)
    weight = torch.where(counts, torch.exp(cosine.abs() - 1.0), torch.zeros_like(cosine))
    on_black = (colour - (1.0 - mask)[:, None]).clamp(0.0, 1.0)
    area = pixel_area(views.cameras, _centre(views.cameras, mask, view, pixel))
    area = area * 3.0 / len(views)
    return RayBank(view, pixel, origin, direction, mask, on_black, normal, weight, turns, area)


def rays_of(cameras: Cameras, view: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (N, 3) of the rays through pixels (N, 2) of views (N,)."""
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[view][:, :2]
    plane = (pixel - cameras.intrinsics[view, :2, 2]) / focal
    rotation = cameras.rotation
    if cameras.kind == "perspective":
        inside = torch.nn.functional.pad(plane, (0, 1), value=1.0)
        inside = inside / inside.norm(dim=1, keepdim=True)
        return cameras.positions[view], torch.einsum("nc,ncw->nw", inside, rotation[view])
    inside = torch.nn.functional.pad(plane, (0, 1))
    origins = torch.einsum("nc,ncw->nw", inside, rotation[view]) + cameras.positions[view]
    return origins, cameras.view_directions[view]


def pixel_area(cameras: Cameras, centre: Tensor) -> float:
    """World area of a pixel at a point (3,), mean over the views."""
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    side = 1.0 / focal
    if cameras.kind == "perspective":
        side = side * cameras.project(centre[None])[1].abs()
    return float(side.prod(dim=1).mean())


def pixel_side(bank: RayBank, views: int) -> float:
    """World side of a pixel at the object, for a bank of so many views."""
    return math.sqrt(bank.area * views / 3.0)


def _centre(cameras: Cameras, mask: Tensor, view: Tensor, pixel: Tensor) -> Tensor:
    """(3,) the point nearest to the rays through the middles of the masks."""
    count = len(cameras)
    middle = torch.zeros(count, 2).index_add_(0, view, pixel * mask[:, None])
    total = torch.zeros(count).index_add_(0, view, mask).clamp_min(1e-6)
    origin, direction = rays_of(cameras, torch.arange(count), middle / total[:, None])
    across = torch.eye(3) - direction[:, :, None] * direction[:, None, :]
    right = (across @ origin[:, :, None]).sum(dim=0)
    return (torch.linalg.pinv(across.sum(dim=0), rtol=1e-4) @ right)[:, 0]


class RayDraw:
    """Draws batches of rays without repeating one before all had their turn; seeded."""

    def __init__(self, count: int, seed: int):
        self._random = torch.Generator().manual_seed(seed)
        self._count = count
        self._left = torch.empty(0, dtype=torch.int64)

    def next(self, size: int) -> Tensor:
        """(size,) ray indices in ascending order, which keeps memory access local."""
        size = min(size, self._count)
        if len(self._left) < size:
            self._left = torch.randperm(self._count, generator=self._random)
        batch, self._left = self._left[:size], self._left[size:]
        return batch.sort().values
