"""The turntable: as many frames as asked for, readable by others, whole or not at all."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.turntable import turntable, write_turntable


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_film_turns_once_and_loops(l_solid, tmp_path, ending):
    frames = turntable(
        l_solid, RigConfig(count=6, elevation_deg=15.0, width_px=48, height_px=48), RenderConfig(1)
    )
    assert frames.shape == (6, 48, 96, 3)
    path = write_turntable(frames, tmp_path / f"turn.{ending}")
    with Image.open(path) as film:
        assert film.n_frames == 6
        assert film.size == (96, 48)
        assert film.info["loop"] == 0
    assert [p.name for p in tmp_path.iterdir()] == [f"turn.{ending}"]


def test_a_square_wall_is_blue_in_camera_normals(l_solid):
    frames = turntable(l_solid, RigConfig(count=4, width_px=64, height_px=64), RenderConfig(1))
    normals = frames[0, :, 64:]
    facing = (normals - torch.tensor([0.5, 0.5, 1.0])).abs().amax(dim=-1) < 0.02
    assert facing.float().mean() > 0.05


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.webp or \.gif"):
        write_turntable(torch.zeros(2, 4, 4, 3), tmp_path / "turn.avi")
