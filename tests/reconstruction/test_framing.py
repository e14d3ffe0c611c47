"""Views re-framed to the model's cameras, and splats mapped back, with known answers."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras
from nova3d_core.cameras.rotations import axis_angle_to_matrix, quaternion_to_matrix
from nova3d_core.errors import InputError
from nova3d_core.imaging.crop import object_bounds
from nova3d_core.reconstruction.config import FAMILIES
from nova3d_core.reconstruction.framing import frame_views
from nova3d_core.reconstruction.rays import plucker_rays
from nova3d_core.splats import Splats
from nova3d_core.views import Views

LGM = FAMILIES["lgm"]
POINTS = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) - 0.5


def images_of(views: Views) -> torch.Tensor:
    return views.colour.movedim(-1, 1)


def moved(cameras: Cameras, transform: torch.Tensor, scale: float = 1.0) -> Cameras:
    """Cameras of a world that is scaled, then moved by a rigid transform (4, 4)."""
    poses = cameras.world_to_camera.clone()
    poses[:, :3, 3] *= scale
    return replace(cameras, world_to_camera=poses @ torch.linalg.inv(transform))


def model_points(framed, points: torch.Tensor) -> torch.Tensor:
    """World points (N, 3) in the model's world."""
    return framed.scale * (points - framed.centre) @ framed.rotation.T


def test_views_of_the_models_own_cameras_are_unchanged(render_orbit):
    views = render_orbit()
    framed = frame_views(views, LGM, "image")
    torch.testing.assert_close(framed.images, images_of(views), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(framed.cameras.world_to_camera, views.cameras.world_to_camera)
    torch.testing.assert_close(framed.cameras.intrinsics, views.cameras.intrinsics)
    torch.testing.assert_close(framed.rotation, torch.eye(3))
    assert framed.scale == pytest.approx(1.0, abs=1e-6)
    assert framed.perspective_error_px == pytest.approx(0.0, abs=1e-4)


def test_rays_are_those_of_lgm(render_orbit):
    rays = plucker_rays(frame_views(render_orbit(), LGM, "image").cameras)
    origin = torch.tensor([0.0, 0.0, 1.5])
    focal = 128.0 / torch.tan(torch.deg2rad(torch.tensor(49.1)) / 2.0)
    direction = torch.tensor([(200.5 - 128.0) / focal, -(30.5 - 128.0) / focal, -1.0])
    direction = direction / direction.norm()
    expected = torch.cat([torch.linalg.cross(origin, direction), direction])
    torch.testing.assert_close(rays[0, :, 30, 200], expected, rtol=0.0, atol=1e-6)
    # azimuth 90 is seen from +X
    middle = rays[1, 3:, 127:129, 127:129].mean(dim=(1, 2))
    torch.testing.assert_close(middle, torch.tensor([-1.0, 0.0, 0.0]), rtol=0.0, atol=1e-4)


def test_another_field_of_view_and_size_is_exact(render_orbit):
    expected = render_orbit(radius=1.25)
    framed = frame_views(render_orbit(radius=1.25, fov_deg=60.0, size_px=384), LGM, "image")
    assert framed.scale == pytest.approx(1.5 / 1.25)
    assert framed.perspective_error_px == pytest.approx(0.0, abs=1e-4)
    assert float((framed.images - images_of(expected)).abs().mean()) < 2e-3


def test_a_crop_is_undone_by_its_principal_point(render_orbit):
    views = render_orbit(fov_deg=60.0, size_px=300)
    cut = (slice(None), slice(20, 290), slice(30, 300))
    intrinsics = views.cameras.intrinsics.clone()
    intrinsics[:, :2, 2] -= torch.tensor([30.0, 20.0])
    cameras = Cameras(views.cameras.world_to_camera, intrinsics, 270, 270)
    cropped = Views(cameras, views.colour[cut], views.masks[cut])
    for framing in ("image", "object"):
        whole, part = frame_views(views, LGM, framing), frame_views(cropped, LGM, framing)
        torch.testing.assert_close(part.images, whole.images, rtol=0.0, atol=1e-4)
        torch.testing.assert_close(part.centre, whole.centre, rtol=0.0, atol=1e-5)


def test_a_camera_that_looks_aside_is_rotated_exactly(render_orbit, l_solid):
    from nova3d_core.rendering.views import render_views

    straight = render_orbit(fov_deg=70.0, size_px=320)
    aside = axis_angle_to_matrix(torch.tensor([[0.06, -0.09, 0.0]]))
    turned = straight.cameras.world_to_camera.clone()
    turned[:, :3] = aside @ turned[:, :3]
    cameras = replace(straight.cameras, world_to_camera=turned)
    views = render_views(l_solid, cameras).views
    framed, expected = (frame_views(each, LGM, "image") for each in (views, straight))
    assert float((framed.images - expected.images).abs().mean()) < 4e-3
    torch.testing.assert_close(
        framed.cameras.positions, expected.cameras.positions, rtol=0.0, atol=1e-5
    )


@pytest.mark.parametrize("framing", ["image", "object"])
def test_points_are_seen_where_the_images_show_them(render_orbit, l_solid, framing):
    """The model's cameras see a point at the pixel to which its source pixel is moved."""
    views = render_orbit(azimuths_deg=(33.0, 121.0, 217.0, 300.0), radius=2.2, fov_deg=39.6)
    corners = l_solid.vertices[l_solid.faces]  # (F, 3, 3)
    weights = torch.rand(len(corners), 8, 3, generator=torch.Generator().manual_seed(1)) + 0.2
    weights = weights / weights.sum(dim=2, keepdim=True)
    points = (weights @ corners).flatten(0, 1)
    coloured = replace(views, colour=_coordinates(256).expand(4, -1, -1, -1).contiguous())
    framed = frame_views(coloured, LGM, framing)
    seen, _ = views.cameras.project(points)
    pixels, _ = framed.cameras.project(model_points(framed, points))
    grid = (pixels / 128.0 - 1.0)[:, :, None]  # (4, N, 1, 2)
    shown = torch.nn.functional.grid_sample(framed.images, grid, align_corners=False)[..., 0]
    is_inside = shown[:, 2] < 1e-3  # blue is 0 on the object, 1 on white
    assert float(is_inside.float().mean()) > 0.8
    errors = (256.0 * shown[:, :2].transpose(1, 2) - seen)[is_inside].norm(dim=1)
    assert float(errors.max()) < 0.1 + 1.5 * framed.perspective_error_px


def _coordinates(size: int) -> torch.Tensor:
    """(1, S, S, 3): x and y of the pixel centres over the size, and 0."""
    steps = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1)[None]


@pytest.mark.parametrize("framing", ["image", "object"])
def test_splats_return_to_the_world(render_orbit, framing):
    views = render_orbit(azimuths_deg=(33.0, 123.0, 213.0, 303.0), radius=2.2, fov_deg=39.6)
    framed = frame_views(views, LGM, framing)
    generator = torch.Generator().manual_seed(5)
    splats = Splats(
        positions=model_points(framed, POINTS),
        scales=0.01 + 0.1 * torch.rand(50, 3, generator=generator),
        rotations=torch.randn(50, 4, generator=generator),
        opacities=torch.rand(50, generator=generator),
        colours=torch.rand(50, 3, generator=generator),
    )
    world = framed.to_world(splats)
    torch.testing.assert_close(world.positions, POINTS, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(world.scales * framed.scale, splats.scales)
    expected = framed.rotation.T @ quaternion_to_matrix(splats.rotations)
    torch.testing.assert_close(quaternion_to_matrix(world.rotations), expected, rtol=0.0, atol=1e-5)
    # seen from azimuth 33, the world's +X points to the right and towards the camera
    towards_x = framed.rotation @ torch.tensor([1.0, 0.0, 0.0])
    expected = torch.tensor([0.83867, 0.0, 0.54464])
    tolerance = 1e-4 if framing == "image" else 0.03  # the camera is turned to the object's centre
    torch.testing.assert_close(towards_x, expected, rtol=0.0, atol=tolerance)


def test_the_object_fills_its_share_of_the_image(render_orbit):
    framed = frame_views(render_orbit(radius=2.2, fov_deg=39.6), LGM, "object")
    masks = (framed.images.amin(dim=1) < 0.98).float()
    sides = [object_bounds(mask) for mask in masks]
    longest = max(max(bottom - top, right - left) for top, bottom, left, right in sides)
    assert 0.76 < longest / 256.0 < 0.81
    for top, bottom, left, right in sides:
        assert abs(top + bottom - 256) < 14 and abs(left + right - 256) < 40


def test_moving_turning_and_scaling_the_world_changes_nothing(render_orbit):
    views = render_orbit(radius=2.2, fov_deg=45.0)
    transform = torch.eye(4)
    transform[:3, :3] = axis_angle_to_matrix(torch.tensor([[0.3, -1.1, 0.4]]))[0]
    transform[:3, 3] = torch.tensor([4.0, -2.0, 1.0])
    changed = replace(views, cameras=moved(views.cameras, transform, scale=10.0))
    before, after = frame_views(views, LGM, "object"), frame_views(changed, LGM, "object")
    torch.testing.assert_close(after.images, before.images, rtol=0.0, atol=1e-3)
    assert after.scale == pytest.approx(before.scale / 10.0, rel=1e-4)
    assert after.perspective_error_px == pytest.approx(before.perspective_error_px, rel=1e-3)
    expected = transform[:3, :3] @ (10.0 * before.centre) + transform[:3, 3]
    torch.testing.assert_close(after.centre, expected, rtol=0.0, atol=1e-3)


def test_perspective_error_bounds_what_is_displaced(render_orbit, l_solid, caplog):
    views = render_orbit(radius=2.2, fov_deg=39.6)
    with caplog.at_level(logging.WARNING):
        framed = frame_views(views, LGM, "object")
    assert "another perspective than those of LGM" in caplog.text
    vertices = l_solid.vertices
    pixels, _ = framed.cameras.project(model_points(framed, vertices))
    tangents = views.cameras.project(vertices)[0] - 128.0
    focal = framed.cameras.intrinsics[0, 0, 0] / views.cameras.intrinsics[0, 0, 0]
    magnification = framed.scale * 2.2 / 1.5 * focal
    centres = views.cameras.project(framed.centre[None])[0] - 128.0
    displaced = (pixels - 128.0) - magnification * (tangents - centres)
    worst = float(displaced.abs().max())
    assert 0.3 * framed.perspective_error_px < worst < 1.5 * framed.perspective_error_px


def test_orthographic_views_are_scaled_about_the_object(render_orbit):
    views = render_orbit(kind="orthographic", ortho_scale=1.35)
    framed = frame_views(views, LGM, "object")
    assert framed.perspective_error_px > 8.0
    torch.testing.assert_close(
        framed.cameras.positions[1], torch.tensor([1.5, 0.0, 0.0]), rtol=0.0, atol=1e-5
    )
    whole = frame_views(views, LGM, "image")
    assert whole.scale == pytest.approx(2.0 * 1.5 * 0.45677 / 1.35, rel=1e-3)
    torch.testing.assert_close(whole.images, images_of(views), rtol=0.0, atol=1e-4)


def test_any_background_becomes_white(render_orbit):
    views = render_orbit()
    black = replace(
        views, colour=views.colour * views.masks[..., None] * (views.masks[..., None] > 0.99)
    )
    framed = frame_views(black, LGM, "image")
    outside = views.masks == 0.0
    assert float((1.0 - framed.images.movedim(1, -1)[outside]).abs().max()) < 1e-5
    # a white background needs no masks
    unmasked = frame_views(replace(views, masks=None), LGM, "image")
    torch.testing.assert_close(unmasked.images, images_of(views), rtol=0.0, atol=1e-5)


def test_unusable_views_are_rejected(render_orbit, caplog):
    views = render_orbit()
    grey = replace(views, masks=None, colour=torch.full_like(views.colour, 0.5))
    with pytest.raises(InputError, match="border of view 0 is not white"):
        frame_views(grey, LGM)
    masks = views.masks.clone()
    masks[2] = 0.0
    with pytest.raises(InputError, match="mask of selected view 2 is empty"):
        frame_views(replace(views, masks=masks), LGM)
    behind = views.cameras.world_to_camera.clone()
    behind[1, 2, 3] = -3.0
    away = replace(views, cameras=replace(views.cameras, world_to_camera=behind))
    with pytest.raises(InputError, match="camera of selected view 1 does not look at the object"):
        frame_views(away, LGM, "image")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        frame_views(render_orbit(radius=1.0, fov_deg=70.0, size_px=64), LGM, "image")
    assert "does not fit into the images of LGM" in caplog.text
    assert "--framing object" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        frame_views(render_orbit(radius=0.9, fov_deg=40.0), LGM)
    assert "cut off at the border of selected view 0" in caplog.text
