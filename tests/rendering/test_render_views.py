"""Renders of an asymmetric L fix azimuth sign, handedness, image orientation and normals.

The L has an upright bar at -X and a low foot towards +X (see conftest); the
bar's +X side is red. Seen from the front its image must look like the letter L.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views, surface_points

RIG = RigConfig(count=4, width_px=128, height_px=128)


@pytest.fixture(scope="module")
def l_views(l_solid):
    """Azimuth 0, 90, 180, 270."""
    return render_views(l_solid, orbit_cameras(RIG)).views


def red_pixels(image: torch.Tensor) -> torch.Tensor:
    return (image[..., 0] > 0.9) & (image[..., 1] < 0.1)


def test_front_view_reads_as_the_letter_l(l_views):
    mask = l_views.masks[0] > 0.5
    top, bottom = mask[: 128 // 2 - 20], mask[128 // 2 + 30 :]
    assert top[:, :64].any() and not top[:, 70:].any()  # the bar is on the left
    assert bottom[:, 64:].any()  # the foot reaches to the right


def test_azimuth_90_faces_the_plus_x_side(l_views):
    # the red side faces +X: visible from azimuth 90, hidden from 270, edge-on from 0 and 180
    count = [int(red_pixels(image).sum()) for image in l_views.colour]
    assert count[1] > 300
    assert count[3] == 0
    # at azimuth 0 and 180 it is visible at a grazing angle, as the bar is left of the centre
    assert count[1] > 3 * max(count[0], count[2])


def test_foot_extends_to_the_left_at_azimuth_90(l_views):
    low = l_views.masks[1, 90:100] > 0.5
    columns = torch.nonzero(low.any(dim=0))[:, 0]
    high = l_views.masks[1, 30:40] > 0.5
    bar_columns = torch.nonzero(high.any(dim=0))[:, 0]
    assert columns.min() < bar_columns.min() - 5  # +Z is on the left
    assert abs(int(columns.max()) - int(bar_columns.max())) < 6  # both end at z = -0.2


def test_normals_are_outward_in_world_space(l_views):
    for view, expected in enumerate([[0, 0, 1.0], [1.0, 0, 0], [0, 0, -1.0], [-1.0, 0, 0]]):
        solid = l_views.masks[view] == 1
        cosine = l_views.normals[view][solid] @ torch.tensor(expected)
        # most visible surfaces of the boxes face the camera; the others are perpendicular
        assert (cosine > 0.999).float().mean() > 0.75
        assert (cosine > -1e-3).all()
    assert torch.equal(
        l_views.normals[l_views.masks == 0], torch.zeros(int((l_views.masks == 0).sum()), 3)
    )
    assert l_views.normal_frame == "world"


def test_top_is_visible_only_from_above(l_solid):
    rig = RigConfig(width_px=64, height_px=64)
    above_below = render_views(l_solid, cameras_at([0.0, 0.0], [60.0, -60.0], rig)).views
    up = torch.tensor([0.0, 1.0, 0.0])
    assert ((above_below.normals[0] @ up) > 0.99).any()
    assert not ((above_below.normals[0] @ up) < -0.5).any()
    assert ((above_below.normals[1] @ up) < -0.99).any()


def test_depth_of_a_plane(l_solid):
    rendering = render_views(l_solid, orbit_cameras(RIG))
    # the front of the foot is at z = 0.3
    pixels, depth_z = orbit_cameras(RIG)[0].project(torch.tensor([[0.2, -0.35, 0.3]]))
    x, y = pixels[0, 0].long()
    assert float(rendering.depth_z[0, y, x]) == pytest.approx(2.2 - 0.3, abs=1e-4)
    assert float(depth_z) == pytest.approx(1.9, abs=1e-5)
    assert torch.isinf(rendering.depth_z[rendering.views.masks == 0]).all()


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_silhouette_of_a_sphere_has_the_analytic_area(make_sphere, kind):
    rig = RigConfig(count=3, kind=kind, width_px=200, height_px=200)
    views = render_views(make_sphere(0.4, 5), orbit_cameras(rig), RenderConfig(4)).views
    if kind == "orthographic":
        radius_px = 0.4 * 200 / rig.ortho_scale
    else:
        radius_px = rig.focal_per_width * 200 * 0.4 / (rig.radius**2 - 0.4**2) ** 0.5
    area = np.pi * radius_px**2
    for mask in views.masks:
        assert float(mask.sum()) == pytest.approx(area, rel=3e-3)
    covered = views.masks == 1
    towards = -orbit_cameras(rig).view_directions
    middle = views.normals[:, 99:101, 99:101].mean(dim=(1, 2))
    torch.testing.assert_close(middle, towards, atol=0.01, rtol=0)
    assert torch.allclose(views.normals[covered].norm(dim=-1), torch.ones(int(covered.sum())))


def test_numpy_and_embree_give_the_same_images(l_solid, make_sphere):
    pytest.importorskip("embreex")
    rig = RigConfig(count=3, elevation_deg=25.0, width_px=64, height_px=64)
    for mesh in (l_solid, make_sphere(0.4, 3)):
        fast = render_views(mesh, orbit_cameras(rig), RenderConfig(2), backend="embree")
        plain = render_views(mesh, orbit_cameras(rig), RenderConfig(2), backend="numpy")
        for name in ("colour", "masks", "normals"):
            a, b = getattr(fast.views, name), getattr(plain.views, name)
            differs = (a - b).abs().reshape(3, 64, 64, -1).amax(dim=-1) > 1e-3
            assert differs.float().mean() < 1e-3, name  # rays through an edge may hit either face


def test_supersampling_converges_to_the_coverage(make_sphere):
    ball, camera = make_sphere(0.4), orbit_cameras(RigConfig(count=1, width_px=64, height_px=64))
    fine = render_views(ball, camera, RenderConfig(8)).views
    errors = [
        float((render_views(ball, camera, RenderConfig(s)).views.masks - fine.masks).abs().mean())
        for s in (1, 2, 4)
    ]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_texture_is_upright(l_solid):
    # a square that faces the front, with quadrants of known colours, uv origin top left
    square = torch.tensor([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.5, 0.5, 0.0], [-0.5, 0.5, 0.0]])
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    texture = torch.zeros(8, 8, 3)
    texture[:4, :4] = torch.tensor([1.0, 0.0, 0.0])
    texture[:4, 4:] = torch.tensor([0.0, 1.0, 0.0])
    texture[4:, :4] = torch.tensor([0.0, 0.0, 1.0])
    mesh = Mesh(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv=uv, texture=texture)
    image = render_views(mesh, orbit_cameras(RigConfig(count=1))).views.colour[0]
    for y, x, colour in ((100, 100, [1, 0, 0]), (100, 156, [0, 1, 0]), (156, 100, [0, 0, 1])):
        torch.testing.assert_close(image[y, x], torch.tensor(colour).float(), atol=1e-4, rtol=0)


def test_normals_of_back_faces_face_the_camera(l_solid):
    sheet = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    both = cameras_at([45.0, 225.0], [35.0, -35.0], RigConfig(width_px=64, height_px=64))
    views = render_views(sheet, both).views
    for view in range(2):
        cosine = views.normals[view] @ -both.view_directions[view]
        assert (cosine[views.masks[view] == 1] > 0.9).all()


def test_surface_points_are_on_the_sphere_and_face_their_cameras(make_sphere):
    ball = make_sphere(0.4, 5)
    cameras = orbit_cameras(RigConfig(count=4, width_px=64, height_px=64))
    seen = surface_points(ball, cameras)
    assert np.abs(np.linalg.norm(seen.points, axis=1) - 0.4).max() < 1e-3
    towards = cameras.positions.numpy()[seen.view] - seen.points
    assert (np.einsum("pi,pi->p", towards, seen.normals) > 0).all()
    assert set(seen.view) == {0, 1, 2, 3}


def test_cancellation_stops_after_the_current_view(l_solid):
    steps = []
    progress = Progress(lambda event: steps.append(event.step), lambda: len(steps) > 2)
    with pytest.raises(Cancelled):
        render_views(l_solid, orbit_cameras(RIG), progress=progress)
    assert steps == [0, 1, 2]


def test_object_outside_the_image_leaves_it_white(l_solid):
    moved = l_solid.transformed(
        torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 5], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    views = render_views(moved, orbit_cameras(RIG)).views
    assert views.masks.sum() == 0
    assert (views.colour == 1).all()
