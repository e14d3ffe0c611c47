"""Views assembled from images of other programs, and errors for invalid inputs."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import encode_normals
from nova3d_core.errors import InputError
from nova3d_core.imaging.assemble import assemble_views
from nova3d_core.rendering.views import render_views

RIG = RigConfig(count=5, width_px=48, height_px=40)


@pytest.fixture(scope="module")
def rendered(l_solid):
    return render_views(l_solid, orbit_cameras(RIG)).views


@pytest.mark.parametrize("frame", ["world", "camera", "front_view"])
def test_assembles_rendered_images_unchanged(rendered, frame):
    given = rendered.with_normals_in(frame)
    normals = encode_normals(given.normals)
    views = assemble_views(given.colour, given.cameras, normals, given.masks, frame)
    assert torch.equal(views.colour, given.colour)
    assert torch.equal(views.masks, given.masks)
    torch.testing.assert_close(views.normals, given.normals, atol=1e-5, rtol=0)
    assert views.normal_frame == frame


def test_cameras_are_resized_to_the_images(rendered):
    other = orbit_cameras(RigConfig(count=5, width_px=480, height_px=400))
    views = assemble_views(rendered.colour, other, masks=rendered.masks)
    torch.testing.assert_close(views.cameras.intrinsics, rendered.cameras.intrinsics)
    assert (views.cameras.width, views.cameras.height) == (48, 40)


def test_alpha_becomes_the_mask_on_white(rendered):
    alpha = (rendered.masks > 0.5).float()
    on_green = torch.where(alpha[..., None] > 0, rendered.colour, torch.tensor([0.0, 1.0, 0.0]))
    views = assemble_views(torch.cat([on_green, alpha[..., None]], dim=-1), rendered.cameras)
    assert torch.equal(views.masks, alpha)
    assert (views.colour[alpha <= 0] == 1.0).all()
    assert torch.equal(views.colour[alpha > 0], rendered.colour[alpha > 0])


def test_missing_masks_are_mattes_from_white(rendered):
    views = assemble_views(rendered.colour, rendered.cameras)
    inside = rendered.masks > 0.5
    overlap = ((views.masks > 0.5) & inside).sum() / ((views.masks > 0.5) | inside).sum()
    assert overlap > 0.95


def test_normals_outside_the_masks_are_ignored(rendered):
    on_white = torch.where(rendered.masks[..., None] > 0, encode_normals(rendered.normals), 1.0)
    views = assemble_views(rendered.colour, rendered.cameras, on_white, rendered.masks)
    assert (views.normals[rendered.masks <= 0] == 0.0).all()


def test_first_view_can_be_chosen_for_front_view_normals(rendered):
    given = rendered.with_normals_in("front_view")
    views = assemble_views(
        given.colour, given.cameras, encode_normals(given.normals), given.masks, "front_view", -1
    )
    order = [4, 0, 1, 2, 3]
    assert torch.equal(views.colour, rendered.colour[order])
    assert torch.equal(views.cameras.world_to_camera, rendered.cameras.world_to_camera[order])
    normals = views.with_world_normals().normals
    torch.testing.assert_close(normals, rendered.normals[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, m: {"images": p[:4]}, "there are 4 images but 5 cameras"),
        (lambda p, m: {"masks": m[:1]}, "there is 1 mask but 5 images"),
        (lambda p, m: {"normals": p[:, :, :20]}, "normal images are 20x40 px but the images"),
        (lambda p, m: {"images": p[:, :1, :1]}, "the images are 1x1 px"),
        (lambda p, m: {"masks": m * 0}, "mask of view 0 is empty"),
        (lambda p, m: {"images": p * 255}, "images has values from"),
        (lambda p, m: {"images": p * torch.nan}, "images has 28800 values that are NaN"),
        (lambda p, m: {"first_view": 5}, "first_view is 5, but there are 5 views"),
    ],
)
def test_invalid_inputs_are_errors(rendered, change, message):
    given = {"images": rendered.colour, "cameras": rendered.cameras, "masks": rendered.masks}
    given |= change(rendered.colour, rendered.masks)
    with pytest.raises(InputError, match=message):
        assemble_views(**given)
