"""The commands end to end, and their messages for bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from ..perceptual.procedural import backbone_weights
from .conftest import KNIGHT, ROOT, SMALL_FUSE


@pytest.fixture(scope="module")
def knight_mesh(nova3d, knight_views, tmp_path_factory):
    path = tmp_path_factory.mktemp("fused") / "mesh.glb"
    result = nova3d("fuse", knight_views, "-o", path, *SMALL_FUSE, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["output"] == str(path)
    assert document["texture_px"] == 256
    assert set(document["seconds"]) == {"carving", "meshing", "unwrapping", "baking"}
    return path


def test_fused_mesh_is_watertight_textured_and_of_the_right_size(knight_mesh):
    import trimesh

    mesh = trimesh.load(knight_mesh, force="mesh")
    assert mesh.visual.material.baseColorTexture.size == (256, 256)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert mesh.extents.max() == pytest.approx(1.0, abs=0.05)


def test_evaluate_writes_report_table_and_comparison(nova3d, knight_mesh, tmp_path):
    folder = tmp_path / "report"
    result = nova3d("evaluate", knight_mesh, "--reference", KNIGHT, "-o", folder, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads((folder / "report.json").read_text())
    assert report["metrics"]["visible"]["cd_l1"] < 0.03
    assert report["metrics"]["images_el0"]["psnr"] > 20
    assert (folder / "report.md").read_text().startswith("| object |")
    with Image.open(folder / "comparison.png") as grid:
        assert grid.width > 1000


def test_evaluate_without_json_prints_the_table(nova3d, knight_mesh):
    result = nova3d("evaluate", knight_mesh, "--reference", KNIGHT, "--no-with-images")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[2].startswith("| mesh |")


def test_evaluate_reports_lpips_where_a_backbone_is_at_hand(nova3d, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("NOVA3D_MODELS", raising=False)
    words = ["evaluate", KNIGHT, "--reference", KNIGHT, "--points", "1000", "--visible-px", "32"]
    words += ["--iou-resolution", "16", "--image-px", "32", "--supersample", "1"]
    result = nova3d(*words)
    assert result.returncode == 0, result.stderr
    table, line = result.stdout.rstrip().rsplit("\n", 1)
    assert line.startswith("No LPIPS: LPIPS needs the ImageNet weights of a backbone")
    assert "vgg16-397923af.pth or alexnet-owt-7be5be79.pth" in line
    assert "LPIPS" not in table
    save_file(backbone_weights("alex"), tmp_path / "alex.safetensors")
    monkeypatch.setenv("NOVA3D_MODELS", str(tmp_path))
    result = nova3d(*words, "--json")
    assert json.loads(result.stdout)["metrics"]["images_all"]["lpips_alex"] > 0.0


def test_same_command_writes_the_same_mesh_bit_for_bit(nova3d, knight_views, knight_mesh, tmp_path):
    words = ["fuse", knight_views, "-o", tmp_path / "again.glb", "--details", tmp_path / "details"]
    result = nova3d(*words, *SMALL_FUSE)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again.glb").read_bytes() == knight_mesh.read_bytes()
    # a hull has no report of an optimisation and no conflict maps
    names = {path.name for path in (tmp_path / "details").iterdir()}
    assert names == {"settings.json", "report.json", "views", ".nova3d.json"}
    report = json.loads((tmp_path / "details" / "report.json").read_text())
    assert set(report) == {"seconds"}


def test_fuse_removes_light_and_writes_shading_and_light(nova3d, knight_views, tmp_path):
    words = ["fuse", knight_views, "-o", tmp_path / "unlit.glb", "--details", tmp_path / "details"]
    result = nova3d(*words, *SMALL_FUSE, "--unlight", "--light.gate", "0", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["light"]["is_applied"] is True
    report = json.loads((tmp_path / "details" / "report.json").read_text())["light"]
    assert len(report["lobes"]) == 24 and report["strength"] == 1.0
    assert (tmp_path / "details" / "light.png").is_file()
    assert len(list((tmp_path / "details" / "shading").glob("*.png"))) == 8


def test_images_without_masks_are_matted_from_the_white_background(
    nova3d, knight_views, knight_mesh, tmp_path
):
    views = tmp_path / "views"
    shutil.copytree(knight_views, views)
    shutil.rmtree(views / "masks")
    document = json.loads((views / "transforms.json").read_text())
    for frame in document["frames"]:
        del frame["mask_path"]
    (views / "transforms.json").write_text(json.dumps(document))
    result = nova3d("fuse", views, "-o", tmp_path / "mesh.glb", *SMALL_FUSE, "--json")
    assert result.returncode == 0, result.stderr
    import trimesh

    with_masks, without = (
        trimesh.load(path, force="mesh") for path in (knight_mesh, tmp_path / "mesh.glb")
    )
    np.testing.assert_allclose(without.bounds, with_masks.bounds, atol=0.02)


def test_render_writes_a_turntable(nova3d, small_turntable, tmp_path):
    result = nova3d(
        "render", KNIGHT, "-o", tmp_path / "v", "--rig.count", "2", "--rig.width-px", "32",
        "--rig.height-px", "32", "--turntable", tmp_path / "turn.webp",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "turn.webp") as animation:
        assert animation.n_frames == 48


COMMANDS = (
    "run", "render", "generate", "fuse", "bake", "refine", "evaluate", "ablate", "presets",
    "models", "render-dataset", "train", "export", "demo",
)  # fmt: skip


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)])
def test_all_commands_have_help(nova3d, words):
    result = nova3d(*words, "--help")
    assert result.returncode == 0
    assert "usage: python -m nova3d_core" in result.stdout


HELP = """
import sys
from nova3d_core.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as error:
    heavy = {"torch", "numpy", "scipy", "trimesh", "warp"} & set(sys.modules)
    sys.exit(f"loaded: {sorted(heavy)}" if heavy else error.code)
"""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["train", "--help"]])
def test_help_loads_no_heavy_packages(words):
    process = [sys.executable, "-c", HELP, *words]
    result = subprocess.run(process, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: python -m nova3d_core")


def test_models_prints_json_and_text(nova3d, tmp_path):
    result = nova3d("models", "--folder", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["installed"] == []
    assert len(report["missing"]) > 5
    assert nova3d("models", "--folder", tmp_path).stdout.strip()
    assert nova3d("models", "--folder", tmp_path / "none").returncode == 2


def error_line(result) -> str:
    """The error line, after checking that there is one and no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_bad_input_prints_one_line_and_exits_with_2(nova3d, knight_views, knight_mesh, tmp_path):
    out = tmp_path / "mesh.glb"
    assert "nowhere" in error_line(nova3d("fuse", tmp_path / "nowhere", "-o", out))
    assert "nothing.glb" in error_line(nova3d("render", tmp_path / "nothing.glb", "-o", out))
    assert "already exists" in error_line(nova3d("fuse", knight_views, "-o", knight_mesh))
    assert "resolution is 3" in error_line(
        nova3d("fuse", knight_views, "-o", out, "--hull.resolution", "3")
    )
    wrong_suffix = error_line(
        nova3d("fuse", knight_views, "-o", tmp_path / "mesh.xyz", *SMALL_FUSE)
    )
    assert "mesh.xyz" in wrong_suffix
    assert "unrelated file" in error_line(
        nova3d("evaluate", knight_mesh, "--reference", KNIGHT, "-o", _occupied(tmp_path),
               "--overwrite")
    )  # fmt: skip
    assert nova3d("fuse", knight_views).returncode == 2  # tyro reports the missing option
    assert nova3d("fly").returncode == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["occupied"]


def _occupied(folder):
    (folder / "occupied").mkdir()
    (folder / "occupied" / "unrelated file").touch()
    return folder / "occupied"


def test_rejects_a_bad_turntable_before_writing_anything(nova3d, tmp_path):
    words = ["render", KNIGHT, "-o", tmp_path / "views", "--turntable", tmp_path / "turn.mp4"]
    assert "turn.mp4" in error_line(nova3d(*words))
    assert list(tmp_path.iterdir()) == []


def test_missing_tyro_is_reported_in_one_line():
    script = (
        "import sys; sys.modules['tyro'] = None\n"
        "from nova3d_core.cli.main import main; sys.exit(main(['models']))"
    )
    words = [sys.executable, "-c", script]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "pip install tyro" in error_line(result)


def test_single_view_is_an_error_with_a_hint(nova3d, knight_views, tmp_path):
    single = tmp_path / "views"
    shutil.copytree(knight_views, single)
    document = json.loads((single / "transforms.json").read_text())
    document["frames"] = document["frames"][:1]
    (single / "transforms.json").write_text(json.dumps(document))
    line = error_line(nova3d("fuse", single, "-o", tmp_path / "mesh.glb"))
    assert "1 view was given" in line
    assert "Add images" in line


def test_fuse_writes_its_details(nova3d, knight_views, short_draft, tmp_path):
    settings = {
        "sdf": {"preset": "draft"},
        "meshing": {"target_faces": 2000},
        "bake": {"texture_px": 256},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    details = tmp_path / "details"
    result = nova3d(
        "fuse", knight_views, "-o", tmp_path / "mesh.glb", "--settings",
        tmp_path / "settings.json", "--details", details, "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "fusing" in json.loads(result.stdout)["seconds"]
    report = json.loads((details / "report.json").read_text())
    assert report["fusion"]["steps"] == 8
    assert report["fusion"]["rotation_deg"][0] == 0.0
    assert len(list((details / "conflict_maps").glob("*.png"))) == 8
    assert (details / "views" / "transforms.json").is_file()
    written = json.loads((details / "settings.json").read_text())
    assert written["sdf"]["preset"] == "draft"
    assert written["meshing"]["target_faces"] == 2000
    assert written["bake"]["texture_px"] == 256


@pytest.mark.parametrize("command", ["fuse", "run"])
def test_settings_file_and_options_of_stages_exclude_each_other(nova3d, tmp_path, command):
    (tmp_path / "settings.json").write_text(json.dumps({"method": "hull"}))
    words = [command, tmp_path / "input", "-o", tmp_path / "mesh.glb"]
    words += ["--settings", tmp_path / "settings.json", "--bake.texture-px", "256"]
    line = error_line(nova3d(*words))
    assert "--settings gives all settings" in line and "settings.json" in line


def test_presets_prints_a_settings_file(nova3d):
    result, as_json = nova3d("presets", "draft"), nova3d("presets", "draft", "--json")
    assert result.returncode == 0, result.stderr
    assert as_json.stdout == result.stdout
    assert json.loads(result.stdout)["sdf"]["preset"] == "draft"
