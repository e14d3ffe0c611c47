"""A socket bundle exposes all of its tensors to ComfyUI's cache."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def bundles(pack):
    cameras = pack("nova3d_core.cameras.cameras").orbit_cameras()
    colour, masks = torch.rand(16, 256, 256, 3), torch.rand(16, 256, 256)
    views = pack("nova3d_core.views").Views(cameras, colour, masks)
    grid = pack("nova3d_core.sdf_grid").SdfGrid(torch.rand(9, 8, 7), torch.zeros(3), 0.1)
    surface_module = pack("nova3d_core.fusion.surface")
    report = surface_module.FusionReport(steps=1, rays=2, spacing=0.1)
    surface = surface_module.Surface(grid, torch.eye(4), cameras, masks, report)
    return {"cameras": cameras, "views": views, "surface": surface}


CAMERA_VALUES = 16 * (16 + 9)
VALUE_COUNTS = {
    "cameras": CAMERA_VALUES,
    "views": CAMERA_VALUES + 16 * 256 * 256 * 4,
    "surface": CAMERA_VALUES + 16 * 256 * 256 + 9 * 8 * 7 + 3 + 16,
}


@pytest.mark.parametrize("name", list(VALUE_COUNTS))
def test_contains_every_tensor_once(pack, bundles, name):
    value = pack("nodes.socket_bundle").SocketBundle(bundles[name])
    assert value.bundle is bundles[name]
    assert isinstance(value, tuple)  # the cache inspects tuples
    assert sum(tensor.numel() for tensor in value) == VALUE_COUNTS[name]
    assert [id(tensor) for tensor in value._comfy_cache_tensors()] == [id(t) for t in value]
    assert len({id(tensor) for tensor in value}) == len(value)


def test_repr_is_short(pack, bundles):
    assert (
        str(pack("nodes.socket_bundle").SocketBundle(bundles["views"]))
        == "SocketBundle(Views, 4 tensors)"
    )
