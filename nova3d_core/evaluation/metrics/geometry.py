"""How far two surfaces are apart: distances, F-scores and normals between clouds of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...mesh import Mesh

FAR = 0.25
MOST_FAR_QUERIES = 2000
TREE_LEAF = 64
"""Points in a leaf of the search tree: as quick as 16 for near points, four times so for far."""


@dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """Points on a surface and the directions it faces there."""

    points: np.ndarray
    """(N, 3) float64 in the world."""
    normals: np.ndarray
    """(N, 3) float64 unit."""


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """For each point of one cloud, the nearest of another."""

    distance: np.ndarray
    """(N,) in world units."""
    index: np.ndarray
    """(N,) int64 into the other cloud."""


def sample_surface(mesh: Mesh, count: int, seed: int) -> SurfaceSamples:
    """Random points on a mesh, in proportion to area, with the normals of their faces.

    Args:
        mesh: any mesh with an area above 0.
        count: how many points.
        seed: the same seed on the same mesh gives the same points.

    Raises:
        InputError: if the mesh has no area.
    """
    from trimesh.sample import sample_surface as trimesh_sample

    if not float(mesh.face_areas.sum()) > 0:
        raise InputError("the mesh has no area: all its faces are lines or points.")
    points, face = trimesh_sample(mesh.as_trimesh(), count, seed=seed)
    normals = mesh.face_normals.cpu().double().numpy()[face]
    return SurfaceSamples(np.asarray(points, dtype=np.float64), normals)


def sampling_floor(area: float, count: int) -> float:
    """The mean distance from a place on a surface to the nearest of `count` random points on it.

    Random points of density d in the plane lie 0.5 / sqrt(d) from the nearest one on average: the
    chamfer distance that a mesh has to itself when both are sampled anew.
    """
    return 0.5 * math.sqrt(area / count)


def nearest_neighbours(queries: np.ndarray, points: np.ndarray) -> NearestNeighbours:
    """The nearest of `points` (M, 3) for each of `queries` (N, 3).

    Exact up to a distance of 0.25. If more than 2000 queries are farther than that, as in meshes of
    a wrong size, an even choice of 2000 is searched for, and each stands for those that follow it:
    seen from afar, most points of a large surface are about equally near, and no search tree helps.

    Raises:
        InputError: if either cloud is empty or holds NaN.
    """
    from scipy.spatial import cKDTree

    for name, cloud in (("queries", queries), ("points", points)):
        if len(cloud) == 0:
            raise InputError(f"nearest distances need points, but {name} has none.")
        if not np.isfinite(cloud).all():
            raise InputError(f"nearest distances need numbers, but {name} has NaN or infinity.")
    tree = cKDTree(points, leafsize=TREE_LEAF)
    distance, index = tree.query(queries, workers=-1, distance_upper_bound=FAR)
    far = np.flatnonzero(np.isinf(distance))
    if len(far):
        stride = -(-len(far) // MOST_FAR_QUERIES)
        found = tree.query(queries[far[::stride]], workers=-1)
        stands_in = np.arange(len(far)) // stride
        distance[far], index[far] = (values[stands_in] for values in found)
    return NearestNeighbours(distance, index)


def cloud_figures(
    result: SurfaceSamples,
    reference: SurfaceSamples,
    thresholds: Sequence[float],
    signed_normals: bool,
) -> dict[str, float]:
    """Figures of one cloud of surface points against another.

    Args:
        result: what is measured.
        reference: what it should be.
        thresholds: distances, in world units, at which an F-score is asked.
        signed_normals: whether opposite normals count as opposite (-1), as they should where both
            face a camera, or as the same (1), as they should where a surface has no known outside.

    Returns:
        `cd_l1`: mean of the two directions' mean unsquared distances; `result_to_reference` and
        `reference_to_result`: these two means; `f_at_T`: harmonic mean of the shares of points
        within T of the other cloud, one for each threshold; `normal_consistency`: mean dot product
        of the normals at nearest pairs, mean of both directions.
    """
    there = nearest_neighbours(result.points, reference.points)
    back = nearest_neighbours(reference.points, result.points)
    agreement = [
        _mean_agreement(result.normals, reference.normals[there.index], signed_normals),
        _mean_agreement(reference.normals, result.normals[back.index], signed_normals),
    ]
    figures = distance_figures(there.distance, back.distance, thresholds)
    return {**figures, "normal_consistency": 0.5 * sum(agreement)}


def distance_figures(
    result_to_reference: np.ndarray, reference_to_result: np.ndarray, thresholds: Sequence[float]
) -> dict[str, float]:
    """Figures of nearest distances (N,) there and (M,) back: `cloud_figures` without normals."""
    forth, back = float(result_to_reference.mean()), float(reference_to_result.mean())
    scores = {
        f"f_at_{threshold:g}": f_score(result_to_reference, reference_to_result, threshold)
        for threshold in thresholds
    }
    return {
        "cd_l1": 0.5 * (forth + back),
        "result_to_reference": forth,
        "reference_to_result": back,
        **scores,
    }


def f_score(
    result_to_reference: np.ndarray, reference_to_result: np.ndarray, threshold: float
) -> float:
    """Harmonic mean of the shares of distances (N,) and (M,) at or below a threshold, 0..1."""
    precision = float((result_to_reference <= threshold).mean())
    recall = float((reference_to_result <= threshold).mean())
    if precision + recall == 0.0:
        return 0.0
    return 2.0 * precision * recall / (precision + recall)


def _mean_agreement(a: np.ndarray, b: np.ndarray, signed: bool) -> float:
    """Mean dot product of unit vectors (N, 3), or of their size where the sign says nothing."""
    dots = np.einsum("ni,ni->n", a, b)
    dots = dots if signed else np.abs(dots)
    return float(np.clip(dots, -1.0, 1.0).mean())


def voxel_means(points: np.ndarray, voxel: float) -> np.ndarray:
    """One point a voxel (K, 3): the mean of the points (N, 3) that fall into it.

    The grid starts half a voxel below the cloud's lowest corner, as open3d's down-sampling does.
    """
    low = points.min(axis=0) - 0.5 * voxel
    cells = np.floor((points - low) / voxel).astype(np.int64)
    # one number a voxel, counting only the rows, columns and layers in use, so that none overflows
    axes = [np.unique(cells[:, axis], return_inverse=True) for axis in range(3)]
    sizes = [len(used) for used, _ in axes]
    keys = np.ravel_multi_index([where.reshape(-1) for _, where in axes], sizes)
    _, where, count = np.unique(keys, return_inverse=True, return_counts=True)
    sums = [np.bincount(where.reshape(-1), weights=points[:, axis]) for axis in range(3)]
    return np.stack(sums, axis=1) / count[:, None]
