"""Images much finer than the finest grid are downsampled, and results upsampled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.fusion.surface import FusionReport, Surface
from nova3d_core.fusion.working_size import upsample_surface, working_views
from nova3d_core.sdf_grid import SdfGrid
from nova3d_core.views import Views


def views_of(size_px: int, extent_px: int, count: int = 3) -> Views:
    """Views of a centred square with a colour ramp and normals along +Z."""
    cameras = orbit_cameras(RigConfig(count=count, width_px=size_px, height_px=size_px))
    masks = torch.zeros(count, size_px, size_px)
    low = (size_px - extent_px) // 2
    masks[:, low : low + extent_px, low : low + extent_px] = 1.0
    ramp = torch.linspace(0.0, 1.0, size_px)
    colour = ramp[None, None, :, None].expand(count, size_px, size_px, 3).clone()
    normals = masks[..., None] * torch.tensor([0.0, 0.0, 1.0])
    return Views(cameras, colour, masks, normals, "world")


@pytest.mark.parametrize(
    ("size_px", "extent_px", "finest", "reduced_px"),
    [
        (256, 240, 32, 256),  # at least 256 px, however coarse the grid
        (512, 360, 192, 512),  # less than two pixels per cell
        (512, 400, 192, 256),
        (1024, 700, 192, 342),  # a factor of three, rounded up
        (1024, 700, 700, 1024),
        (1024, 1000, 32, 256),
    ],
)
def test_images_keep_one_pixel_per_cell_and_256_pixels(size_px, extent_px, finest, reduced_px):
    downsampled = working_views(views_of(size_px, extent_px, count=1), finest)
    assert tuple(downsampled.colour.shape[1:3]) == (reduced_px, reduced_px)
    assert (downsampled.cameras.width, downsampled.cameras.height) == (reduced_px, reduced_px)


def test_small_views_are_returned_as_they_are():
    views = views_of(256, 180)
    assert working_views(views, 104) is views


def test_downsampled_views_show_the_same_scene():
    views = views_of(1024, 512)
    small = views.resized(256, 256)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(
        small.cameras.project(points)[0] * 4.0, views.cameras.project(points)[0]
    )
    # means of 4 x 4 pixels: exact for a ramp, coverage for a mask
    blocks = views.colour.reshape(3, 256, 4, 256, 4, 3).mean(dim=(2, 4))
    torch.testing.assert_close(small.colour, blocks)
    torch.testing.assert_close(small.masks, views.masks.reshape(3, 256, 4, 256, 4).mean((2, 4)))
    lengths = small.normals.norm(dim=-1)
    torch.testing.assert_close(lengths, (small.masks > 0).float())


def test_results_are_upsampled_to_full_size():
    views = views_of(1024, 512)
    small = views.resized(256, 256)
    poses = small.cameras.world_to_camera.clone()
    poses[1, 0, 3] += 0.1
    conflict = torch.full((3, 256, 256), 0.25)
    grid = SdfGrid(torch.zeros(4, 4, 4), torch.zeros(3), 0.1)
    report = FusionReport(steps=1, rays=1, spacing=0.1)
    refined = replace(small.cameras, world_to_camera=poses)
    full = upsample_surface(Surface(grid, torch.eye(4), refined, conflict, report), views)
    assert torch.equal(full.cameras.world_to_camera, poses)
    assert torch.equal(full.cameras.intrinsics, views.cameras.intrinsics)
    assert (full.cameras.width, full.cameras.height) == (1024, 1024)
    assert torch.equal(full.conflict, 0.25 * (views.masks > 0.5))
