"""Rays through the views' pixels with their targets, and their sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..views import Views

MAX_NORMAL_COSINE = -0.1
"""L_normal excludes normals with a larger cosine to their ray, which are grazing or face away
(Wonder3D)."""
_MIN_COVERAGE = 0.02
"""Mask value above which a pixel shows some of the object."""


@dataclass(frozen=True, eq=False)
class RayDataset:
    """N rays through the pixels on the object and close to it in all views, with their targets."""

    view: Tensor
    """(N,) index of the view."""
    pixel: Tensor
    """(N, 2) x and y, pixel centres at +0.5."""
    origin: Tensor
    """(N, 3) in the world of the input poses."""
    direction: Tensor
    """(N, 3) unit vectors."""
    mask: Tensor
    """(N,) in 0..1."""
    colour: Tensor
    """(N, 3) premultiplied by the mask, i.e. composited over black."""
    normal: Tensor
    """(N, 3) unit, in the world of the input poses; zero where there is none."""
    normal_weight: Tensor
    """(N,) exp(|cos| - 1) of the angle to the ray, 0 for excluded normals."""
    normals_in_camera_frame: bool
    """Whether the normals were given in their camera's frame, so that they rotate with its pose."""
    area: float
    """World area of a pixel at the object, times 3 / V, as about V / 3 views see a point."""

    def __len__(self) -> int:
        return len(self.view)

    def to(self, device: torch.device) -> RayDataset:
        """The same rays on another device."""
        return self.map(lambda values: values.to(device))

    def at(self, ids: Tensor) -> RayDataset:
        """The rays with indices ids (R,)."""
        # three times as fast as indexing
        return self.map(lambda values: values.index_select(0, ids))

    def map(self, function: Callable[[Tensor], Tensor]) -> RayDataset:
        """The dataset with a function applied to every tensor (N, ...)."""
        parts = vars(self).items()
        mapped = {name: function(part) for name, part in parts if isinstance(part, Tensor)}
        return replace(self, **mapped)


def ray_dataset(views: Views, margin_px: int, use_normals: bool) -> RayDataset:
    """Collects the rays of masked views.

    Args:
        views: V views with masks.
        margin_px: rays also cover pixels this far outside a mask.
        use_normals: whether to use the views' normals, where there are any.
    """
    in_camera_frame = views.normal_frame == "camera"
    views = views.with_world_normals()
    window = 2 * margin_px + 1
    covered = (views.masks > _MIN_COVERAGE).float()[:, None]
    near = torch.nn.functional.max_pool2d(covered, window, 1, margin_px)[:, 0] > 0  # (V, H, W)
    view, row, column = near.nonzero().unbind(dim=1)
    pixel = torch.stack([column, row], dim=1) + 0.5
    origin, direction = rays_of(views.cameras, view, pixel)
    mask, colour = views.masks[near], views.colour[near]
    normal = torch.zeros_like(colour)
    if use_normals and views.normals is not None:
        normal = views.normals[near]
    weight = normal_weights(direction, normal, mask)
    on_black = (colour - (1.0 - mask)[:, None]).clamp(0.0, 1.0)
    area = pixel_area(views.cameras, _object_centre(views.cameras, mask, view, pixel))
    area = area * 3.0 / len(views)
    return RayDataset(
        view, pixel, origin, direction, mask, on_black, normal, weight, in_camera_frame, area
    )


def normal_weights(direction: Tensor, normal: Tensor, mask: Tensor) -> Tensor:
    """(N,) exp(|cos| - 1) of normals (N, 3) to their rays (N, 3); 0 for excluded ones."""
    cosine = (direction * normal).sum(dim=1)
    valid = (cosine < MAX_NORMAL_COSINE) & (normal.norm(dim=1) > 0.5) & (mask > 0.5)
    return torch.where(valid, torch.exp(cosine.abs() - 1.0), torch.zeros_like(cosine))


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
    """World area of a pixel at a point (3,), averaged over the views."""
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    side = 1.0 / focal
    if cameras.kind == "perspective":
        side = side * cameras.project(centre[None])[1].abs()
    return float(side.prod(dim=1).mean())


def pixel_side(rays: RayDataset, views: int) -> float:
    """World size of a pixel at the object, for a dataset of V views."""
    return math.sqrt(rays.area * views / 3.0)


def _object_centre(cameras: Cameras, mask: Tensor, view: Tensor, pixel: Tensor) -> Tensor:
    """(3,) least-squares intersection of the rays through the centroids of the masks."""
    count = len(cameras)
    moment = torch.zeros(count, 2).index_add_(0, view, pixel * mask[:, None])
    total = torch.zeros(count).index_add_(0, view, mask).clamp_min(1e-6)
    return intersect_rays(*rays_of(cameras, torch.arange(count), moment / total[:, None]))


def intersect_rays(origins: Tensor, directions: Tensor) -> Tensor:
    """(3,) least-squares intersection of rays: origins (N, 3), unit directions (N, 3).

    Parallel rays give the minimum-norm solution.
    """
    normal = torch.eye(3) - directions[:, :, None] * directions[:, None, :]  # (N, 3, 3)
    right = (normal @ origins[:, :, None]).sum(dim=0)
    return (torch.linalg.pinv(normal.sum(dim=0), rtol=1e-4) @ right)[:, 0]


class RaySampler:
    """Samples rays without replacement, over and over; seeded."""

    def __init__(self, count: int, seed: int):
        self._generator = torch.Generator().manual_seed(seed)
        self._count = count
        self._remaining = torch.empty(0, dtype=torch.int64)

    def next(self, size: int) -> Tensor:
        """(size,) ray indices in ascending order, which keeps memory access local."""
        size = min(size, self._count)
        if len(self._remaining) < size:
            self._remaining = torch.randperm(self._count, generator=self._generator)
        batch, self._remaining = self._remaining[:size], self._remaining[size:]
        return batch.sort().values
