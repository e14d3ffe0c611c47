"""The demo from one image, with a small model instead of the shipped one."""

from __future__ import annotations

import json

import pytest

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.cli import demo
from nova3d_core.cli.demo import DEMO_FILES, Demo
from nova3d_core.errors import InputError
from nova3d_core.fusion.config import HullConfig
from nova3d_core.io.images.images import read_image
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.meshing.config import MeshingConfig
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.progress import SILENT
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.weights.discovery import built_in
from nova3d_core.weights.save import save_nova3d

from ..weights.models import copying_mini

QUICK = FuseConfig(
    method="hull",
    hull=HullConfig(resolution=48),
    meshing=MeshingConfig(target_faces=2000),
    bake=BakeConfig(texture_px=256),
)


@pytest.fixture
def shipped(tmp_path, monkeypatch, l_solid):
    """A package with an image, and a model that needs one sampling step."""
    rig = RigConfig(count=1, width_px=80, height_px=80)
    write_views(render_views(l_solid, orbit_cameras(rig)).views, tmp_path / "image")
    save_nova3d(copying_mini(), tmp_path / "mini.safetensors")
    monkeypatch.setattr(built_in, "FILE", tmp_path / "mini.safetensors")
    monkeypatch.setattr(demo, "IMAGE", tmp_path / "image")
    return tmp_path


def test_demo_generates_views_and_a_mesh_from_one_image(shipped, small_turntable, capsys):
    out = shipped / "out"
    Demo(output=out, start="auto", steps=1, fuse=QUICK, json=True).run(SILENT)
    report = json.loads(capsys.readouterr().out)
    assert report["start"] == "image"
    assert {"generating", "carving", "demo"} <= set(report["seconds"])
    assert {path.name for path in out.iterdir()} < {".nova3d.json", *DEMO_FILES}
    assert read_views(out / "views").colour.shape == (16, 128, 128, 3)
    assert len(read_mesh(out / "mesh.glb").faces) == report["faces"] > 100
    assert read_image(out / "input.png").shape[:2] == (80, 80)
    assert read_image(out / "views.png").shape[:2] == (2 * 2 * 64, 8 * 64)


@pytest.mark.parametrize("start", ["auto", "image"])
def test_demo_starts_from_the_image_if_the_model_is_available(shipped, monkeypatch, start):
    started = []
    monkeypatch.setattr(Demo, "_from_image", lambda self, progress: started.append("image"))
    Demo(output=shipped / "out", start=start).run(SILENT)
    assert started == ["image"]


def test_demo_starts_from_the_object_without_the_model(shipped, monkeypatch):
    monkeypatch.setattr(built_in, "FILE", shipped / "none.safetensors")
    started = []
    monkeypatch.setattr(Demo, "_from_object", lambda self, progress: started.append("object"))
    Demo(output=shipped / "out").run(SILENT)
    assert started == ["object"]
    with pytest.raises(InputError, match="is not in this copy of the package"):
        Demo(output=shipped / "out", start="image").run(SILENT)
    assert not (shipped / "out").exists()
