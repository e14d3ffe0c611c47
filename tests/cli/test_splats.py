"""`splats`: a file of Gaussian splats from a folder of views."""

from __future__ import annotations

import json

import pytest

from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_glb
from nova3d_core.io.splats.files import read_splats

from .conftest import KNIGHT

pytest.importorskip("warp")

QUICK = ("--count", "300", "--steps", "10", "--init", "hull")


def test_splats_writes_a_file_that_shows_the_object(nova3d, knight_views, tmp_path):
    path = tmp_path / "knight.ply"
    result = nova3d("splats", knight_views, "-o", path, *QUICK, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    splats = read_splats(path)
    assert report["output"] == str(path)
    assert report["initial_count"] == 300
    assert report["count"] == len(splats) > 200
    extent = splats.positions.amax(dim=0) - splats.positions.amin(dim=0)
    assert float(extent.max()) == pytest.approx(1.0, abs=0.1)


def test_splats_start_on_a_given_mesh(nova3d, knight_views, tmp_path):
    mesh, path = tmp_path / "mesh.glb", tmp_path / "knight.ply"
    write_glb(read_mesh(KNIGHT).normalised(), mesh)
    result = nova3d("splats", knight_views, "-o", path, *QUICK[:4], "--mesh", mesh, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["init"] == "mesh"
    result = nova3d("splats", knight_views, "-o", tmp_path / "b.ply", *QUICK, "--mesh", KNIGHT)
    assert result.returncode == 2
    assert "the views do not fit the mesh" in result.stderr  # another scale


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "mesh.glb"), "unknown format of splats"),
        (("-o", "a.ply", "--count", "-1"), "splat count is -1"),
        (("-o", "a.ply", "--preset", "best"), "preset"),
        (("-o", "a.ply", "--count", "9000000", "--memory-gib", "2"), "9,000,000 splats"),
    ],
)
def test_mistakes_are_one_line_before_any_work(nova3d, knight_views, tmp_path, words, message):
    words = [tmp_path / word if "." in word else word for word in words]
    result = nova3d("splats", knight_views, *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
