"""All ray casters, compared with brute force and with each other."""

from __future__ import annotations

import numpy as np
import pytest

from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.rendering.bvh import TriangleTree, _intersect_triangles
from nova3d_core.rendering.raycast import RayCaster

BACKENDS = ["numpy", "embree", "warp"]
PACKAGES = {"embree": "embreex", "warp": "warp"}


def skip_without(backend: str) -> None:
    """Skips a test whose backend is not installed."""
    if backend in PACKAGES:
        pytest.importorskip(PACKAGES[backend])


def soup(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centres = random.uniform(-1, 1, (count, 1, 3))
    corners = centres + random.normal(0, 0.1, (count, 3, 3))
    return corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3)


def rays(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    origins = random.uniform(-2, 2, (count, 3))
    directions = random.normal(size=(count, 3))
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)


def brute_force(vertices, faces, origins, directions) -> tuple[np.ndarray, np.ndarray]:
    ray, face = (a.reshape(-1) for a in np.indices((len(origins), len(faces))))
    distance, _, _ = _intersect_triangles(origins[ray], directions[ray], vertices[faces[face]])
    distance = distance.reshape(len(origins), len(faces))
    nearest = distance.argmin(axis=1)
    best = distance[np.arange(len(origins)), nearest]
    return np.where(np.isfinite(best), nearest, -1), best


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 3, 5, 300])
def test_first_hit_is_the_nearest_triangle(backend, count):
    skip_without(backend)
    vertices, faces = soup(count)
    origins, directions = rays(400)
    hits = RayCaster(vertices, faces, backend).first_hits(origins, directions)
    face, distance = brute_force(vertices, faces, origins, directions)
    assert (hits.face == face).mean() > 0.995  # float32 against float64 at an edge
    agree = (hits.face == face) & (face >= 0)
    np.testing.assert_allclose(hits.distance[agree], distance[agree], rtol=1e-4)
    assert np.isinf(hits.distance[~hits.hit]).all()


def test_chunks_of_rays_give_the_same_hits(monkeypatch):
    pytest.importorskip("embreex")
    caster = RayCaster(*soup(300), "embree")
    origins, directions = rays(1000)
    together = caster.first_hits(origins, directions)
    monkeypatch.setattr("nova3d_core.rendering.raycast._RAYS_PER_CHUNK", 64)
    in_chunks = caster.first_hits(origins, directions)
    for name, value in vars(together).items():
        np.testing.assert_array_equal(getattr(in_chunks, name), value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_barycentric_weights_give_the_hit_point(backend):
    skip_without(backend)
    vertices, faces = soup(300)
    origins, directions = rays(1000)
    hits = RayCaster(vertices, faces, backend).first_hits(origins, directions)
    assert hits.hit.sum() > 50
    corners = vertices[faces[hits.face[hits.hit]]]
    rebuilt = (corners * hits.barycentric[hits.hit][..., None]).sum(axis=1)
    along = origins + hits.distance[:, None] * directions
    np.testing.assert_allclose(rebuilt, along[hits.hit], atol=1e-5)
    assert (hits.barycentric[~hits.hit] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_occlusion_respects_the_maximum_distance(backend):
    skip_without(backend)
    vertices = np.array([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]])
    caster = RayCaster(vertices, np.array([[0, 1, 2]]), backend)
    origins = np.array([[0.0, 0, 2], [0, 0, 2], [5, 0, 2]])
    down = np.tile([0.0, 0, -1], (3, 1))
    assert caster.occluded(origins, down, np.array([3.0, 1.0, 3.0])).tolist() == [
        True,
        False,
        False,
    ]


def test_bvh_contains_every_face_exactly_once():
    for count in (1, 4, 5, 31, 1000):
        vertices, faces = soup(count)
        leaf_faces = TriangleTree(vertices[faces]).leaf_faces
        assert sorted(leaf_faces[leaf_faces >= 0].tolist()) == list(range(count))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rays_give_no_hits(backend):
    skip_without(backend)
    vertices, faces = soup(10)
    hits = RayCaster(vertices, faces, backend).first_hits(np.zeros((0, 3)), np.zeros((0, 3)))
    assert len(hits.face) == len(hits.distance) == len(hits.barycentric) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_faces_give_no_hits(backend):
    skip_without(backend)
    caster = RayCaster(np.zeros((0, 3)), np.zeros((0, 3), int), backend)
    assert not caster.first_hits(*rays(10)).hit.any()


@pytest.mark.parametrize("backend", ["embree", "warp"])
def test_scan_has_the_hits_of_the_numpy_bvh(backend, object_files):
    """A ray through an edge may choose either face: 2 of 10,000 do, with both libraries."""
    skip_without(backend)
    mesh = read_mesh(object_files / "animal_bull" / "model.obj")
    random = np.random.default_rng(0)
    corners = mesh.vertices.numpy()[mesh.faces.numpy()]
    targets = corners[random.integers(0, len(corners), 20_000)].mean(axis=1)
    origins = targets + random.normal(0, 3, (20_000, 3))
    directions = targets - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ours = RayCaster.from_mesh(mesh, backend).first_hits(origins, directions)
    reference = RayCaster.from_mesh(mesh, "numpy").first_hits(origins, directions)
    same = ours.face == reference.face
    assert same.mean() >= 1 - 5e-4
    assert (ours.hit == reference.hit).mean() >= 1 - 5e-4
    np.testing.assert_allclose(ours.distance[same], reference.distance[same], rtol=1e-4)
