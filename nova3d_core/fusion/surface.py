"""What the fusion gives: a surface, refined cameras, where views conflict, and how it went."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..sdf_grid import SdfGrid


@dataclass(frozen=True)
class FusionReport:
    """How an optimisation went; plain numbers."""

    steps: int
    """Steps taken."""
    rays: int
    """Rays of the views near the object."""
    spacing: float
    """Cell size of the last level, world units."""
    turn_deg: tuple[float, ...] = ()
    """By how much each view's pose was turned."""
    shift: tuple[float, ...] = ()
    """How far each view's image of the object's centre moved, world units."""
    reverted: tuple[int, ...] = ()
    """Views whose given pose fits their silhouette better: they kept it."""
    gains: tuple[tuple[float, float, float], ...] = ()
    """Exposure of each view relative to view 0."""
    mean_conflict: tuple[float, ...] = ()
    """Mean H of each view over its mask."""
    losses: dict[str, float] = field(default_factory=dict)
    """Mean of each term over the last rays."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each part."""

    def to_dict(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Surface:
    """A fused surface in the world of the given cameras."""

    grid: SdfGrid
    """Signed distances; `field_to_world` takes its points into the world."""
    field_to_world: Tensor
    """(4, 4) rigid: undoes what the optimisation moved view 0 by."""
    cameras: Cameras
    """V refined cameras; view 0 is exactly as given."""
    conflict: Tensor
    """(V, H, W) in 0..1: H of eq. 5, how much each pixel contradicts the other views; 0 outside the
    masks."""
    report: FusionReport
    """How it went."""

    def sdf(self, points: Tensor) -> Tensor:
        """(N,) signed distances at world points (N, 3); at the grid's edge its border's value."""
        to_field = torch.linalg.inv(self.field_to_world)
        places = points @ to_field[:3, :3].T + to_field[:3, 3]
        size = torch.tensor(self.grid.values.shape) - 1
        where = ((places - self.grid.origin) / self.grid.spacing / size * 2 - 1).flip(-1)
        return torch.nn.functional.grid_sample(
            self.grid.values[None, None],
            where[None, None, None],
            align_corners=True,
            padding_mode="border",
        )[0, 0, 0, 0]
