"""Occupancy grids of closed meshes and their volume IoU.

A point is inside if its winding number is not 0: overlapping parts count once, a cavity is empty,
and an inverted mesh encloses the same volume. The winding number of a point in a grid column is the
sum of signed crossings below it, found by restarting a ray behind each hit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import Backend, RayCaster

logger = logging.getLogger(__name__)

RELATIVE_RAY_OFFSET = 1e-6
"""Offset of a restarted ray behind the last hit, relative to the mesh's largest coordinate."""
JITTER_CELLS = 0.01
"""Jitter of the columns, so that rays miss edges and vertices."""
MAX_ATTEMPTS = 4
"""Columns whose crossings do not cancel are cast again with another jitter."""
MAX_CROSSINGS = 4096
MAX_GRID_SIDE = 3.0
"""In units of the unit cube's side."""
COLUMN_CHUNK_SIZE = 1 << 16


@dataclass(frozen=True, eq=False)
class Grid:
    """Regular grid: the Cartesian product of three axes."""

    x: np.ndarray
    """(X,) ascending."""
    y: np.ndarray
    """(Y,) ascending."""
    z: np.ndarray
    """(Z,) ascending."""

    @property
    def spacing(self) -> float:
        """Distance between neighbouring points."""
        return float(self.x[1] - self.x[0])


def unit_cube_grid(resolution: int, meshes: tuple[Mesh, ...]) -> Grid:
    """Centres of the unit cube's resolution^3 cells, extended by whole cells to contain the meshes.

    Without the extension, parts outside the cube would not count as errors. The grid is at most
    three times the cube's side: a mesh beyond that hardly overlaps anyway.
    """
    low = min(float(mesh.bounds.min()) for mesh in meshes)
    high = max(float(mesh.bounds.max()) for mesh in meshes)
    # tolerance, so that rounding errors of a unit cube do not extend the grid
    reach = min(max(-low, high, 0.5) - 1e-4, MAX_GRID_SIDE / 2)
    extra = max(int(np.ceil((reach - 0.5) * resolution)), 0)
    centres = (np.arange(-extra, resolution + extra) + 0.5) / resolution - 0.5
    return Grid(centres, centres, centres)


def level_set_grid(size: int) -> Grid:
    """Sample points of mesh2sdf: -1 + 2 i / size along each axis."""
    points = -1.0 + 2.0 * np.arange(size) / size
    return Grid(points, points, points)


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge belongs to two faces after merging coincident vertices."""
    bare = mesh.welded()
    return len(bare.faces) > 0 and bool(bare.as_trimesh().is_watertight)


def occupancy(
    mesh: Mesh, grid: Grid, progress: Progress = SILENT, backend: Backend = "auto"
) -> np.ndarray:
    """Occupancy (X, Y, Z) bool of the grid points. The mesh must be watertight."""
    caster = _ColumnCaster(mesh, backend)
    columns = np.stack(np.meshgrid(grid.x, grid.y, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.zeros((len(columns), len(grid.z)), bool)
    candidates = np.flatnonzero(caster.may_intersect(columns, grid.spacing))
    starts = range(0, len(candidates), COLUMN_CHUNK_SIZE)
    for start in progress.track(starts, "filling", len(starts)):
        chunk = candidates[start : start + COLUMN_CHUNK_SIZE]
        winding = _winding(caster, columns[chunk], grid, progress)
        inside[chunk] = winding != 0
    return inside.reshape(len(grid.x), len(grid.y), len(grid.z))


def volume_iou(a: np.ndarray, b: np.ndarray) -> float | None:
    """Intersection over union of two occupancies, 0..1; None if both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def _winding(
    caster: _ColumnCaster, columns: np.ndarray, grid: Grid, progress: Progress
) -> np.ndarray:
    """Winding numbers (C, Z) int16 of C columns (C, 2)."""
    winding = np.zeros((len(columns), len(grid.z)), np.int16)
    remaining = np.arange(len(columns))
    for attempt in range(MAX_ATTEMPTS):
        random = np.random.default_rng(attempt)
        jitter = random.uniform(-1, 1, (len(remaining), 2)) * JITTER_CELLS * grid.spacing
        column, height, sign = caster.crossings(columns[remaining] + jitter, progress)
        above = np.searchsorted(grid.z, height, side="right")  # first grid point past the crossing
        steps = np.zeros((len(remaining), len(grid.z) + 1), np.int16)
        np.add.at(steps, (column, above), sign)
        sums = np.cumsum(steps, axis=1, dtype=np.int16)
        winding[remaining] = sums[:, :-1]
        # a line enters a closed surface as often as it leaves it
        remaining = remaining[sums[:, -1] != 0]
        if len(remaining) == 0:
            return winding
    logger.warning(
        "%d of %d grid columns enter and leave the surface unequally often; their cells may be "
        "wrong",
        len(remaining),
        len(columns),
    )
    return winding


class _ColumnCaster:
    """Finds all intersections of a mesh with lines along z."""

    def __init__(self, mesh: Mesh, backend: Backend):
        bare = mesh.to("cpu").welded()
        vertices = bare.vertices.double().numpy()
        self.low, self.high = vertices.min(axis=0), vertices.max(axis=0)
        self.step = RELATIVE_RAY_OFFSET * max(float(np.abs(vertices).max()), 1e-3)
        self.caster = RayCaster(vertices, bare.faces.numpy(), backend)
        corners = vertices[bare.faces.numpy()]
        edges = corners[:, 1:, :2] - corners[:, :1, :2]  # (F, 2, 2)
        # z component of the outward normal; float64 gives the right sign
        normal_z = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
        self.entering = -np.sign(normal_z).astype(np.int16)  # +1 where a +z ray enters

    def may_intersect(self, columns: np.ndarray, margin: float) -> np.ndarray:
        """Columns (C, 2) within the mesh's bounding rectangle: (C,) bool."""
        near = (columns >= self.low[:2] - margin) & (columns <= self.high[:2] + margin)
        return near.all(axis=1)

    def crossings(
        self, columns: np.ndarray, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All intersections with lines at (C, 2): column (K,), height (K,), +1 entering and -1
        leaving (K,)."""
        ray = np.arange(len(columns))
        start = np.full(len(columns), self.low[2] - 100 * self.step)
        last_face = np.full(len(columns), -1)
        crossings: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for _ in range(MAX_CROSSINGS):
            if len(ray) == 0:
                break
            progress.check("filling")
            origins = np.column_stack([columns[ray], start]).astype(np.float32)
            hits = self.caster.first_hits(origins, np.tile([0.0, 0.0, 1.0], (len(ray), 1)))
            hit = hits.hit
            ray, face = ray[hit], hits.face[hit]
            height = origins[hit, 2].astype(np.float64) + hits.distance[hit]
            # a line crosses a plane once: the same face again is the last hit, due to rounding
            new = face != last_face[hit]
            crossings.append((ray[new], height[new], self.entering[face[new]]))
            last_face = face
            start = np.maximum(height, start[hit]) + self.step
        if not crossings:
            return np.zeros(0, int), np.zeros(0), np.zeros(0, np.int16)
        column, height, sign = (np.concatenate(part) for part in zip(*crossings, strict=True))
        return column, height, sign
