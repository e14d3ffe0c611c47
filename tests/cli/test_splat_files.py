"""`render` and `evaluate` with files of splats, and files that are not what a command expects."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.io.splats.files import write_splats
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.splats import Splats
from nova3d_core.splatting.initialise import neighbour_distances

from .conftest import KNIGHT

pytest.importorskip("warp")

TINY_RIG = ("--rig.count", "3", "--rig.width-px", "192", "--rig.height-px", "192")
TINY_IMAGES = ("--image-px", "160", "--supersample", "1")


@pytest.fixture(scope="module")
def knight():
    return read_mesh(KNIGHT).normalised()


@pytest.fixture(scope="module")
def knight_splats(knight, tmp_path_factory):
    """Splats on the surface of the object that ships with the package, with its colours."""
    from nova3d_core.evaluation.metrics.geometry import sample_surface
    from nova3d_core.rendering.shading import surface_colour

    samples = sample_surface(knight, 20_000, seed=0)
    points = torch.from_numpy(samples.points).float()
    vertices = knight.vertices[knight.faces]  # (F, 3, 3)
    nearest = torch.cdist(points, vertices.mean(dim=1)).argmin(dim=1)
    colours = surface_colour(knight, nearest, torch.full((len(points), 3), 1 / 3))
    splats = Splats(
        positions=points,
        scales=0.5 * neighbour_distances(points)[:, None].expand(-1, 3),
        rotations=torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4),
        opacities=torch.full((len(points),), 0.5),
        colours=colours,
    )
    folder = tmp_path_factory.mktemp("splats")
    return write_splats(splats, folder / "knight.ply", up_axis="-Y")


def silhouette_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a > 0.5) & (b > 0.5)).sum() / ((a > 0.5) | (b > 0.5)).sum())


def test_render_shows_splats_as_the_mesh_they_were_made_from(nova3d, knight_splats, tmp_path):
    for name, file in (("splats", knight_splats), ("mesh", KNIGHT)):
        result = nova3d("render", file, "-o", tmp_path / name, *TINY_RIG, "--json")
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout)
        assert report["views"] == 3
        assert report[{"splats": "splats", "mesh": "faces"}[name]] > 1000
    ours, truth = read_views(tmp_path / "splats"), read_views(tmp_path / "mesh")
    assert ours.normals is None
    torch.testing.assert_close(ours.cameras.world_to_camera, truth.cameras.world_to_camera)
    for view in range(3):
        assert silhouette_iou(ours.masks[view], truth.masks[view]) > 0.9
        assert float((ours.colour[view] - truth.colour[view]).abs().mean()) < 0.05


def test_up_axis_of_splats(nova3d, knight_splats, tmp_path):
    """Read as +Y up, the object is upside down and seen from behind."""
    words = ("--up-axis", "+Y", "--no-normalise")
    result = nova3d("render", knight_splats, "-o", tmp_path / "v", *TINY_RIG, *words)
    assert result.returncode == 0, result.stderr
    upright = nova3d("render", knight_splats, "-o", tmp_path / "u", *TINY_RIG, "--no-normalise")
    assert upright.returncode == 0, upright.stderr
    turned, views = read_views(tmp_path / "v"), read_views(tmp_path / "u")
    half_turn = turned.masks[0].flip(0)  # a half turn about X, whose silhouette is the mirrored one
    assert silhouette_iou(half_turn, views.masks[0]) > 0.9
    assert silhouette_iou(turned.masks[0], views.masks[0]) < 0.8


def test_render_writes_a_turntable_of_splats(nova3d, knight_splats, small_turntable, tmp_path):
    path = tmp_path / "turn.webp"
    result = nova3d("render", knight_splats, "-o", tmp_path / "v", *TINY_RIG, "--turntable", path)
    assert result.returncode == 0, result.stderr
    assert "3 views of 20000 splats" in result.stdout
    with Image.open(path) as animation:
        assert (animation.n_frames, animation.size) == (48, (128, 64))


def test_evaluate_compares_images_of_splats(nova3d, knight_splats, tmp_path):
    words = ("evaluate", knight_splats, "--reference", KNIGHT, *TINY_IMAGES)
    result = nova3d(*words, "-o", tmp_path / "report", "--json")
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)["metrics"]
    assert set(metrics) == {"images_all", "images_el0", "images_el25"}
    assert {"psnr", "ssim", "mask_iou"} <= set(metrics["images_all"])
    assert "normal_error_deg" not in metrics["images_all"]
    assert metrics["images_all"]["psnr"] > 20.0
    assert metrics["images_all"]["mask_iou"] > 0.85
    assert (tmp_path / "report" / "comparison.png").is_file()
    text = nova3d(*words)
    assert "| PSNR |" in text.stdout and "CD-L1" not in text.stdout
    assert "No distances, volume or normals: splats have no surface" in text.stdout


@pytest.mark.parametrize("words", [("--align", "icp"), ("--protocol", "syncdreamer")])
def test_settings_that_need_a_surface_are_rejected(nova3d, knight_splats, words):
    result = nova3d("evaluate", knight_splats, "--reference", KNIGHT, *TINY_IMAGES, *words)
    assert result.returncode == 2
    assert "splats are evaluated by their images alone" in result.stderr


def test_files_that_are_something_else_are_named(nova3d, knight, knight_splats, tmp_path):
    """Splats where a mesh is expected, and a .splat file that is none."""
    mesh = write_mesh(knight, tmp_path / "mesh.ply")
    assert nova3d("render", mesh, "-o", tmp_path / "views", *TINY_RIG).returncode == 0
    reference = nova3d("evaluate", mesh, "--reference", knight_splats)
    assert reference.returncode == 2
    assert "knight.ply: it contains Gaussian splats, not a mesh" in reference.stderr
    baked = nova3d("bake", knight_splats, tmp_path / "views", "-o", tmp_path / "a.glb")
    assert baked.returncode == 2
    assert "it contains Gaussian splats, not a mesh" in baked.stderr
    renamed = mesh.rename(tmp_path / "mesh.splat")
    wrong = nova3d("render", renamed, "-o", tmp_path / "others", *TINY_RIG)
    assert wrong.returncode == 2
    assert "mesh.splat" in wrong.stderr
    points = tmp_path / "points.ply"
    points.write_bytes(
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n0 0 0\n"
    )
    cloud = nova3d("render", points, "-o", tmp_path / "cloud", *TINY_RIG)
    assert cloud.returncode == 2
    assert "Point clouds" in cloud.stderr
