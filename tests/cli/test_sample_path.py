"""`sample-path`: views along a camera path from posed images, with a tiny model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from nova3d_core.io.views.transforms_json import read_views, world_up, write_views
from nova3d_core.weights.save import save_nova3d

from ..diffusion.scene_models import SIZE, room, scene_model


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with posed images, a path, and a model."""
    folder = tmp_path_factory.mktemp("scene")
    write_views(room(views=5), folder / "room")
    write_views(room(1, views=3), folder / "path")
    save_nova3d(scene_model(), folder / "model.safetensors")
    return folder


def test_default_path_leads_from_the_first_source_to_the_last(nova3d, files, tmp_path):
    options = ("--model", "model.safetensors", "--folder", files, "--steps", "1", "--views", "3")
    result = nova3d(
        "sample-path", files / "room", "-o", tmp_path / "out", *options, "--use", "0", "4", "--json"
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["views"], report["size_px"], report["sources"]) == (3, SIZE, 2)
    views, sources = read_views(tmp_path / "out"), room(views=5)
    ends = views.cameras[[0, 2]].world_to_camera
    assert (ends - sources.cameras[[0, 4]].world_to_camera).abs().max() < 1e-3


def test_a_path_is_in_the_world_of_the_sources_whatever_axis_it_would_suggest(
    nova3d, files, tmp_path
):
    sources, path = tmp_path / "sources", tmp_path / "down"
    for folder, pitch in ((sources, 0.0), (path, math.radians(-80.0))):
        shutil.copytree(files / "room", folder)
        document = json.loads((folder / "transforms.json").read_text())
        del document["world_up"]
        for frame in document["frames"]:
            cos, sin = math.cos(pitch), math.sin(pitch)
            rotation = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
            frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ rotation).tolist()
        (folder / "transforms.json").write_text(json.dumps(document))
    assert world_up(sources) == "+Y" != world_up(path)
    options = ("--model", files / "model.safetensors", "--steps", "1", "--cameras", path)
    result = nova3d("sample-path", sources, "-o", tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    positions = read_views(tmp_path / "out").cameras.positions
    assert (positions - room(views=5).cameras.positions).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "MODEL", "--use", "0", "9"), "--use has 9"),
        (("--model", "MODEL", "--views", "0"), "views is 0"),
        (("--model", "MODEL", "--views", "3", "--cameras", "gone"), "--views is the length"),
        (("--model", "MODEL", "--cameras", "gone"), "gone does not exist"),
        (("--model", "MODEL", "--size-px", "66"), "expected a multiple of 4"),
        (("--model", "nova3d-mini"), "is nova3d-mini, which generates no views along a camera"),
    ],
)
def test_mistakes_are_one_line(nova3d, files, tmp_path, words, message):
    words = [str(files / "model.safetensors") if word == "MODEL" else word for word in words]
    result = nova3d("sample-path", files / "room", "-o", tmp_path / "out", *words)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_images_without_poses_are_an_error(nova3d, files, tmp_path):
    for image in (files / "room").glob("**/*.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    words = ("--model", files / "model.safetensors", "-o", tmp_path / "out")
    result = nova3d("sample-path", tmp_path, *words)
    assert result.returncode == 2 and "transforms.json" in result.stderr
