"""What the host's cache sees of a bundle is all of its memory."""

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


CAMERA_NUMBERS = 16 * (16 + 9)
NUMBERS = {
    "cameras": CAMERA_NUMBERS,
    "views": CAMERA_NUMBERS + 16 * 256 * 256 * 4,
    "surface": CAMERA_NUMBERS + 16 * 256 * 256 + 9 * 8 * 7 + 3 + 16,
}


@pytest.mark.parametrize("name", list(NUMBERS))
def test_a_parcel_holds_every_tensor_once(pack, bundles, name):
    parcel = pack("nodes.socket_bundle").SocketBundle(bundles[name])
    assert parcel.bundle is bundles[name]
    assert isinstance(parcel, tuple)  # what the host's cache looks into
    assert sum(tensor.numel() for tensor in parcel) == NUMBERS[name]
    assert [id(tensor) for tensor in parcel._comfy_cache_tensors()] == [id(t) for t in parcel]
    assert len({id(tensor) for tensor in parcel}) == len(parcel)


def test_a_failed_nodes_report_stays_short(pack, bundles):
    assert str(pack("nodes.socket_bundle").SocketBundle(bundles["views"])) == "Parcel(Views, 4 tensors)"
