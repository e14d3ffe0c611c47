"""Which grid points lie inside a closed mesh, and how far two volumes overlap.

Inside is where the winding number is not 0: overlapping parts count once, a cavity is empty, and a
mesh turned inside out encloses the same volume. The winding number along a grid column is the sum
of signed crossings below a point, found by casting a ray on from each hit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import Backend, RayCaster

logger = logging.getLogger(__name__)

STEP_PAST_HIT = 1e-6
"""How far a ray starts past the last hit, over the mesh's largest coordinate."""
JITTER_CELLS = 0.01
"""How far columns are moved off the grid, so that rays miss edges and vertices."""
ATTEMPTS = 4
"""Columns whose crossings do not cancel are cast again, moved differently, this often in all."""
MOST_CROSSINGS = 4096
LARGEST_SPAN = 3.0
"""Side of the largest grid, over the unit cube's."""
COLUMNS_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class Grid:
    """Points of a regular grid: the products of three axes."""

    x: np.ndarray
    """(X,) ascending."""
    y: np.ndarray
    """(Y,) ascending."""
    z: np.ndarray
    """(Z,) ascending."""

    @property
    def spacing(self) -> float:
        """Distance of neighbouring points."""
        return float(self.x[1] - self.x[0])


def unit_cube_grid(resolution: int, meshes: tuple[Mesh, ...]) -> Grid:
    """Centres of the unit cube's resolution^3 cells, and of as many more as hold the meshes.

    Without the extra cells, what sticks out of the cube would go unpunished. The grid ends at three
    times the cube's side: a mesh beyond that has lost all overlap anyway.
    """
    low = min(float(mesh.bounds.min()) for mesh in meshes)
    high = max(float(mesh.bounds.max()) for mesh in meshes)
    # the slack keeps a cube that rounding moved by a hair from growing the grid
    reach = min(max(-low, high, 0.5) - 1e-4, LARGEST_SPAN / 2)
    extra = max(int(np.ceil((reach - 0.5) * resolution)), 0)
    centres = (np.arange(-extra, resolution + extra) + 0.5) / resolution - 0.5
    return Grid(centres, centres, centres)


def level_set_grid(size: int) -> Grid:
    """The points at which mesh2sdf samples: -1 + 2 i / size along each axis."""
    points = -1.0 + 2.0 * np.arange(size) / size
    return Grid(points, points, points)


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge belongs to two faces, once vertices at one place are merged."""
    bare = mesh.welded()
    return len(bare.faces) > 0 and bool(bare.as_trimesh().is_watertight)


def occupancy(
    mesh: Mesh, grid: Grid, progress: Progress = SILENT, backend: Backend = "auto"
) -> np.ndarray:
    """Which grid points lie inside: (X, Y, Z) bool. The mesh must be watertight."""
    caster = _ColumnCaster(mesh, backend)
    columns = np.stack(np.meshgrid(grid.x, grid.y, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.zeros((len(columns), len(grid.z)), bool)
    reached = np.flatnonzero(caster.over_mesh(columns, grid.spacing))
    starts = range(0, len(reached), COLUMNS_AT_ONCE)
    for start in progress.track(starts, "filling", len(starts)):
        chunk = reached[start : start + COLUMNS_AT_ONCE]
        winding = _winding(caster, columns[chunk], grid, progress)
        inside[chunk] = winding != 0
    return inside.reshape(len(grid.x), len(grid.y), len(grid.z))


def volume_iou(a: np.ndarray, b: np.ndarray) -> float | None:
    """Shared over joint volume of two occupancies, 0..1; None if neither fills a single cell."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def _winding(
    caster: _ColumnCaster, columns: np.ndarray, grid: Grid, progress: Progress
) -> np.ndarray:
    """Winding numbers (C, Z) int16 along C columns (C, 2)."""
    winding = np.zeros((len(columns), len(grid.z)), np.int16)
    left = np.arange(len(columns))
    for attempt in range(ATTEMPTS):
        random = np.random.default_rng(attempt)
        moved = columns[left] + random.uniform(-1, 1, (len(left), 2)) * JITTER_CELLS * grid.spacing
        column, height, sign = caster.crossings(moved, progress)
        above = np.searchsorted(grid.z, height, side="right")  # first grid point past the crossing
        steps = np.zeros((len(left), len(grid.z) + 1), np.int16)
        np.add.at(steps, (column, above), sign)
        sums = np.cumsum(steps, axis=1, dtype=np.int16)
        winding[left] = sums[:, :-1]
        # every column enters a closed surface as often as it leaves it
        left = left[sums[:, -1] != 0]
        if len(left) == 0:
            return winding
    logger.warning(
        "%d of %d grid columns cross the surface unevenly; their cells may be wrong",
        len(left),
        len(columns),
    )
    return winding


class _ColumnCaster:
    """Finds all crossings of a mesh with lines along z."""

    def __init__(self, mesh: Mesh, backend: Backend):
        bare = mesh.to("cpu").welded()
        vertices = bare.vertices.double().numpy()
        self.low, self.high = vertices.min(axis=0), vertices.max(axis=0)
        self.step = STEP_PAST_HIT * max(float(np.abs(vertices).max()), 1e-3)
        self.caster = RayCaster(vertices, bare.faces.numpy(), backend)
        corners = vertices[bare.faces.numpy()]
        edges = corners[:, 1:, :2] - corners[:, :1, :2]  # (F, 2, 2)
        # the z component of the outward normal, exact enough in float64 to have the right sign
        across = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
        self.entering = -np.sign(across).astype(np.int16)  # +1 where +z goes in

    def over_mesh(self, columns: np.ndarray, slack: float) -> np.ndarray:
        """Which columns (C, 2) can meet the mesh: (C,) bool."""
        near = (columns >= self.low[:2] - slack) & (columns <= self.high[:2] + slack)
        return near.all(axis=1)

    def crossings(
        self, columns: np.ndarray, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All crossings with lines at (C, 2): column (K,), height (K,), +1 in and -1 out (K,)."""
        ray = np.arange(len(columns))
        start = np.full(len(columns), self.low[2] - 100 * self.step)
        last_face = np.full(len(columns), -1)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for _ in range(MOST_CROSSINGS):
            if len(ray) == 0:
                break
            progress.check("filling")
            origins = np.column_stack([columns[ray], start]).astype(np.float32)
            hits = self.caster.first_hits(origins, np.tile([0.0, 0.0, 1.0], (len(ray), 1)))
            met = hits.hit
            ray, face = ray[met], hits.face[met]
            height = origins[met, 2].astype(np.float64) + hits.distance[met]
            # a plane is crossed once: the same face again is the last hit, seen through rounding
            new = face != last_face[met]
            found.append((ray[new], height[new], self.entering[face[new]]))
            last_face = face
            start = np.maximum(height, start[met]) + self.step
        if not found:
            return np.zeros(0, int), np.zeros(0), np.zeros(0, np.int16)
        column, height, sign = (np.concatenate(part) for part in zip(*found, strict=True))
        return column, height, sign
