"""The report of the `models` command as JSON and as text."""

from __future__ import annotations

import json
import time

import pytest

from nova3d_core.cli.models_table import models_report, models_text
from nova3d_core.errors import InputError
from nova3d_core.weights.discovery.locate import FOLDERS_VARIABLE
from nova3d_core.weights.discovery.registry import PUBLISHED_FILES


@pytest.fixture
def folder(tmp_path, write_model, small_unet):
    write_model(tmp_path / "orbit.safetensors", small_unet(1280, "diffusers", ""), "F16")
    (tmp_path / "sv3d_u.safetensors").write_text("<html>log in</html>")
    return tmp_path


def test_report_is_json_and_lists_every_file_once(folder):
    report = models_report([folder])
    assert json.loads(json.dumps(report)) == report
    assert report["folders"] == [str(folder)]
    orbit, page = report["installed"]
    assert (orbit["family"], orbit["dtype"], orbit["layout"]) == ("sv3d_p", "float16", "diffusers")
    assert orbit["bytes"] == (folder / "orbit.safetensors").stat().st_size
    assert orbit["published_as"] == (
        "chenguolin/sv3d-diffusers: unet/diffusion_pytorch_model.safetensors"
    )
    assert (page["family"], page["description"]) == ("unknown", "unusable")
    assert "web page" in page["problem"]
    sources = {(row["source"], row["file"]) for row in report["missing"]}
    expected = {(published.source, published.file) for published in PUBLISHED_FILES}
    assert expected - sources == {
        ("chenguolin/sv3d-diffusers", "unet/diffusion_pytorch_model.safetensors")
    }
    assert len(report["missing"]) == len(sources)


def test_missing_file_has_size_terms_and_install_path(folder):
    rows = {row["file"]: row for row in models_report([folder])["missing"]}
    assert rows["svd_xt.safetensors"]["bytes"] == 9_559_625_980
    assert rows["svd_xt.safetensors"]["install_path"] == "checkpoints/svd_xt.safetensors"
    assert rows["svd_xt.safetensors"]["gated"] is False
    assert rows["sv3d_u.safetensors"]["gated"] is True
    assert rows["sv3d_u.safetensors"]["bytes"] is None  # no publisher states it
    assert rows["V3D.ckpt"]["install_path"] == "nova3d/V3D.ckpt"


def test_text_contains_the_report(folder):
    report = models_report([folder])
    text = models_text(report)
    for row in report["installed"] + report["missing"]:
        assert row["file"] in text
    lines = text.splitlines()
    assert "Installed: 2 files" in lines
    assert f"Not installed: {len(PUBLISHED_FILES) - 1} published files" in lines
    assert any(line.lstrip().startswith("! is a web page") for line in lines)
    gated = lines[lines.index("  stabilityai/sv3d -> models/checkpoints/") + 1]
    assert gated.endswith("gated: accept its terms there first")
    assert not text.endswith("\n")


def test_text_without_folders_explains_how_to_set_one():
    text = models_text({"built_in": None, "folders": [], "installed": [], "missing": []})
    assert f"set {FOLDERS_VARIABLE}" in text
    assert "Installed: 0 files" in text


def test_rejects_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        models_report([tmp_path / "gone"])


def test_lists_full_size_checkpoints_within_a_second(tmp_path, write_model, manifest):
    """From headers alone: tens of gigabytes of data are not read."""
    names = ("svd_xt_sgm", "sv3d_u_sgm", "sv3d_p_sgm", "v3d_512_sgm", "svd_xt_diffusers_unet")
    for name in names:
        write_model(tmp_path / f"{name}.safetensors", manifest(name))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        report = models_report([tmp_path])
        seconds.append(time.perf_counter() - start)
    assert sum(row["bytes"] for row in report["installed"]) > 40e9
    assert min(seconds) < 1.0


def test_text_contains_the_note_of_our_own_file(tmp_path, write_model, small_unet):
    shapes = small_unet(256) | {"model.diffusion_model.camera_task_emb.0.weight": (1280, 10)}
    metadata = {"version": 1, "family": "nova3d", "note": "30k steps on 30k objects"}
    write_model(tmp_path / "mine.safetensors", shapes, "BF16", {"nova3d": json.dumps(metadata)})
    report = models_report([tmp_path])
    assert report["installed"][0]["family"] == "nova3d"
    assert "Its note: 30k steps on 30k objects" in models_text(report)
