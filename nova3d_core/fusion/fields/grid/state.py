"""Tensors of the dense grid, and their transfer from one level to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....compute.warp_backend import NUM_CPU_LAUNCHES
from ....sdf_grid import SdfGrid, grid_points, sample_trilinear

PAD_CELLS = 6
"""Cells around the object into which the surface may move."""
ACTIVE_CELLS = 6.0
"""Voxels within this many cells of the surface are optimised."""
REDISTANCE_STEPS = 12
"""Sweeps by which distances propagate over the active voxels, also along diagonals."""
_GREY = 0.5
"""Initial colour."""
BYTES_PER_VOXEL = 16 * 8 + 4 * 6 + 1 + 8
"""Memory per voxel on a CPU: values, two gradient buffers, moments, scratch."""
_BUFFER_PAIR_BYTES = 16 * 2


def gradient_buffers(device: torch.device) -> int:
    """Number of gradient buffer pairs: one per concurrent launch on a CPU, one on a GPU."""
    return NUM_CPU_LAUNCHES if device.type == "cpu" else 1


def bytes_per_voxel(device: torch.device) -> int:
    """Memory per voxel on a device."""
    return BYTES_PER_VOXEL - _BUFFER_PAIR_BYTES * (NUM_CPU_LAUNCHES - gradient_buffers(device))


@dataclass(eq=False)
class GridState:
    """Tensors of one level, all on one device."""

    origin: Tensor
    """(3,) world position of voxel 0, 0, 0, on the CPU."""
    spacing: float
    """World size of a cell."""
    geo: Tensor
    """(X, Y, Z, 4) signed distance f and its central differences."""
    col: Tensor
    """(X, Y, Z, 4) colour in 0..1; the fourth channel is unused."""

    def __post_init__(self):
        shape, device = self.shape, self.geo.device
        self.origin_here = self.origin.to(self.geo)
        """(3,) `origin` on the grid's device."""
        pairs = range(gradient_buffers(device))
        self.grad_geo = [torch.zeros(*shape, 4, device=device) for _ in pairs]
        """Gradients of `geo`, one buffer per concurrent launch."""
        self.grad_col = [torch.zeros(*shape, 4, device=device) for _ in pairs]
        self.empty_buffer = torch.zeros(0, 1, 1, 4, device=device)
        """Placeholder of the second buffer where there is only one."""
        self.moments_geo = torch.zeros(*shape, 2, device=device)
        """Adam's two moments of f."""
        self.moment_col = torch.zeros(*shape, 4, device=device)
        self.square_col = torch.zeros(shape, device=device)
        self.scratch = [torch.zeros(shape, device=device) for _ in range(2)]
        self.laplacian = torch.zeros(shape, dtype=self.geo.dtype, device=device)
        """Laplacian of f times the squared spacing, at active voxels."""
        self.fixed = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.steps = 0
        """Adam steps taken on this level."""
        self.flat_arrays: dict[int, Any] = {}
        """The grids as flat arrays of the compiled kernels, by the grids' addresses."""
        self.activate(ACTIVE_CELLS)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        return tuple(self.geo.shape[:3])

    @property
    def strides(self) -> tuple[int, int, int]:
        """Increments of the flat voxel index along each axis."""
        _, ny, nz = self.shape
        return ny * nz, nz, 1

    def flat(self, grid: Tensor) -> Tensor:
        """View with a single voxel axis: (X Y Z,) or (X Y Z, C)."""
        return grid.view(-1, *grid.shape[3:])

    def clear(self) -> None:
        """Clears scratch and gradients: rays also write to inactive voxels."""
        for buffer in (self.laplacian, *self.scratch, *self.grad_geo, *self.grad_col):
            buffer.zero_()

    def activate(self, cells: float) -> None:
        """Selects the A voxels within `cells` of the surface, two cells off the border."""
        near = torch.zeros(self.shape, dtype=torch.bool, device=self.geo.device)
        inner = self.geo[2:-2, 2:-2, 2:-2, 0]
        near[2:-2, 2:-2, 2:-2] = inner.abs() < cells * self.spacing
        self.active = near.view(-1).nonzero()[:, 0].int()
        """(A,) flat indices of the active voxels."""


def inside_bounds(grid: SdfGrid) -> tuple[Tensor, Tensor]:
    """Bounding box of the inside, low and high corner (3,)."""
    inside = (grid.values < 0).nonzero()
    low, high = inside.amin(dim=0) - 1, inside.amax(dim=0) + 1
    return grid.origin + low * grid.spacing, grid.origin + high * grid.spacing


def to_sdf_grid(state: GridState) -> SdfGrid:
    """Signed distances on the CPU, with the outermost layer of the grid outside."""
    values = state.geo[..., 0].cpu()
    closed = values.clamp_min(state.spacing)
    closed[1:-1, 1:-1, 1:-1] = values[1:-1, 1:-1, 1:-1]
    return SdfGrid(closed, state.origin.cpu().clone(), state.spacing)


def level_spacing(start: SdfGrid, resolution: int) -> float:
    """Cell size with `resolution` cells along the longest side of the initial surface."""
    low, high = inside_bounds(start)
    return float((high - low).max()) / resolution


def level_box(low: Tensor, high: Tensor, spacing: float) -> tuple[Tensor, list[int]]:
    """Origin (3,) and shape of a grid around a box, with padding."""
    cells = ((high - low) / spacing).ceil().long() + 2 * PAD_CELLS
    origin = (low + high) / 2 - (cells - 1) * spacing / 2
    return origin, cells.tolist()


def resample(values: Tensor, origin: Tensor, spacing: float, points: Tensor) -> Tensor:
    """Trilinear (N, C) of values (X, Y, Z, C) at world points (N, 3); the border's value beyond."""
    size = torch.tensor(values.shape[:3], device=points.device) - 1
    coordinates = (points - origin.to(points)) / spacing / size * 2 - 1
    return sample_trilinear(values.movedim(-1, 0), coordinates).T


def make_first_level(start: SdfGrid, resolution: int, device: torch.device) -> GridState:
    """A grid of a given resolution with initial distances, all grey."""
    spacing = level_spacing(start, resolution)
    origin, shape = level_box(*inside_bounds(start), spacing)
    points = grid_points(origin, spacing, tuple(shape))
    geo = torch.zeros(*shape, 4)
    sampled = resample(start.values[..., None], start.origin, start.spacing, points)
    geo[..., 0] = sampled.reshape(shape)
    col = torch.full((*shape, 4), _GREY)
    return GridState(origin, spacing, geo.to(device), col.to(device))


def make_next_level(state: GridState, spacing: float) -> GridState:
    """The same surface and colours with another cell size, cropped to the current surface.

    Voxels far from the surface become grey.
    """
    origin, shape = level_box(*inside_bounds(to_sdf_grid(state)), spacing)
    points = grid_points(origin, spacing, tuple(shape)).to(state.geo.device)
    geo = torch.zeros(*shape, 4, device=state.geo.device)
    values = resample(state.geo[..., :1], state.origin, state.spacing, points)
    geo[..., 0] = values.reshape(shape)
    near = (values[:, 0].abs() < (ACTIVE_CELLS + 1) * spacing).nonzero()[:, 0]
    col = torch.full((*shape, 4), _GREY, device=state.geo.device)
    col.view(-1, 4)[near] = resample(state.col, state.origin, state.spacing, points[near])
    return GridState(origin, spacing, geo, col)
