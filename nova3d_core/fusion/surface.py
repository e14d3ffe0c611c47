"""Result of a fusion: surface, refined cameras, conflict maps and report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..sdf_grid import SdfGrid, sample_trilinear


@dataclass(frozen=True)
class FusionReport:
    """Statistics of an optimisation as plain numbers."""

    steps: int
    """Optimisation steps; 0 for a visual hull."""
    rays: int
    """Number of rays through pixels on or near the object."""
    spacing: float
    """Cell size of the last level, in world units."""
    rotation_deg: tuple[float, ...] = ()
    """Rotation of each view relative to its input pose."""
    translation: tuple[float, ...] = ()
    """In-plane translation of the object's centre in each view, in world units."""
    reverted: tuple[int, ...] = ()
    """Views that kept their input pose because it fits their silhouette better."""
    gains: tuple[tuple[float, float, float], ...] = ()
    """Exposure of each view relative to view 0."""
    mean_conflict: tuple[float, ...] = ()
    """Mean H of each view over its mask."""
    warp_px: tuple[float, ...] = ()
    """Root mean square displacement of each view's foreground by its warp, in pixels of the images
    that were fused; empty if no view was warped."""
    losses: dict[str, float] = field(default_factory=dict)
    """Mean of each loss term over the last rays."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""

    def to_dict(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Surface:
    """A fused surface in the world of the input cameras."""

    grid: SdfGrid
    """Signed distances in field coordinates; see `field_to_world`."""
    field_to_world: Tensor
    """(4, 4) rigid transform from field to world; undoes the motion of view 0."""
    cameras: Cameras
    """V refined cameras; view 0 has exactly its input pose."""
    conflict: Tensor
    """(V, H, W) in 0..1: H of eq. 5, how much a pixel contradicts the other views; 0 outside the
    masks."""
    report: FusionReport
    """Statistics of the optimisation."""

    warps: Tensor | None = None
    """(V, 2, n, n) nodes of the smooth warps by which the views agree, see `imaging.warps`, in
    fractions of the image's width and height; None if they agree without."""

    @property
    def is_hull(self) -> bool:
        """Whether the surface was carved only: no optimisation step, input poses, no conflict."""
        return self.report.steps == 0

    def sdf(self, points: Tensor) -> Tensor:
        """(N,) signed distances at world points (N, 3); clamped to the border outside the grid."""
        to_field = torch.linalg.inv(self.field_to_world)
        local = points @ to_field[:3, :3].T + to_field[:3, 3]
        size = torch.tensor(self.grid.values.shape) - 1
        coordinates = (local - self.grid.origin) / self.grid.spacing / size * 2 - 1
        return sample_trilinear(self.grid.values[None], coordinates)[0]
