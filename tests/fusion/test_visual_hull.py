"""Visual hulls of balls and boxes with known solutions, and of contradicting masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.fusion.config import HullConfig
from nova3d_core.fusion.hull.silhouettes import Silhouettes, local_thickness_px, signed_distance_px
from nova3d_core.fusion.hull.visual_hull import carve_hull
from nova3d_core.meshing.isosurface import extract_surface
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

SMALL = HullConfig(resolution=64)


def carve(mesh, cameras, config=SMALL):
    return extract_surface(carve_hull(render_views(mesh, cameras).views, config))


def test_distance_is_signed_and_subpixel():
    y, x = torch.meshgrid(torch.arange(256) + 0.5, torch.arange(256) + 0.5, indexing="ij")
    truth = torch.hypot(x - 100.3, y - 140.7) - 50.2
    coverage = (0.5 - truth).clamp(0.0, 1.0)  # coverage of pixels by a straight edge
    for upsampling, tolerance in ((1, 0.75), (4, 0.2)):
        distance = signed_distance_px(coverage, upsampling)
        assert distance.shape == (256 * upsampling, 256 * upsampling)
        at_pixels = torch.nn.functional.avg_pool2d(distance[None, None], upsampling)[0, 0]
        near = truth.abs() < 5
        assert (at_pixels - truth)[near].abs().max() < tolerance
        assert (at_pixels - truth)[near].mean().abs() < 0.05


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_hull_of_a_ball_from_all_sides_is_the_ball(make_sphere, kind):
    rig = RigConfig(kind=kind)
    azimuths = [i * 45.0 for i in range(8)] * 3
    elevations = [0.0] * 8 + [50.0] * 8 + [-50.0] * 8
    cameras = cameras_at(azimuths, elevations, rig)
    exact, rounded = (
        carve(make_sphere(0.4, 5), cameras, replace(SMALL, ridge_rounding=ratio)).vertices
        for ratio in (0.0, 0.5)
    )
    distance = exact.norm(dim=1)
    assert distance.min() > 0.4 - 0.004
    # between views the hull exceeds the ball by up to 1/cos of half their angle
    assert distance.max() < 0.4 / np.cos(np.radians(25.0)) + 0.004
    assert distance.median() < 0.407
    # with hardly any ridges, rounding removes less than a pixel of the ball
    assert rounded.norm(dim=1).max() <= distance.max() + 1e-4
    assert rounded.norm(dim=1).min() > 0.4 - 2.2 / (1.3889 * 256)


def test_local_thickness_is_the_radius_of_the_largest_disc_inside():
    mask = torch.zeros(200, 200)
    mask[20:60, 10:190] = 1.0  # a bar 40 wide
    mask[100:108, 10:190] = 1.0  # a bar 8 wide
    thickness = local_thickness_px(mask)
    assert thickness[40, 100] == pytest.approx(20, rel=0.3)
    assert thickness[21, 100] == pytest.approx(20, rel=0.3)  # at the edge as in the middle
    assert thickness[104, 100] == pytest.approx(4, rel=0.35)
    assert thickness[80, 100] == 0
    assert local_thickness_px(torch.zeros(50, 50)).max() == 0


def test_rounding_removes_exactly_the_ridges_of_a_cylinder(make_sphere):
    # few views of a ball: between them the exact hull exceeds it, the rounded one less
    cameras = orbit_cameras(RigConfig(count=8, kind="orthographic"))
    views = render_views(make_sphere(0.4, 5), cameras).views
    angles = torch.linspace(0, 2 * np.pi, 361)
    ring = torch.stack([angles.sin(), torch.zeros(361), angles.cos()], dim=1)
    radii = {}
    for ratio in (0.0, 0.5, 1.0):
        silhouettes = Silhouettes.of(views, ridge_rounding=ratio)
        along = torch.linspace(0.35, 0.5, 301)
        inside = torch.stack([silhouettes.sdf(ring * r) < 0 for r in along])  # (301, 361)
        radii[ratio] = along[inside.sum(dim=0) - 1]
    ridge = 0.4 / np.cos(np.radians(22.5))
    assert float(radii[0.0].max()) == pytest.approx(ridge, abs=2e-3)
    assert float(radii[1.0].max()) == pytest.approx(0.4, abs=0.012)
    assert radii[0.0].max() > radii[0.5].max() + 0.005 > radii[1.0].max() + 0.01
    for ratio in (0.5, 1.0):  # the rounded hull contains the ball up to a third of a pixel
        assert radii[ratio].min() > 0.4 - 0.33 * 1.5 / 256 - 1e-3
    assert (radii[0.0] >= radii[0.5]).all()


def test_hull_is_zero_on_silhouette_cones_and_grows_like_a_distance(make_sphere):
    silhouettes = Silhouettes.of(render_views(make_sphere(0.4, 5), orbit_cameras()).views)
    tangent = 0.4 / np.sqrt(1 - (0.4 / 2.2) ** 2)  # where the cone meets the plane of the centre
    radii = torch.linspace(tangent - 0.1, tangent + 0.1, 21)
    points = torch.stack([torch.zeros(21), radii, torch.zeros(21)], dim=1)
    sdf = silhouettes.sdf(points)
    torch.testing.assert_close(sdf, radii - tangent, atol=2e-3, rtol=0)


def test_hull_encloses_the_object_in_the_right_orientation(l_solid):
    hull = carve(l_solid, orbit_cameras(), HullConfig(resolution=128))
    low, high = hull.bounds
    torch.testing.assert_close(low, torch.tensor([-0.4, -0.5, -0.2]), atol=0.08, rtol=0)
    assert (low < l_solid.bounds[0] + 0.005).all() and (high > l_solid.bounds[1] - 0.005).all()
    inside = hull.as_trimesh().contains(
        np.array([[-0.25, 0.3, 0.0], [0.3, -0.35, 0.2], [0.3, 0.3, 0.0], [-0.25, 0.3, 0.25]])
    )
    assert inside.tolist() == [True, True, False, False]


def test_more_views_never_add_volume(l_solid):
    cameras = orbit_cameras(RigConfig(count=16, elevation_deg=10.0))
    views = render_views(l_solid, cameras).views
    volumes = [
        extract_surface(carve_hull(views[::step], SMALL)).as_trimesh().volume for step in (8, 4, 2)
    ]
    assert volumes[0] > volumes[1] > volumes[2] > l_solid.as_trimesh().volume


def test_hull_is_invariant_to_scale_and_translation(make_sphere):
    cameras = orbit_cameras(RigConfig(count=8, elevation_deg=20.0))
    views = render_views(make_sphere(0.4), cameras).views
    # the same images in a world that is ten times as large and translated
    translation = torch.tensor([3.0, -7.0, 40.0])
    poses = cameras.world_to_camera.clone()
    poses[:, :3, 3] = poses[:, :3, 3] * 10.0 - (poses[:, :3, :3] @ translation)
    far = replace(views, cameras=replace(cameras, world_to_camera=poses))
    hull, moved_hull = (extract_surface(carve_hull(v, SMALL)) for v in (views, far))
    assert moved_hull.as_trimesh().volume == pytest.approx(
        1000 * hull.as_trimesh().volume, rel=0.01
    )
    torch.testing.assert_close(
        (moved_hull.bounds.mean(dim=0) - translation) / 10,
        hull.bounds.mean(dim=0),
        atol=3e-3,
        rtol=0,
    )


def test_fine_grid_matches_evaluating_every_point(l_solid):
    views = render_views(l_solid, orbit_cameras(RigConfig(count=6))).views
    grid = carve_hull(views, SMALL)
    exact = Silhouettes.of(views, ridge_rounding=SMALL.ridge_rounding).sdf(grid.points())
    exact = exact.reshape(grid.values.shape)
    assert ((grid.values < 0) == (exact < 0)).all()
    near = exact.abs() < 2 * grid.spacing
    torch.testing.assert_close(grid.values[near], exact[near], atol=1e-5, rtol=0)


def test_two_separate_parts_are_kept(make_sphere):
    ball = make_sphere(0.15)
    left = ball.vertices - torch.tensor([0.3, 0.0, 0.0])
    right = ball.vertices + torch.tensor([0.3, 0.0, 0.0])
    two = replace(
        ball,
        vertices=torch.cat([left, right]),
        faces=torch.cat([ball.faces, ball.faces + len(left)]),
        normals=None,
    )
    hull = carve(two, orbit_cameras(), HullConfig(resolution=96))
    assert hull.as_trimesh().body_count == 2


def with_mask_of_view(views: Views, view: int, value: float) -> Views:
    masks = views.masks.clone()
    masks[view] = value
    return replace(views, masks=masks)


@pytest.fixture
def ball_views(make_sphere):
    return render_views(make_sphere(), orbit_cameras(RigConfig(count=4))).views


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:1], "1 view was given"),
        (lambda v: replace(v, masks=None), "no masks"),
        (lambda v: with_mask_of_view(v, 2, 0.0), "view 2 is empty"),
        (lambda v: with_mask_of_view(v, 3, 1.0), "view 3 is full"),
    ],
)
def test_uncarvable_views_are_refused(ball_views, change, message):
    with pytest.raises(InputError, match=message):
        carve_hull(change(ball_views), SMALL)


def test_contradicting_masks_name_the_worst_view(ball_views):
    masks = ball_views.masks.clone()
    masks[2] = 0.0
    masks[2, :20, :20] = 1.0  # an object in the corner, where the other views have none
    with pytest.raises(StageError, match=r"nothing is left.*view 2 disagrees most"):
        carve_hull(replace(ball_views, masks=masks), SMALL)


def test_cancel_stops_within_a_step(ball_views):
    steps = []
    progress = Progress(lambda event: steps.append(event.step), lambda: len(steps) > 1)
    with pytest.raises(Cancelled, match="carving"):
        carve_hull(ball_views, SMALL, progress)
    assert len(steps) == 2


def test_opposite_views_only_are_closed_with_a_warning(make_sphere, caplog):
    views = render_views(make_sphere(), orbit_cameras(RigConfig(count=2))).views
    hull = extract_surface(carve_hull(views, SMALL))
    assert hull.as_trimesh().is_watertight
    assert "bounds the object along z" in caplog.text
    assert "touches the border" not in caplog.text
    extent = hull.bounds[1] - hull.bounds[0]
    assert float(extent[0]) == pytest.approx(0.8, abs=0.1)


def test_off_centre_crops_carve_the_same_hull(make_sphere):
    away = torch.eye(4)
    away[:3, 3] = torch.tensor([0.35, -0.2, 0.3])
    ball = make_sphere(0.15).transformed(away)
    cameras = orbit_cameras(RigConfig(count=8))
    full = render_views(ball, cameras).views
    crops, lenses = [], cameras.intrinsics.clone()
    size = 96
    for view in range(8):
        rows, columns = torch.nonzero(full.masks[view] > 0.5).unbind(dim=1)
        top, left = (min(int(first.min()) - 8, 256 - size) for first in (rows, columns))
        crops.append((slice(top, top + size), slice(left, left + size)))
        lenses[view, :2, 2] -= torch.tensor([left, top])
    cropped = Views(
        Cameras(cameras.world_to_camera, lenses, size, size),
        torch.stack([full.colour[view][crop] for view, crop in enumerate(crops)]),
        torch.stack([full.masks[view][crop] for view, crop in enumerate(crops)]),
    )
    one, other = (extract_surface(carve_hull(v, SMALL)) for v in (full, cropped))
    torch.testing.assert_close(one.bounds, other.bounds, atol=4e-3, rtol=0)
    torch.testing.assert_close(other.bounds.mean(dim=0), away[:3, 3], atol=0.01, rtol=0)


def test_memory_does_not_grow_with_the_number_of_views(ball_views):
    many = ball_views[[0, 1, 2, 3] * 10]
    silhouettes = Silhouettes.of(many, ridge_rounding=0.5)
    points = torch.zeros(300_000, 3)
    assert max(len(part) for part in silhouettes.split(points)) * 40 <= 1 << 22
    some = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(Silhouettes.of(many).sdf(some), Silhouettes.of(ball_views).sdf(some))


def test_object_cut_off_by_the_image_is_not_carved_there(make_sphere):
    # the ball's lower third is outside every image: it must not be cut off flat
    rig = RigConfig(count=12)
    cameras = orbit_cameras(rig)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 1, 2] += 108.0
    views = render_views(make_sphere(), replace(cameras, intrinsics=intrinsics)).views
    assert (views.masks[:, -1] > 0.5).any()
    low = extract_surface(carve_hull(views, SMALL)).bounds[0]
    bottom_of_image = (256 - 128 - 108) / (1.3889 * 256) * 2.2
    assert float(low[1]) < -bottom_of_image - 0.03
