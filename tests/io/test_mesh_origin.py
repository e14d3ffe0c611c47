"""Meshes far from the origin keep their shape and world position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nova3d_core.conventions import Y_UP_ROTATIONS
from nova3d_core.errors import InputError
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.io.mesh.merge import merge_primitives
from nova3d_core.io.mesh.primitives import Primitive, mesh_from_arrays
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.mesh import FAR_FROM_ORIGIN, ZERO_ORIGIN, Mesh
from nova3d_core.meshing.simplify import simplify

from .gltf_builder import Gltf

UTM = (500000.0, 4649776.0, 30.0)


def world(mesh: Mesh) -> np.ndarray:
    """(N, 3) float64 vertices in world coordinates."""
    return mesh.vertices.double().numpy() + np.array(mesh.origin)


@pytest.fixture
def shape(make_sphere) -> np.ndarray:
    """(162, 3) float64 vertices of a perturbed 1 m sphere in UTM coordinates."""
    rng = np.random.default_rng(0)
    sphere = make_sphere(0.5, 2).vertices.double().numpy()
    return sphere * (1.0 + 0.05 * rng.random(sphere.shape)) + np.array(UTM)


@pytest.fixture
def far(shape, make_sphere) -> Mesh:
    return mesh_from_arrays(shape, make_sphere(0.5, 2).faces.numpy())


def test_mesh_in_utm_coordinates_keeps_its_precision(shape, far):
    np.testing.assert_allclose(world(far), shape, atol=4e-8)
    assert float(far.bounds.abs().max()) < 0.6
    assert np.abs(np.array(far.origin) - UTM).max() < 0.1


def test_near_meshes_have_no_origin(make_sphere):
    sphere, faces = make_sphere(0.5, 2).vertices.numpy(), make_sphere(0.5, 2).faces.numpy()
    near = sphere + np.array([0.9 * FAR_FROM_ORIGIN, 0.0, 0.0])
    mesh = mesh_from_arrays(near, faces)
    assert mesh.origin == ZERO_ORIGIN
    assert torch.equal(mesh.vertices, torch.from_numpy(near).float())


def test_unused_vertices_do_not_affect_the_origin(shape, make_sphere):
    stray = np.concatenate([shape, np.zeros((1, 3))])
    mesh = mesh_from_arrays(stray, make_sphere(0.5, 2).faces.numpy())
    np.testing.assert_allclose(world(mesh)[:-1], shape, atol=4e-8)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_round_trip_keeps_world_positions(far, shape, tmp_path, suffix):
    """Two round trips."""
    mesh = far
    for number in range(2):
        mesh = read_mesh(write_mesh(mesh, tmp_path / f"{number}{suffix}"))
        assert torch.equal(mesh.faces, far.faces)
        assert np.abs(world(mesh) - shape).max() < 1e-6
        relative = world(mesh) - world(mesh).mean(axis=0)
        assert np.abs(relative - (shape - shape.mean(axis=0))).max() < 1e-6


def test_trimesh_reads_double_precision_ply(far, tmp_path):
    import trimesh

    colours = torch.rand(len(far.vertices), 3, generator=torch.Generator().manual_seed(0))
    mesh = replace(far.with_smooth_normals(), vertex_colours=colours)
    path = write_mesh(mesh, tmp_path / "far.ply")
    loaded = trimesh.load(path, process=False)
    np.testing.assert_allclose(loaded.vertices, world(far), atol=1e-9)
    assert np.array_equal(loaded.faces, far.faces.numpy())
    levels = (colours * 255).round().byte().numpy()
    assert np.array_equal(loaded.visual.vertex_colors[:, :3], levels)
    np.testing.assert_allclose(loaded.vertex_normals, mesh.normals.numpy(), atol=1e-6)


def test_glb_node_translation_is_applied_in_double_precision(tmp_path):
    model = Gltf()
    model.header["nodes"] = [
        {"translation": [UTM[0], 0, 0.1], "children": [1]},
        {"translation": [0, UTM[1], 0.2], "scale": [1, 0.3, 1], "mesh": 0},
    ]
    mesh = model.read(tmp_path)
    expected = np.array([[0, 0, 0.3], [1, 0, 0.3], [1, 0.3, 0.3], [0, 0.3, 0.3]])
    np.testing.assert_allclose(world(mesh), expected + np.array([*UTM[:2], 0]), atol=1e-7)
    from trimesh import load_scene

    other = load_scene(write_mesh(mesh, tmp_path / "again.glb")).to_mesh()
    np.testing.assert_allclose(other.vertices, world(mesh), atol=1e-7)


def test_primitives_share_one_origin(shape, make_sphere):
    faces = make_sphere(0.5, 2).faces.numpy()
    shapes = [shape, shape + np.array([2.0, 0, 0]), shape - np.array([0, 5.0, 0])]
    mesh = merge_primitives([Primitive(mesh_from_arrays(each, faces)) for each in shapes])
    np.testing.assert_allclose(world(mesh), np.concatenate(shapes), atol=4e-7)
    near = mesh_from_arrays(shape - UTM, faces)
    both = merge_primitives([Primitive(mesh_from_arrays(shape, faces)), Primitive(near)])
    assert both.origin == ZERO_ORIGIN  # as large as it is far: an origin would not help


def test_transforms_act_on_world_coordinates(far, shape):
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.tensor([[0.0, -2, 0], [1, 0, 0], [0, 0, 3]])
    matrix[:3, 3] = torch.tensor([7.0, 8, 9])
    expected = shape @ matrix[:3, :3].numpy().T + matrix[:3, 3].numpy()
    moved = far.transformed(matrix)
    np.testing.assert_allclose(world(moved), expected, atol=2e-6)
    back = moved.transformed(torch.linalg.inv(matrix))
    np.testing.assert_allclose(world(back), shape, atol=2e-6)
    home = torch.eye(4, dtype=torch.float64)
    home[:3, 3] = -torch.tensor(UTM, dtype=torch.float64)
    centred = far.transformed(home)
    assert centred.origin == ZERO_ORIGIN
    np.testing.assert_allclose(centred.vertices, shape - UTM, atol=2e-7)


def test_mesh_operations_respect_the_origin(far, shape):
    unit = far.normalised()
    assert unit.origin == ZERO_ORIGIN
    low, high = shape.min(axis=0), shape.max(axis=0)
    expected = (shape - (low + high) / 2) / (high - low).max()
    np.testing.assert_allclose(unit.vertices, expected, atol=3e-7)
    rotated = far.to_y_up("+Z")
    np.testing.assert_allclose(world(rotated), shape @ np.array(Y_UP_ROTATIONS["+Z"]).T, atol=1e-6)
    for mesh in (simplify(far, 100), simplify(far, 10_000), far.welded(), far.to("cpu")):
        assert mesh.origin == far.origin
    np.testing.assert_allclose(far.with_origin((1.0, 2.0, 3.0)).vertices, shape - (1, 2, 3), atol=1)
    assert float(far.with_smooth_normals().normals.norm(dim=1).min()) > 0.999


def test_invalid_origin_is_rejected(far):
    for origin in ((0.0, 1.0), (0.0, 1.0, float("nan"))):
        with pytest.raises(InputError, match="mesh origin"):
            replace(far, origin=origin)


QUICK = {"points": 2000, "iou_resolution": 16, "visible_px": 32, "with_images": False}


@pytest.mark.parametrize("align", ["none", "bbox"])
def test_evaluation_far_from_the_origin_equals_evaluation_near_it(far, shape, align):
    """A sphere of exactly 1 m: normalising the reference only translates it."""
    unit = far.normalised()
    config = EvaluateConfig(align=align, **QUICK)
    expected = evaluate_mesh(unit, unit, config).metrics["surface"]
    there = unit.vertices.double().numpy() + np.array(UTM)
    mesh = mesh_from_arrays(there, unit.faces.numpy())
    found = evaluate_mesh(mesh, mesh, config).metrics["surface"]
    for name in ("cd_l1", "iou"):
        assert found[name] == pytest.approx(expected[name], abs=2e-5), name
    assert found["cd_l1"] < 2 * found["sampling_floor"]


def test_evaluation_uses_world_coordinates(far):
    unit, config = far.normalised(), EvaluateConfig(**QUICK)
    assert evaluate_mesh(unit, far, config).metrics["surface"]["cd_l1"] < 0.1
    assert evaluate_mesh(far, unit, config).metrics["surface"]["cd_l1"] > 1e6
    aligned = evaluate_mesh(far, unit, EvaluateConfig(align="bbox", **QUICK)).metrics["surface"]
    assert aligned["cd_l1"] < 0.1
