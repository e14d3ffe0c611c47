"""The commands from end to end, and what they say when the input is bad."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from .conftest import KNIGHT, SMALL_FUSE


@pytest.fixture(scope="module")
def knight_mesh(nova3d, knight_views, tmp_path_factory):
    path = tmp_path_factory.mktemp("fused") / "mesh.glb"
    done = nova3d("fuse", knight_views, "-o", path, *SMALL_FUSE, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["output"] == str(path)
    assert said["texture_px"] == 256
    assert set(said["seconds"]) == {"carving", "meshing", "unwrapping", "baking"}
    return path


def test_the_fused_mesh_is_closed_textured_and_of_the_knights_size(knight_mesh):
    import trimesh

    mesh = trimesh.load(knight_mesh, force="mesh")
    assert mesh.visual.material.baseColorTexture.size == (256, 256)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert mesh.extents.max() == pytest.approx(1.0, abs=0.05)


def test_evaluate_writes_report_table_and_sheet(nova3d, knight_mesh, tmp_path):
    folder = tmp_path / "report"
    done = nova3d("evaluate", knight_mesh, "--reference", KNIGHT, "-o", folder, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == json.loads((folder / "report.json").read_text())
    assert said["metrics"]["visible"]["cd_l1"] < 0.03
    assert said["metrics"]["images_el0"]["psnr"] > 20
    assert (folder / "report.md").read_text().startswith("| object |")
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 1000


def test_evaluate_without_json_says_the_table(nova3d, knight_mesh):
    done = nova3d("evaluate", knight_mesh, "--reference", KNIGHT, "--no-with-images")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("| mesh |")


def test_the_same_command_gives_the_same_mesh_bit_for_bit(nova3d, knight_views, tmp_path):
    for name in ("one.glb", "two.glb"):
        done = nova3d("fuse", knight_views, "-o", tmp_path / name, *SMALL_FUSE)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.glb").read_bytes() == (tmp_path / "two.glb").read_bytes()


def test_images_without_masks_are_matted_from_their_white_background(
    nova3d, knight_views, knight_mesh, tmp_path
):
    bare = tmp_path / "views"
    shutil.copytree(knight_views, bare)
    shutil.rmtree(bare / "masks")
    document = json.loads((bare / "transforms.json").read_text())
    for frame in document["frames"]:
        del frame["mask_path"]
    (bare / "transforms.json").write_text(json.dumps(document))
    done = nova3d("fuse", bare, "-o", tmp_path / "mesh.glb", *SMALL_FUSE, "--json")
    assert done.returncode == 0, done.stderr
    import trimesh

    with_masks, without = (
        trimesh.load(path, force="mesh") for path in (knight_mesh, tmp_path / "mesh.glb")
    )
    np.testing.assert_allclose(without.bounds, with_masks.bounds, atol=0.02)


def test_render_turntable_and_help(nova3d, tmp_path):
    done = nova3d(
        "render", KNIGHT, "-o", tmp_path / "v", "--rig.count", "2", "--rig.width-px", "32",
        "--rig.height-px", "32", "--turntable", tmp_path / "turn.webp",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "turn.webp") as film:
        assert film.n_frames == 48
    commands = [
        "run",
        "render",
        "generate",
        "fuse",
        "evaluate",
        "ablate",
        "presets",
        "models",
        "demo",
    ]
    for words in ([], *([name] for name in commands)):
        shown = nova3d(*words, "--help")
        assert shown.returncode == 0
        assert "usage: python -m nova3d_core" in shown.stdout


def test_models_lists_as_json_and_as_text(nova3d, tmp_path):
    done = nova3d("models", "--folder", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["installed"] == []
    assert len(said["missing"]) > 5
    assert nova3d("models", "--folder", tmp_path).stdout.strip()
    assert nova3d("models", "--folder", tmp_path / "none").returncode == 2


def one_line(done) -> str:
    """The error line, after making sure that it is one line, and that no traceback came."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_bad_input_is_one_line_and_exit_code_2(nova3d, knight_views, knight_mesh, tmp_path):
    out = tmp_path / "mesh.glb"
    assert "nowhere" in one_line(nova3d("fuse", tmp_path / "nowhere", "-o", out))
    assert "nothing.glb" in one_line(nova3d("render", tmp_path / "nothing.glb", "-o", out))
    assert "already exists" in one_line(nova3d("fuse", knight_views, "-o", knight_mesh))
    assert "resolution is 3" in one_line(
        nova3d("fuse", knight_views, "-o", out, "--hull.resolution", "3")
    )
    wrong_ending = one_line(nova3d("fuse", knight_views, "-o", tmp_path / "mesh.xyz", *SMALL_FUSE))
    assert "mesh.xyz" in wrong_ending
    assert "in the way" in one_line(
        nova3d("evaluate", knight_mesh, "--reference", KNIGHT, "-o", _occupied(tmp_path),
               "--overwrite")
    )  # fmt: skip
    assert nova3d("fuse", knight_views).returncode == 2  # tyro says what is missing
    assert nova3d("fly").returncode == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["occupied"]


def _occupied(folder):
    (folder / "occupied").mkdir()
    (folder / "occupied" / "in the way").touch()
    return folder / "occupied"


def test_a_bad_turntable_is_refused_before_anything_is_written(nova3d, tmp_path):
    words = ["render", KNIGHT, "-o", tmp_path / "views", "--turntable", tmp_path / "turn.mp4"]
    assert "turn.mp4" in one_line(nova3d(*words))
    assert list(tmp_path.iterdir()) == []


def test_without_tyro_one_line_says_how_to_get_it():
    script = (
        "import sys; sys.modules['tyro'] = None\n"
        "from nova3d_core.cli.main import main; sys.exit(main(['models']))"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "pip install tyro" in one_line(done)


def test_one_view_only_is_an_error_that_says_what_to_do(nova3d, knight_views, tmp_path):
    single = tmp_path / "views"
    shutil.copytree(knight_views, single)
    document = json.loads((single / "transforms.json").read_text())
    document["frames"] = document["frames"][:1]
    (single / "transforms.json").write_text(json.dumps(document))
    line = one_line(nova3d("fuse", single, "-o", tmp_path / "mesh.glb"))
    assert "1 view was given" in line
    assert "Add images" in line


def test_the_optimised_fusion_writes_its_details(nova3d, knight_views, tmp_path):
    settings = {
        "sdf": {
            "hull": {"resolution": 48},
            "levels": [{"resolution": 32, "steps": 8, "ray_fraction": 0.2}],
        },
        "meshing": {"target_faces": 2000},
        "bake": {"texture_px": 256},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    details = tmp_path / "details"
    done = nova3d(
        "fuse", knight_views, "-o", tmp_path / "mesh.glb", "--settings",
        tmp_path / "settings.json", "--details", details, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fusing" in json.loads(done.stdout)["seconds"]
    report = json.loads((details / "report.json").read_text())
    assert report["fusion"]["steps"] == 8
    assert report["fusion"]["turn_deg"][0] == 0.0
    assert len(list((details / "conflict").glob("*.png"))) == 8
    assert (details / "views" / "transforms.json").is_file()
    again = json.loads((details / "settings.json").read_text())
    assert again["sdf"]["levels"][0]["steps"] == 8
    assert again["bake"]["texture_px"] == 256


def test_presets_prints_what_fuse_reads(nova3d):
    done = nova3d("presets", "draft")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sdf"]["preset"] == "draft"
