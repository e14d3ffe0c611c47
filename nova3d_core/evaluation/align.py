"""Alignment of a mesh to its reference: by bounding box, or by ICP with rotation, translation and
scale."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..wording import setting
from .config import Align
from .metrics.geometry import sample_surface

logger = logging.getLogger(__name__)

YAWS_DEG = (0.0, 90.0, 180.0, 270.0)
TARGET_POINTS = 60_000
"""Target points of the nearest-neighbour search; their spacing limits the precision of the fit."""
COARSE_POINTS, FINE_POINTS = 1000, 6000
"""Query points."""
COARSE_STEPS, FINE_STEPS = 30, 100
CONVERGENCE_TOLERANCE = 3e-6
"""ICP stops when no entry of the similarity changes by more."""
MIN_IMPROVEMENT_RATIO = 0.98
"""A start replaces an earlier one, and the fit replaces the identity, only if its distance is below
98 %: symmetric objects keep the smallest rotation."""
MAX_SIZE_RATIO = 1.5


@dataclass(frozen=True)
class MeshAlignment:
    """Similarity transform that aligns a mesh with its reference."""

    matrix: Tensor
    """(4, 4) float32."""
    distance_before: float
    """Chamfer distance of some thousand surface points before the transform."""
    distance_after: float
    """The same after the transform."""

    def to_dict(self) -> dict[str, float]:
        """Scale, rotation angle, yaw, translation and both distances."""
        linear = self.matrix[:3, :3].double()
        scale = float(torch.linalg.det(linear)) ** (1 / 3)
        rotation = linear / scale
        # atan2 of the antisymmetric and symmetric parts: arccos is inaccurate for small angles
        odd = rotation - rotation.T
        sine = 0.5 * math.hypot(float(odd[2, 1]), float(odd[0, 2]), float(odd[1, 0]))
        cosine = 0.5 * (float(rotation.trace()) - 1.0)
        return {
            "scale": scale,
            "rotation_deg": math.degrees(math.atan2(sine, cosine)),
            "yaw_deg": math.degrees(math.atan2(float(rotation[0, 2]), float(rotation[2, 2]))),
            "translation": float(self.matrix[:3, 3].norm()),
            "distance_before": self.distance_before,
            "distance_after": self.distance_after,
        }


def align_mesh(
    mesh: Mesh, reference: Mesh, align: Align, seed: int, progress: Progress = SILENT
) -> MeshAlignment | None:
    """Similarity transform from `mesh` to `reference`; None for "none".

    "icp" starts from the given pose and from the normalised bounding box, each at 4 yaws, and uses
    correspondences in both directions: one-way correspondences from the mesh favour shrinking it.

    Args:
        mesh: the result.
        reference: normalised.
        align: none, bbox or icp.
        seed: seed of the sampled points.
        progress: receives each start of "icp".
    """
    if align == "none":
        _warn_if_size_differs(mesh, reference)
        return None
    clouds = _Clouds(mesh, reference, seed)
    before = clouds.chamfer(np.eye(4), FINE_POINTS)
    if align == "bbox":
        matrix = mesh.normalising_matrix().double().numpy()
    else:
        matrix = _fit(mesh, clouds, progress)
    after = clouds.chamfer(matrix, FINE_POINTS)
    if align == "icp" and after >= MIN_IMPROVEMENT_RATIO * before:
        matrix, after = np.eye(4), before
    return MeshAlignment(torch.from_numpy(matrix).float(), before, after)


class _Clouds:
    """Points on both surfaces with their search trees."""

    def __init__(self, mesh: Mesh, reference: Mesh, seed: int):
        from scipy.spatial import cKDTree

        self.mesh, self.reference = (
            sample_surface(each, TARGET_POINTS, seed + index).points
            for index, each in enumerate((mesh, reference))
        )
        self._mesh_tree, self._reference_tree = cKDTree(self.mesh), cKDTree(self.reference)

    def pairs(self, matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Nearest-neighbour correspondences in both directions, under a similarity (4, 4).

        Reference points are searched in the mesh's own frame through the inverse similarity, so the
        tree is reused; a similarity scales all distances alike.

        Returns:
            Points on the transformed mesh (2 count, 3), and on the reference (2 count, 3).
        """
        moved = _transform(self.mesh[:count], matrix)
        _, nearest_reference = self._reference_tree.query(moved, workers=-1)
        in_mesh_frame = _transform(self.reference[:count], np.linalg.inv(matrix))
        _, nearest_mesh = self._mesh_tree.query(in_mesh_frame, workers=-1)
        on_mesh = np.concatenate([moved, _transform(self.mesh[nearest_mesh], matrix)])
        on_reference = [self.reference[nearest_reference], self.reference[:count]]
        return on_mesh, np.concatenate(on_reference)

    def chamfer(self, matrix: np.ndarray, count: int) -> float:
        """Mean distance of the correspondences, in reference units."""
        on_mesh, on_reference = self.pairs(matrix, count)
        return float(np.linalg.norm(on_mesh - on_reference, axis=1).mean())


def _fit(mesh: Mesh, clouds: _Clouds, progress: Progress) -> np.ndarray:
    """Best similarity (4, 4) over all initial transforms."""
    starts = _initial_transforms(mesh)
    best, best_distance = np.eye(4), np.inf
    for start in progress.track(starts, "aligning", len(starts)):
        matrix = _icp(start, clouds, COARSE_POINTS, COARSE_STEPS, progress)
        distance = clouds.chamfer(matrix, COARSE_POINTS)
        if distance < MIN_IMPROVEMENT_RATIO * best_distance:
            best, best_distance = matrix, distance
    return _icp(best, clouds, FINE_POINTS, FINE_STEPS, progress)


def _initial_transforms(mesh: Mesh) -> list[np.ndarray]:
    """Initial similarities (4, 4); the identity comes first."""
    normalising = mesh.normalising_matrix().double().numpy()
    return [_yaw(yaw_deg) @ base for yaw_deg in YAWS_DEG for base in (np.eye(4), normalising)]


def _yaw(yaw_deg: float) -> np.ndarray:
    """(4, 4) rotation about +Y."""
    cosine, sine = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    matrix = np.eye(4)
    matrix[0, 0], matrix[0, 2], matrix[2, 0], matrix[2, 2] = cosine, sine, -sine, cosine
    return matrix


def _icp(
    matrix: np.ndarray, clouds: _Clouds, count: int, steps: int, progress: Progress
) -> np.ndarray:
    """Iterative closest point with two-way correspondences; returns the similarity (4, 4)."""
    from trimesh.registration import procrustes

    for _ in range(steps):
        progress.check("aligning")
        step = procrustes(*clouds.pairs(matrix, count), reflection=False, return_cost=False)
        matrix = step @ matrix
        if np.abs(step - np.eye(4)).max() < CONVERGENCE_TOLERANCE:
            break
    return matrix


def _transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _warn_if_size_differs(mesh: Mesh, reference: Mesh) -> None:
    low, high = mesh.bounds
    reference_low, reference_high = reference.bounds
    ratio = float((high - low).max()) / float((reference_high - reference_low).max())
    if not 1 / MAX_SIZE_RATIO <= ratio <= MAX_SIZE_RATIO:
        logger.warning(
            "the mesh is %.3g times the size of the normalised reference and is evaluated without "
            "alignment; choose %s if it has another scale",
            ratio,
            setting("align", "bbox"),
        )
