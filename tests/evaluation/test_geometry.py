from __future__ import annotations

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.evaluation.metrics.geometry import (
    SurfaceSamples,
    distance_metrics,
    f_score,
    nearest_neighbours,
    point_cloud_metrics,
    sample_surface,
    sampling_floor,
    voxel_downsample,
)
from nova3d_core.mesh import Mesh

PATCHES = Mesh(
    torch.tensor(
        [[0, 0, 0], [3, 0, 0], [0, 1, 0], [5, 0, 0], [5, 1, 0], [5, 0, 1], [9, 9, 9]],
        dtype=torch.float32,
    ),
    torch.tensor([[0, 1, 2], [3, 4, 5], [6, 6, 6]]),
)
"""A triangle of area 1.5 facing +Z, one of area 0.5 facing +X, and one without area."""


def test_samples_are_uniform_by_area():
    samples = sample_surface(PATCHES, 40_000, seed=3)
    fraction = (samples.points[:, 0] < 4).mean()
    assert fraction == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 40_000))
    flat = samples.points[samples.points[:, 0] < 4]
    assert np.all(flat[:, 2] == 0)
    assert np.all(flat[:, 0] / 3 + flat[:, 1] <= 1 + 1e-9)
    assert np.all(samples.normals[samples.points[:, 0] < 4] == [0, 0, 1])
    assert np.all(samples.normals[samples.points[:, 0] > 4] == [1, 0, 0])


def test_sampling_is_deterministic_per_seed():
    first, again = (sample_surface(PATCHES, 500, seed=7) for _ in range(2))
    other = sample_surface(PATCHES, 500, seed=8)
    assert np.array_equal(first.points, again.points)
    assert np.array_equal(first.normals, again.normals)
    assert not np.array_equal(first.points, other.points)


def test_rejects_mesh_without_area():
    line = Mesh(torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="no area"):
        sample_surface(line, 100, seed=0)


def test_two_samplings_of_a_surface_differ_by_the_sampling_floor(make_sphere):
    ball = make_sphere(0.4)
    clouds = [sample_surface(ball, 30_000, seed) for seed in (0, 1)]
    distances = nearest_neighbours(clouds[0].points, clouds[1].points).distance
    floor = sampling_floor(float(ball.face_areas.sum()), 30_000)
    assert distances.mean() == pytest.approx(floor, rel=0.02)


def test_nearest_neighbours_match_brute_force():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(200, 3)), random.normal(size=(150, 3))
    pairs = np.linalg.norm(a[:, None] - b[None], axis=-1)
    nearest = nearest_neighbours(a, b)
    assert np.allclose(nearest.distance, pairs.min(axis=1), rtol=1e-12)
    assert np.array_equal(nearest.index, pairs.argmin(axis=1))


def test_far_queries_reuse_results_of_a_subset():
    random = np.random.default_rng(4)
    points = random.normal(size=(5000, 3)) * 0.1
    far = random.normal(size=(9000, 3)) * 0.1 + [5.0, 0.0, 0.0]
    near = points[:3000] + np.array([0.0, 0.0, 1e-3])
    queries = np.concatenate([far[:4500], near, far[4500:]])
    nearest = nearest_neighbours(queries, points)
    pairs = [np.linalg.norm(points - query, axis=1) for query in queries[::50]]
    exact = np.array([pair.min() for pair in pairs])
    subset = nearest.distance[::50]
    is_far = exact > 0.25
    assert np.array_equal(
        nearest.index[::50][~is_far], [p.argmin() for p in pairs if p.min() < 0.25]
    )
    assert np.allclose(subset[~is_far], exact[~is_far], rtol=1e-9)
    assert subset[is_far].mean() == pytest.approx(exact[is_far].mean(), rel=0.01)
    assert np.array_equal(nearest.distance[:5], np.repeat(nearest.distance[0], 5))


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.array([[0.0, np.nan, 0.0]])])
def test_rejects_empty_clouds_and_nan(bad):
    good = np.zeros((2, 3))
    with pytest.raises(InputError, match="nearest neighbours need"):
        nearest_neighbours(bad, good)
    with pytest.raises(InputError, match="nearest neighbours need"):
        nearest_neighbours(good, bad)


def test_chamfer_distance_of_concentric_spheres_is_their_radius_difference(make_sphere):
    clouds = [
        sample_surface(make_sphere(radius), 100_000, seed)
        for seed, radius in enumerate((0.44, 0.4))
    ]
    metrics = point_cloud_metrics(*clouds, thresholds=(0.03, 0.05), signed_normals=True)
    assert metrics["cd_l1"] == pytest.approx(0.04, rel=0.005)
    assert metrics["result_to_reference"] == pytest.approx(0.04, rel=0.005)
    assert metrics["f_at_0.03"] == 0.0
    assert metrics["f_at_0.05"] == 1.0
    assert metrics["normal_consistency"] > 0.995


def test_opposite_normals_count_as_negative_only_if_signed():
    points = np.random.default_rng(1).normal(size=(50, 3))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    outward, inward = SurfaceSamples(points, normals), SurfaceSamples(points, -normals)
    signed = point_cloud_metrics(outward, inward, (), signed_normals=True)
    unsigned = point_cloud_metrics(outward, inward, (), signed_normals=False)
    assert signed["normal_consistency"] == pytest.approx(-1.0, abs=1e-12)
    assert unsigned["normal_consistency"] == pytest.approx(1.0, abs=1e-12)
    assert signed["cd_l1"] == 0.0


def test_distance_metrics_are_means_and_harmonic_means():
    forward, backward = np.array([0.0, 0.0, 0.0, 0.4]), np.array([0.0, 0.2])
    metrics = distance_metrics(forward, backward, (0.1, 0.2))
    assert metrics["cd_l1"] == pytest.approx((0.1 + 0.1) / 2)
    assert metrics["f_at_0.1"] == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert metrics["f_at_0.2"] == pytest.approx(2 * 0.75 * 1.0 / 1.75)
    assert f_score(np.ones(3), np.ones(3), 0.5) == 0.0


def test_voxel_downsample_averages_points_per_voxel():
    random = np.random.default_rng(2)
    points = random.uniform(-0.3, 0.3, (3000, 3))
    points[0] = [1e7, -1e7, 1e7]  # distant points must not overflow the voxel keys
    low = points.min(axis=0) - 0.05
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points:
        cells.setdefault(tuple(np.floor((point - low) / 0.1).astype(int)), []).append(point)
    expected = np.array(sorted(np.mean(group, axis=0).tolist() for group in cells.values()))
    result = np.array(sorted(voxel_downsample(points, 0.1).tolist()))
    assert result.shape == expected.shape
    assert np.allclose(result, expected, atol=1e-9)
