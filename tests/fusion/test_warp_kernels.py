"""Compiled kernels for cards that this machine need not have."""

from __future__ import annotations

import importlib
import sys

import pytest

KERNELS = [
    "nova3d_core.fusion.fields.grid_kernels",
    "nova3d_core.fusion.fields.voxel_kernels",
    "nova3d_core.training.raster_kernels",
]
ARCHITECTURE = 75
"""The oldest cards that today's CUDA compiles for."""


@pytest.mark.skipif(sys.platform == "darwin", reason="warp has no CUDA compiler there")
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_cuda_without_a_card(name, tmp_path):
    wp = pytest.importorskip("warp")
    from nova3d_core.fusion.fields.launch import warp

    warp()  # started, quietly
    if not hasattr(wp, "compile_aot_module"):
        pytest.skip("this warp does not compile ahead of time")
    importlib.import_module(name)
    module = wp.get_module(name)
    wp.compile_aot_module(module, arch=ARCHITECTURE, module_dir=tmp_path, use_ptx=True)
    written = list(tmp_path.glob(f"*sm{ARCHITECTURE}.ptx"))
    assert len(written) == 1
    assert ".visible .entry" in written[0].read_text(encoding="utf-8")
