"""The command `complete`."""

from __future__ import annotations

import json

import torch

from nova3d_core.io.mesh.read import read_mesh

from .conftest import ROOT

FUSED = ROOT / "nova3d_core" / "assets" / "knight" / "fused.glb"
QUICK = ("--steps", "1", "--start-noise", "1")


def test_complete_writes_a_mesh_and_reports_the_cost(nova3d, knight_views, tmp_path):
    path = tmp_path / "completed.glb"
    result = nova3d("complete", FUSED, knight_views, "-o", path, *QUICK, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["family"] == "nova3d-mini" and report["passes"] == 2
    assert 0.0 < report["generated"] <= report["unseen"] < 1.0
    before, after = read_mesh(FUSED), read_mesh(path)
    assert torch.equal(before.faces, after.faces)
    assert after.texture.shape == before.texture.shape
    assert not torch.equal(after.texture, before.texture)


def test_mistakes_are_one_line(nova3d, knight_views, tmp_path):
    for words, message in (
        (("--mask", "a.png"), "--mask is given without --image."),
        (("--model", "gone.safetensors"), "gone.safetensors does not exist"),
        (("--method", "sds_latents"), "nova3d-mini generates a single orbit"),
        (("--orbits", "0"), "completion orbits is 0, expected 1 to 16"),
    ):
        result = nova3d("complete", FUSED, knight_views, "-o", tmp_path / "out.glb", *words)
        assert result.returncode == 2 and message in result.stderr
        assert list(tmp_path.iterdir()) == []
