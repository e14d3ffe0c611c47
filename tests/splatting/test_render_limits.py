"""Rendering of many, huge, tiny and far splats: finite images, or an error before the memory."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.splats import Splats
from nova3d_core.splatting import memory
from nova3d_core.splatting.render import splat_views, splat_views_with_depth

BACKENDS = [pytest.param("warp", marks=pytest.mark.filterwarnings("ignore")), "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change",
    [
        {"scales": torch.tensor([1e12, 1e12, 1e12])},
        {"scales": torch.tensor([1e-8, 1e-8, 1e-8])},
        {"scales": torch.tensor([1e6, 1e-8, 1e-8])},
        {"positions": torch.tensor([1e12, -1e12, 1e12])},
        {"positions": torch.tensor([0.0, 0.0, 2.2])},  # in the camera
        {"colours": torch.tensor([1e3, -1e3, 0.0])},
    ],
    ids=["huge", "tiny", "needles", "far", "in the camera", "colours"],
)
def test_extreme_splats_have_finite_images(random_splats, camera, backend, change):
    if backend == "warp":
        pytest.importorskip("warp")
    values = vars(random_splats(40))
    values = {**values, **{name: value.expand(40, 3) for name, value in change.items()}}
    result = splat_views_with_depth(Splats(**values), camera(), backend)
    for image in (result.views.colour, result.views.masks, result.depths):
        assert bool(image.isfinite().all())
    assert 0.0 <= float(result.views.colour.min()) <= float(result.views.colour.max()) <= 1.0


def test_more_splats_than_memory_are_an_error_before_the_work(random_splats, camera, monkeypatch):
    splats = random_splats(5000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 600_000)
    with pytest.raises(InputError, match=r"rendering 5,000 splats .* 3,000 splats fit"):
        splat_views(splats, camera(), "torch")
    views = orbit_cameras(RigConfig(count=64, width_px=512, height_px=512))
    with pytest.raises(InputError, match="Use fewer or smaller views"):
        splat_views(splats, views, "torch")


def test_tiles_of_huge_splats_are_counted_before_they_are_listed(
    random_splats, camera, monkeypatch
):
    pytest.importorskip("warp")
    splats = random_splats(50, scale=20.0)
    monkeypatch.setattr(memory, "_UNCHECKED_PAIRS", 0)
    monkeypatch.setattr(memory, "MAX_PAIRS", 400)
    assert len(splat_views(splats[:2], camera(64, 64), "warp")) == 1
    with pytest.raises(InputError, match="touch 3,200 tiles, at most 400"):
        splat_views(splats, camera(64, 64), "warp")
