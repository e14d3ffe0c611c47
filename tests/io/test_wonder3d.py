"""Wonder3D's output folders, compared with its pose files and its normal transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.errors import InputError
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.rendering.views import render_views

HALF = 0.5**0.5
POSES = {
    "front": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    "front_right": [[HALF, HALF, 0], [0, 0, 1], [HALF, -HALF, 0]],
    "right": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "back": [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
    "left": [[0, -1, 0], [0, 0, 1], [-1, 0, 0]],
    "front_left": [[HALF, -HALF, 0], [0, 0, 1], [-HALF, -HALF, 0]],
}
"""World (+Z up) to camera (OpenGL axes): the rotations of its fixed_poses/000_*_RT.txt, rounded."""
SIZE = 64
WIDE = 1.35
"""World width of its images, as its reconstruction scales the mesh (ortho_scale)."""


@pytest.fixture(scope="module")
def rendering(l_solid):
    """Wonder3D's views of the L-shaped solid, with normals in front-view axes."""
    cameras = cameras_from_orbit(preset_orbit("wonder3d", SIZE, SIZE))
    return render_views(l_solid, cameras).views.with_normals_in("front_view")


def save(path, levels: torch.Tensor, alpha: torch.Tensor | None = None) -> None:
    layers = levels if alpha is None else torch.cat([levels, alpha[..., None]], dim=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((layers.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(path)


def output_folder(folder, rendering, cut_out=True, whole=True, masked_colours=True):
    """Files as written by its test_mvdiffusion_seq.py; background removal multiplies by alpha."""
    for view, name in enumerate(POSES):
        colour, mask = rendering.colour[view], rendering.masks[view]
        normals = rendering.normals[view] * 0.5 + 0.5
        normals = torch.where(mask[..., None] > 0, normals, 1.0)
        save(folder / f"rgb_000_{name}.png", colour)
        if whole:
            save(folder / "normals" / f"normals_000_{name}.png", normals)
        if cut_out:
            save(folder / f"normals_000_{name}.png", normals * mask[..., None], mask)
        if masked_colours:
            save(folder / "masked_colors" / f"rgb_000_{name}.png", colour, mask)
    return folder


def test_cameras_match_the_pose_files(tmp_path, rendering):
    views = read_views(output_folder(tmp_path / "owl", rendering))
    cameras = views.cameras
    assert (cameras.kind, cameras.width, cameras.height) == ("orthographic", SIZE, SIZE)
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (30, 3))  # of its world, +Z up
    rotated = points[:, [0, 2, 1]] * [1, 1, -1]  # x, z, -y
    pixels, _ = cameras.project(torch.from_numpy(rotated).float())
    for view, rotation in enumerate(POSES.values()):
        x, y, _ = np.array(rotation) @ points.T
        expected = np.stack([x, -y], axis=1) * SIZE / WIDE + SIZE / 2
        assert np.abs(pixels[view].numpy() - expected).max() < 1e-3


def test_images_masks_and_normals_match_the_object(tmp_path, rendering):
    views = read_views(output_folder(tmp_path / "owl", rendering))
    assert len(views) == 6 and views.normal_frame == "front_view"
    assert float((views.masks - rendering.masks).abs().max()) <= 0.5 / 255 + 1e-6
    inside = views.masks > 0
    seen = rendering.colour[inside]
    assert float((views.colour[inside] - seen).abs().max()) <= 0.5 / 255 + 1e-6
    # its reconstruction uses OpenGL axes of the front camera for all views
    world = views.with_world_normals().normals
    truth = rendering.with_world_normals().normals
    full = views.masks > 0.99
    assert int(full.sum()) > 2000
    assert float((world - truth)[full].norm(dim=-1).max()) < 0.02
    front = np.array(POSES["front"])
    own = views.normals[2][full[2]].double().numpy()  # seen from the right
    lifted = own @ front  # rows times world-to-camera: camera to world, +Z up
    expected = truth[2][full[2]].double().numpy()[:, [0, 2, 1]] * [1, -1, 1]  # x, -z, y
    assert np.abs(lifted - expected).max() < 0.02


@pytest.mark.parametrize(
    ("parts", "masked", "with_normals"),
    [
        ({"whole": False}, True, True),
        ({"cut_out": False}, True, True),
        ({"cut_out": False, "masked_colours": False}, False, True),
        ({"cut_out": False, "whole": False, "masked_colours": False}, False, False),
    ],
)
def test_folders_with_fewer_files(tmp_path, rendering, parts, masked, with_normals):
    views = read_views(output_folder(tmp_path / "owl", rendering, **parts))
    assert (views.masks is not None, views.normals is not None) == (masked, with_normals)
    if masked:
        assert float((views.masks - rendering.masks).abs().max()) <= 0.5 / 255 + 1e-6
    if with_normals:
        full = rendering.masks > 0.99
        assert float((views.normals - rendering.normals)[full].norm(dim=-1).max()) < 0.02


def test_subset_of_views_keeps_its_cameras(tmp_path, rendering):
    folder = output_folder(tmp_path / "owl", rendering)
    for name in ("front_right", "front_left"):
        (folder / f"rgb_000_{name}.png").unlink()
    cameras = read_views(folder).cameras
    assert cameras.azimuth_deg.tolist() == pytest.approx([0.0, 90.0, 180.0, 270.0], abs=1e-3)


def test_damaged_image_is_reported(tmp_path, rendering):
    folder = output_folder(tmp_path / "owl", rendering)
    path = folder / "rgb_000_right.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"rgb_000_right\.png") as caught:
        read_views(folder)
    assert len(str(caught.value)) < 500
    path.unlink()
    path.symlink_to(tmp_path.parent / "secret.png")
    (tmp_path.parent / "secret.png").write_bytes(b"")
    with pytest.raises(InputError, match="view right points outside the folder"):
        read_views(folder)
