"""Implementations of the dense grid: warp and PyTorch."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def warp_impl():
    pytest.importorskip("warp")
    from nova3d_core.fusion.fields.grid import warp_impl

    return warp_impl


@pytest.fixture(params=[True, False], ids=["warp", "torch"])
def compiled(request):
    if request.param:
        pytest.importorskip("warp")
    return request.param
