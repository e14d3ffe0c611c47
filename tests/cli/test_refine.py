"""The command `refine`."""

from __future__ import annotations

import json

import torch

from nova3d_core.io.mesh.read import read_mesh

from .conftest import ROOT

FUSED = ROOT / "nova3d_core" / "assets" / "knight" / "fused.glb"


def test_refine_writes_a_closer_texture(nova3d, knight_views, tmp_path):
    path = tmp_path / "refined.glb"
    words = ["refine", FUSED, knight_views, "-o", path, "--steps", "32", "--perceptual", "none"]
    result = nova3d(*words, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["difference"] < report["difference_before"]
    assert report["warp_px"] == 0.0
    before, after = read_mesh(FUSED), read_mesh(path)
    assert torch.equal(before.faces, after.faces)
    assert after.texture.shape == before.texture.shape


def test_refine_of_a_mesh_without_a_texture(nova3d, knight_views, tmp_path):
    (tmp_path / "bare.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    result = nova3d("refine", tmp_path / "bare.obj", knight_views, "-o", tmp_path / "out.glb")
    assert result.returncode == 2
    assert "the mesh has no texture to refine. Bake one from the views first." in result.stderr
    assert not (tmp_path / "out.glb").exists()
