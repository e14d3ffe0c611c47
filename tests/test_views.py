"""Views: frames of normals, indexing, conversion and validation."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import decode_normals, encode_normals
from nova3d_core.errors import InputError
from nova3d_core.views import Views

RIG = RigConfig(count=4, azimuth_start_deg=30.0, elevation_deg=20.0, width_px=8, height_px=6)


def some_views(frame="world") -> Views:
    random = torch.Generator().manual_seed(1)
    normals = torch.randn(4, 6, 8, 3, generator=random)
    return Views(
        orbit_cameras(RIG),
        torch.rand(4, 6, 8, 3, generator=random),
        torch.rand(4, 6, 8, generator=random),
        normals / normals.norm(dim=-1, keepdim=True),
        frame,
    )


@pytest.mark.parametrize("frame", ["camera", "front_view", "world"])
def test_normals_round_trip_through_each_frame(frame):
    views = some_views()
    converted = views.with_normals_in(frame)
    assert converted.normal_frame == frame
    torch.testing.assert_close(
        converted.with_world_normals().normals, views.normals, atol=1e-6, rtol=0
    )


def test_surface_facing_the_camera_has_normal_plus_z_in_camera_frame():
    cameras = orbit_cameras(RIG)
    towards = -cameras.view_directions[:, None, None].expand(4, 6, 8, 3)
    views = Views(cameras, torch.ones(4, 6, 8, 3), None, towards, "world")
    in_camera = views.with_normals_in("camera").normals
    torch.testing.assert_close(
        in_camera, torch.tensor([0.0, 0.0, 1.0]).expand(4, 6, 8, 3), atol=1e-6, rtol=0
    )


def test_front_view_frame_is_the_world_for_the_default_rig():
    cameras = orbit_cameras(RigConfig(count=4, width_px=8, height_px=6))
    views = Views(cameras, torch.ones(4, 6, 8, 3), None, some_views().normals, "front_view")
    torch.testing.assert_close(views.with_world_normals().normals, views.normals, atol=1e-6, rtol=0)


def test_selecting_views_converts_front_view_normals_to_world():
    views = some_views().with_normals_in("front_view")
    chosen = views[2:]
    assert chosen.normal_frame == "world"
    torch.testing.assert_close(chosen.normals, some_views().normals[2:], atol=1e-6, rtol=0)


def test_indexing_selects_images_and_cameras():
    views = some_views()
    chosen = views[[3, 1]]
    assert torch.equal(chosen.colour, views.colour[[3, 1]])
    assert torch.equal(chosen.masks, views.masks[[3, 1]])
    assert torch.equal(chosen.cameras.world_to_camera, views.cameras.world_to_camera[[3, 1]])
    assert len(views[0]) == 1


def test_encoded_normals_survive_8_bit_quantisation():
    normals = some_views().normals
    stored = (encode_normals(normals) * 255).round() / 255
    cosine = (decode_normals(stored) * normals).sum(dim=-1)
    assert torch.rad2deg(torch.acos(cosine.clamp(max=1.0))).max() < 0.5
    assert torch.equal(decode_normals(torch.full((2, 3), 128 / 255)), torch.zeros(2, 3))


def test_other_dtypes_become_float32():
    views = some_views()
    other = Views(
        Cameras(views.cameras.world_to_camera.double(), views.cameras.intrinsics.double(), 8, 6),
        views.colour.double(),
        views.masks > 0.5,
        views.normals.half(),
        "world",
    )
    assert other.cameras.world_to_camera.dtype == torch.float32
    for tensor in (other.colour, other.masks, other.normals):
        assert tensor.dtype == torch.float32


def test_undecoded_normals_are_an_error():
    views = some_views()
    with pytest.raises(InputError, match=r"not unit vectors.*decoded"):
        Views(views.cameras, views.colour, None, encode_normals(views.normals), "world")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal_frame": None}, "without a frame"),
        ({"normal_frame": "object"}, "without a frame"),
        ({"masks": torch.zeros(4, 8, 6)}, "masks has shape"),
        ({"masks": torch.full((4, 6, 8), 2.0)}, "masks has values from 2 to 2"),
        ({"colour": torch.full((4, 6, 8, 3), torch.nan)}, "colour has 576 values that are NaN"),
        ({"colour": torch.full((4, 6, 8, 3), 255.0)}, "expected 0 to 1"),
        ({"colour": torch.zeros(3, 6, 8, 3)}, "colour has shape"),
        ({"normals": torch.full((4, 6, 8, 3), torch.inf)}, "normals has 576 values"),
    ],
)
def test_invalid_fields_are_errors(change, message):
    parts = {**vars(some_views()), **change}
    with pytest.raises(InputError, match=message):
        Views(**parts)
