"""`splats --model`: splats of four views in one pass of a reconstruction model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.io.splats.files import read_splats
from nova3d_core.reconstruction.config import LgmConfig
from nova3d_core.reconstruction.network import Lgm


@pytest.fixture(scope="module")
def lgm_file(tmp_path_factory) -> Path:
    """A narrow LGM with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Lgm(LgmConfig(down_widths=(32,) * 6, up_widths=(32,) * 5), dtype=torch.float16)
    path = tmp_path_factory.mktemp("models") / "model_fp16_fixrot.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_the_model_makes_a_file_of_splats(nova3d, knight_views, lgm_file, tmp_path):
    path = tmp_path / "knight.ply"
    words = ("--model", lgm_file.name, "--folder", lgm_file.parent, "--framing", "image")
    result = nova3d("splats", knight_views, "-o", path, *words, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["output"] == str(path) and report["model"] == "LGM"
    assert report["rotations"] == "normalised"
    assert len(report["views"]) == 4 and set(report["seconds"]) == {"loading", "reconstructing"}
    assert report["count"] == len(read_splats(path)) == 65_536


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "MODEL", "--count", "500"), "settings of the fit have no effect with --model"),
        (("--rotations", "identity"), "have no effect without --model"),
        (("--model", "gone.safetensors"), "gone.safetensors does not exist"),
        (("--model", "nova3d-mini"), "is no reconstruction model: nova3d-mini"),
        (("--model", "MODEL", "--framing", "crop"), "framing"),
    ],
)
def test_mistakes_are_one_line(nova3d, knight_views, lgm_file, tmp_path, words, message):
    words = [str(lgm_file) if word == "MODEL" else word for word in words]
    result = nova3d("splats", knight_views, "-o", tmp_path / "a.ply", *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
