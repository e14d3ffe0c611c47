"""Turntable animations: number of frames, readability, atomic writing."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.turntable import turntable, write_turntable


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_animation_has_all_frames_and_loops(l_solid, tmp_path, ending):
    frames = turntable(
        l_solid, RigConfig(count=6, elevation_deg=15.0, width_px=48, height_px=48), RenderConfig(1)
    )
    assert frames.shape == (6, 48, 96, 3)
    path = write_turntable(frames, tmp_path / f"turn.{ending}")
    with Image.open(path) as animation:
        assert animation.n_frames == 6
        assert animation.size == (96, 48)
        assert animation.info["loop"] == 0
    assert [p.name for p in tmp_path.iterdir()] == [f"turn.{ending}"]


def test_surfaces_facing_the_camera_are_blue(l_solid):
    frames = turntable(l_solid, RigConfig(count=4, width_px=64, height_px=64), RenderConfig(1))
    normals = frames[0, :, 64:]
    facing = (normals - torch.tensor([0.5, 0.5, 1.0])).abs().amax(dim=-1) < 0.02
    assert facing.float().mean() > 0.05


def test_unsupported_format_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"\.webp or \.gif"):
        write_turntable(torch.zeros(2, 4, 4, 3), tmp_path / "turn.avi")
