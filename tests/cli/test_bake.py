"""`bake`: kept texture, edit masks and misfits on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.io.mesh.read import read_mesh

from .conftest import KNIGHT, ROOT

FUSED = ROOT / "nova3d_core" / "assets" / "knight" / "fused.glb"


@pytest.fixture(scope="module")
def size_px(knight_views) -> tuple[int, int, int]:
    """Number of views, their height and width."""
    document = json.loads((knight_views / "transforms.json").read_text(encoding="utf-8"))
    first = Image.open(knight_views / document["frames"][0]["file_path"])
    return len(document["frames"]), first.height, first.width


def test_edit_masks_change_only_a_part_of_the_texture(nova3d, knight_views, size_px, tmp_path):
    count, height, width = size_px
    for view in range(count):
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2] = 255 * (view == 0)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{view:03d}.png")
    output = tmp_path / "edited.glb"
    words = ["bake", FUSED, knight_views, "-o", output, "--edit-masks", tmp_path / "masks"]
    result = nova3d(*words, "--json")
    assert result.returncode == 0, result.stderr
    before, after = read_mesh(FUSED), read_mesh(output)
    document = json.loads(result.stdout)
    assert document["texture_px"] == [before.texture.shape[1], before.texture.shape[0]]
    changed = (before.texture != after.texture).any(dim=-1).float().mean()
    assert 0.005 < changed < 0.5
    assert torch.equal(before.uv, after.uv)
    (tmp_path / "masks" / "000.png").unlink()
    result = nova3d(*words, "--overwrite")
    assert result.returncode == 2 and f"for {count} views" in result.stderr


def test_a_mesh_of_another_size_is_refused(nova3d, knight_views, tmp_path):
    result = nova3d("bake", KNIGHT, knight_views, "-o", tmp_path / "out.glb")
    assert result.returncode == 2
    assert "do not fit the mesh" in result.stderr and "times too large" in result.stderr
    assert list(tmp_path.iterdir()) == []
