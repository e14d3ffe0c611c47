"""The estimated memory of a fusion, compared with the measured peak of whole processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.fusion.config import preset_config
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline import memory as pipeline_memory
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.pipeline.memory import check_fusion_memory, estimate_memory_bytes
from nova3d_core.pipeline.stages import fuse_to_surface
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

MIB = 2**20
PEAK = """
import sys, threading, time
from pathlib import Path
import psutil
import nova3d_core
import nova3d_core.pipeline.fuse as pipeline
from nova3d_core.fusion.config import preset_config
from nova3d_core.compute.host_memory import release_unused_memory
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.memory import estimate_memory_bytes

method, preset = sys.argv[2:]
config = FuseConfig(method=method, sdf=preset_config(preset))
views = read_views(Path(sys.argv[1]))
release_unused_memory()
process, peak, over = psutil.Process(), [0], threading.Event()

def watch():
    while not over.wait(0.003):
        peak[0] = max(peak[0], process.memory_info().rss)

before = process.memory_info().rss
watcher = threading.Thread(target=watch)
watcher.start()
pipeline.fuse_views(views, config)
over.set()
watcher.join()
sys.stdout.write(f"{before + estimate_memory_bytes(views, config)} {peak[0]}")
"""


@pytest.fixture(scope="module")
def views(l_solid: Mesh) -> Views:
    rig = orbit_cameras(RigConfig(count=6, width_px=64, height_px=64))
    return render_views(l_solid, rig).views


def test_estimate_grows_with_pixels_views_and_cells(views):
    draft = FuseConfig(sdf=preset_config("draft"))
    hull = FuseConfig(method="hull")
    for config in (draft, hull):
        large = views.resized(64, 64)
        wide = replace(
            large,
            cameras=large.cameras.resized(256, 256),
            colour=large.colour.repeat(1, 4, 4, 1),
            masks=large.masks.repeat_interleave(4, 1).repeat_interleave(4, 2),
            normals=large.normals.repeat(1, 4, 4, 1),
        )
        assert estimate_memory_bytes(wide, config) > estimate_memory_bytes(views, config)
    quality = FuseConfig(sdf=preset_config("quality"))
    assert estimate_memory_bytes(views, quality) > estimate_memory_bytes(views, draft)


@pytest.mark.parametrize("run", [fuse_views, fuse_to_surface])
def test_insufficient_memory_is_an_error_before_the_work(views, monkeypatch, run):
    monkeypatch.setattr(pipeline_memory, "available_bytes", lambda: 100 * MIB)
    started = []
    monkeypatch.setattr("nova3d_core.fusion.fuse.check_views", lambda *_: started.append(1))
    with pytest.raises(InputError) as caught:
        run(views)
    assert "6 views of 64x64 px needs" in caught.value.message
    assert "0.1 GiB are free" in caught.value.message
    assert "smaller images" in caught.value.hint
    assert not started


def test_memory_budget_of_a_gpu_does_not_count_for_the_host(views):
    """The nodes set it to the free memory of the GPU, which may exceed the machine's RAM."""
    config = FuseConfig(sdf=preset_config("quality"))
    config = replace(config, sdf=replace(config.sdf, memory_gib=100.0))
    default = FuseConfig(sdf=preset_config("quality"))
    solid = replace(views, masks=torch.ones_like(views.masks))  # a box with equal depth and width
    assert estimate_memory_bytes(solid, config, "cuda:0") == estimate_memory_bytes(solid, default)
    assert estimate_memory_bytes(solid, config, "cpu") > estimate_memory_bytes(solid, default)


def test_unknown_free_memory_disables_the_check(views, monkeypatch):
    monkeypatch.setattr(pipeline_memory, "available_bytes", lambda: None)
    check_fusion_memory(views, FuseConfig())


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="measures resident memory on Linux"
)
@pytest.mark.parametrize(
    ("size_px", "method", "preset"),
    [(128, "sdf", "draft"), (512, "sdf", "draft"), (512, "hull", "draft")],
)
def test_estimate_is_within_25_percent_of_the_measured_peak(
    tmp_path, l_solid, size_px, method, preset
):
    rig = orbit_cameras(RigConfig(count=16, width_px=size_px, height_px=size_px))
    write_views(render_views(l_solid, rig).views, tmp_path / "views")
    assert len(read_views(tmp_path / "views")) == 16
    command = [sys.executable, "-c", PEAK, str(tmp_path / "views"), method, preset]
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    predicted, measured = map(int, answer.split())
    assert predicted == pytest.approx(measured, rel=0.25)


def test_releasing_unused_memory_keeps_used_memory():
    from nova3d_core.compute.host_memory import release_unused_memory

    kept = [torch.ones(1000, 1000) for _ in range(3)]
    release_unused_memory()
    release_unused_memory()
    assert all(float(tensor.sum()) == 1e6 for tensor in kept)
