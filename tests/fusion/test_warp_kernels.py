"""Kernel compilation for GPUs that this machine need not have."""

from __future__ import annotations

import importlib
import sys

import pytest

KERNELS = [
    "nova3d_core.fusion.fields.grid.ray_kernels",
    "nova3d_core.fusion.fields.grid.voxel_kernels",
    "nova3d_core.training.data.raster_kernels",
]
ARCHITECTURES = [
    75,  # the oldest architecture that current CUDA supports
    pytest.param(86, marks=pytest.mark.slow),
    89,
    pytest.param(90, marks=pytest.mark.slow),
]


@pytest.mark.skipif(sys.platform == "darwin", reason="warp has no CUDA compiler there")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_cuda_without_a_gpu(name, architecture, tmp_path):
    wp = pytest.importorskip("warp")
    from nova3d_core.compute.warp_backend import warp

    warp()  # initialises without output
    if not hasattr(wp, "compile_aot_module"):
        pytest.skip("this warp does not compile ahead of time")
    importlib.import_module(name)
    module = wp.get_module(name)
    wp.compile_aot_module(module, arch=architecture, module_dir=tmp_path, use_ptx=True)
    written = list(tmp_path.glob(f"*sm{architecture}.ptx"))
    assert len(written) == 1
    assert ".visible .entry" in written[0].read_text(encoding="utf-8")
