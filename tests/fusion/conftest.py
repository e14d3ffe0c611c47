"""Which steps of the dense grid a test goes through."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def compiled_steps():
    pytest.importorskip("warp")
    from nova3d_core.fusion.fields.grid import warp_impl as grid_warp

    return grid_warp


@pytest.fixture(params=[True, False], ids=["warp", "torch"])
def compiled(request):
    if request.param:
        pytest.importorskip("warp")
    return request.param
