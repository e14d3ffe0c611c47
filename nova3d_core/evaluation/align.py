"""Laying a mesh onto its reference: by bounding box, or by turning, moving and scaling it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..mesh import Mesh
from ..progress import SILENT, Progress
from .config import Align
from .metrics.geometry import sample_surface

logger = logging.getLogger(__name__)

YAWS_DEG = (0.0, 90.0, 180.0, 270.0)
TARGET_POINTS = 60_000
"""Points to be nearest to: dense, because their spacing blurs where the fit ends."""
COARSE_POINTS, FINE_POINTS = 1000, 6000
"""Points that look for the nearest one."""
COARSE_STEPS, FINE_STEPS = 30, 100
CONVERGED = 3e-6
"""Iterating ends when no entry of the similarity changes by more."""
WORTH_MOVING = 0.98
"""A start is preferred to an earlier one, and moving to not moving, if its distance is below 98 %:
symmetric objects keep the smallest turn."""
SUSPICIOUS_SIZE = 1.5


@dataclass(frozen=True)
class Alignment:
    """A similarity that lays the result onto the reference."""

    matrix: Tensor
    """(4, 4) float32."""
    distance_before: float
    """Chamfer distance of some thousand surface points as the mesh lay."""
    distance_after: float
    """The same after the similarity."""

    def figures(self) -> dict[str, float]:
        """What was done in numbers: scale, turn, yaw and shift."""
        linear = self.matrix[:3, :3].double()
        scale = float(torch.linalg.det(linear)) ** (1 / 3)
        rotation = linear / scale
        # atan2 of the rotation's odd and even parts: arccos would lose small angles
        odd = rotation - rotation.T
        sine = 0.5 * math.hypot(float(odd[2, 1]), float(odd[0, 2]), float(odd[1, 0]))
        cosine = 0.5 * (float(rotation.trace()) - 1.0)
        return {
            "scale": scale,
            "turn_deg": math.degrees(math.atan2(sine, cosine)),
            "yaw_deg": math.degrees(math.atan2(float(rotation[0, 2]), float(rotation[2, 2]))),
            "shift": float(self.matrix[:3, 3].norm()),
            "distance_before": self.distance_before,
            "distance_after": self.distance_after,
        }


def alignment(
    mesh: Mesh, reference: Mesh, align: Align, seed: int, progress: Progress = SILENT
) -> Alignment | None:
    """The similarity that `align` asks for; None for "none".

    "icp" starts from the mesh as it lies and from its normalised bounding box, each at 4 yaws, and
    pairs points both ways, because pairs from the mesh alone are content with a shrunken one.

    Args:
        mesh: the result.
        reference: normalised.
        align: none, bbox or icp.
        seed: start of the random points.
        progress: told about each start of "icp".
    """
    if align == "none":
        _hint_if_of_other_size(mesh, reference)
        return None
    clouds = _Clouds(mesh, reference, seed)
    before = clouds.chamfer(np.eye(4), FINE_POINTS)
    if align == "bbox":
        matrix = mesh.normalising_matrix().double().numpy()
    else:
        matrix = _fitted(mesh, clouds, progress)
    after = clouds.chamfer(matrix, FINE_POINTS)
    if align == "icp" and after >= WORTH_MOVING * before:
        matrix, after = np.eye(4), before
    return Alignment(torch.from_numpy(matrix).float(), before, after)


class _Clouds:
    """Points on both surfaces, each prepared once for being searched."""

    def __init__(self, mesh: Mesh, reference: Mesh, seed: int):
        from scipy.spatial import cKDTree

        self.mesh, self.reference = (
            sample_surface(each, TARGET_POINTS, seed + index).points
            for index, each in enumerate((mesh, reference))
        )
        self._mesh_tree, self._reference_tree = cKDTree(self.mesh), cKDTree(self.reference)

    def pairs(self, matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Nearest pairs from both sides, under a similarity (4, 4) of the mesh.

        The search from the reference goes back through the similarity, so that no tree is built
        anew; it changes all distances by one factor.

        Returns:
            Places on the moved mesh (2 count, 3), and on the reference (2 count, 3).
        """
        moved = _moved(self.mesh[:count], matrix)
        _, there = self._reference_tree.query(moved, workers=-1)
        back_moved = _moved(self.reference[:count], np.linalg.inv(matrix))
        _, back = self._mesh_tree.query(back_moved, workers=-1)
        on_mesh = np.concatenate([moved, _moved(self.mesh[back], matrix)])
        return on_mesh, np.concatenate([self.reference[there], self.reference[:count]])

    def chamfer(self, matrix: np.ndarray, count: int) -> float:
        """Mean distance of the pairs, in the reference's unit."""
        on_mesh, on_reference = self.pairs(matrix, count)
        return float(np.linalg.norm(on_mesh - on_reference, axis=1).mean())


def _fitted(mesh: Mesh, clouds: _Clouds, progress: Progress) -> np.ndarray:
    """The similarity (4, 4) that lays the mesh onto the reference."""
    starts = _starts(mesh)
    best, best_distance = np.eye(4), np.inf
    for start in progress.track(starts, "aligning", len(starts)):
        matrix = _iterated(start, clouds, COARSE_POINTS, COARSE_STEPS, progress)
        distance = clouds.chamfer(matrix, COARSE_POINTS)
        if distance < WORTH_MOVING * best_distance:
            best, best_distance = matrix, distance
    return _iterated(best, clouds, FINE_POINTS, FINE_STEPS, progress)


def _starts(mesh: Mesh) -> list[np.ndarray]:
    """Similarities (4, 4) to start from; no turn and no change of size come first."""
    normalising = mesh.normalising_matrix().double().numpy()
    return [_yaw(yaw_deg) @ place for yaw_deg in YAWS_DEG for place in (np.eye(4), normalising)]


def _yaw(yaw_deg: float) -> np.ndarray:
    """(4, 4) turn about +Y."""
    cosine, sine = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    matrix = np.eye(4)
    matrix[0, 0], matrix[0, 2], matrix[2, 0], matrix[2, 2] = cosine, sine, -sine, cosine
    return matrix


def _iterated(
    matrix: np.ndarray, clouds: _Clouds, count: int, steps: int, progress: Progress
) -> np.ndarray:
    """Iterative closest points with pairs from both sides: the similarity (4, 4) it ends at."""
    from trimesh.registration import procrustes

    for _ in range(steps):
        progress.check("aligning")
        step = procrustes(*clouds.pairs(matrix, count), reflection=False, return_cost=False)
        matrix = step @ matrix
        if np.abs(step - np.eye(4)).max() < CONVERGED:
            break
    return matrix


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _hint_if_of_other_size(mesh: Mesh, reference: Mesh) -> None:
    low, high = mesh.bounds
    reference_low, reference_high = reference.bounds
    ratio = float((high - low).max()) / float((reference_high - reference_low).max())
    if not 1 / SUSPICIOUS_SIZE <= ratio <= SUSPICIOUS_SIZE:
        logger.warning(
            "the mesh is %.3g times as large as the normalised reference and is measured as it "
            "lies; use --align bbox if it was made at another size",
            ratio,
        )
