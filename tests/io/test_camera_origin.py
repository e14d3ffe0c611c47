"""Cameras in geodetic coordinates: translated to the origin, and back when written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nova3d_core
from nova3d_core.conventions import Y_UP_ROTATIONS
from nova3d_core.fusion.config import HullConfig
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.meshing.config import MeshingConfig
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.pipeline.stages import bake_views, extract_mesh, fuse_to_surface
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import BakeConfig

KNIGHT = Path(nova3d_core.__file__).parent / "assets" / "knight" / "views"
UTM = (500_000.0, 0.0, 4_649_776.0)


def matrices(folder: Path) -> np.ndarray:
    """(V, 4, 4) float64, as declared by the file."""
    content = json.loads((folder / "transforms.json").read_text())
    return np.array([frame["transform_matrix"] for frame in content["frames"]])


def translated(folder: Path, offset: tuple[float, float, float], **keys) -> Path:
    """The knight's folder with all cameras translated."""
    shutil.copytree(KNIGHT, folder)
    content = json.loads((folder / "transforms.json").read_text())
    for frame in content["frames"]:
        for axis in range(3):
            frame["transform_matrix"][axis][3] += offset[axis]
    (folder / "transforms.json").write_text(json.dumps(content | keys))
    return folder


@pytest.fixture(scope="module")
def far(tmp_path_factory) -> Path:
    return translated(tmp_path_factory.mktemp("far") / "views", UTM)


def test_far_cameras_differ_only_by_their_origin(far):
    near, views = read_views(KNIGHT).cameras, read_views(far).cameras
    assert near.origin == (0.0, 0.0, 0.0)
    back = views.positions.double() + torch.tensor(views.origin, dtype=torch.float64)
    expected = near.positions.double() + torch.tensor(UTM, dtype=torch.float64)
    assert float((back - expected).abs().max()) < 1e-6
    assert float((views.rotation - near.rotation).abs().max()) < 1e-6
    assert torch.equal(views.intrinsics, near.intrinsics)
    # the same cameras in float32
    assert float((expected.float().double() - expected).abs().max()) > 0.1


@pytest.mark.parametrize("axis", ["+Y", "+Z", "-X"])
def test_origin_is_rotated_with_the_world(tmp_path, axis):
    views = read_views(translated(tmp_path / "views", UTM, world_up=axis))
    near = read_views(translated(tmp_path / "near", (0, 0, 0), world_up=axis)).cameras
    rotated = torch.tensor(Y_UP_ROTATIONS[axis], dtype=torch.float64) @ torch.tensor(UTM).double()
    back = views.cameras.positions.double() + torch.tensor(views.cameras.origin).double()
    assert float((back - near.positions.double() - rotated).abs().max()) < 1e-6


def test_written_poses_equal_the_given_ones(far, tmp_path):
    folder = write_views(read_views(far), tmp_path / "back")
    assert np.abs(matrices(folder) - matrices(far)).max() < 1e-6
    rewritten = write_views(read_views(folder), tmp_path / "rewritten")
    assert np.abs(matrices(rewritten) - matrices(far)).max() < 1e-6


def test_selected_and_resized_views_keep_their_origin(far):
    views = read_views(far)
    for cameras in (
        views[[0, 3]].cameras,
        views[2].cameras,
        views.cameras.resized(10, 10),
        views.to("cpu").with_world_normals().cameras,
        views.cameras.float(),
    ):
        assert cameras.origin == views.cameras.origin


@pytest.mark.parametrize("offset", [(0, 0, 0), (50.0, -20.0, 30.0)])
def test_cameras_near_the_origin_are_not_translated(tmp_path, offset):
    cameras = read_views(translated(tmp_path / "views", offset)).cameras
    assert cameras.origin == (0.0, 0.0, 0.0)
    expected = torch.from_numpy(matrices(KNIGHT)[:, :3, 3]) + torch.tensor(offset)
    assert float((cameras.positions - expected).abs().max()) < 1e-4


def test_single_far_camera_keeps_its_position(tmp_path):
    folder = translated(tmp_path / "views", UTM)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"] = content["frames"][:1]
    (folder / "transforms.json").write_text(json.dumps(content))
    back = write_views(read_views(folder), tmp_path / "back")
    assert np.abs(matrices(back) - matrices(folder)).max() < 1e-6


def test_fused_mesh_has_the_origin_of_its_far_views(far, tmp_path):
    config = FuseConfig(
        method="hull",
        hull=HullConfig(resolution=24),
        meshing=MeshingConfig(target_faces=800),
        bake=BakeConfig(texture_px=64),
    )
    views = read_views(far)[::4]
    fused = fuse_views(views, config)
    assert fused.mesh.origin == views.cameras.origin
    surface, near_views = fuse_to_surface(read_views(KNIGHT)[::4], config)
    near = extract_mesh(surface, config.meshing)
    mesh = read_mesh(write_mesh(fused.mesh, tmp_path / "far.glb"))
    for corner in (0, 1):
        position = mesh.bounds[corner].double() + torch.tensor(mesh.origin, dtype=torch.float64)
        expected = near.bounds[corner].double() + torch.tensor(UTM, dtype=torch.float64)
        assert float((position - expected).abs().max()) < 0.01
    # the mesh rendered by far cameras covers the same pixels as the near one
    seen = render_views(mesh, views.cameras[0], RenderConfig(1)).views.masks
    reference = render_views(near, near_views.cameras[0], RenderConfig(1)).views.masks
    both, either = torch.minimum(seen, reference).sum(), torch.maximum(seen, reference).sum()
    assert float(both / either) > 0.97
    # the same with separate stages, and for a mesh with another origin
    surface, views = fuse_to_surface(views, config)
    staged = extract_mesh(surface, config.meshing)
    assert staged.origin == views.cameras.origin
    baked = bake_views(mesh, views, config)
    assert baked.mesh.origin == views.cameras.origin
    assert float(baked.coverage.mean()) > 0.1
