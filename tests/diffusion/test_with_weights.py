"""benchmarks/with_weights.py with small random files of the published layouts."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nova3d_core.weights.discovery.built_in import is_shipped

from ..host.models import bounded_model
from ..weights.models import copying_mini, random_model
from ..weights.test_load import as_published, sgm_tensors
from ..weights.test_wonder3d import write_wonder3d

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_measures_what_it_finds_and_lists_what_it_does_not(tmp_path):
    from nova3d_core.weights.save import save_nova3d

    models, output = tmp_path / "models", tmp_path / "output"
    models.mkdir()
    for folder in (models, models / "copy"):  # the same name twice
        folder.mkdir(exist_ok=True)
        save_nova3d(copying_mini(), folder / "mini.safetensors")
    write_wonder3d(random_model("wonder3d_plus"), models / "plus", unet="mvdiffusion")
    shutil.rmtree(models / "plus" / "vae")
    sv3d = as_published("sv3d_p", sgm_tensors(bounded_model("sv3d_p"), tmp_path))
    save_file(sv3d, models / "sv3d_p.safetensors")
    # V3D has no image encoder: SV3D's is used
    v3d = as_published("v3d", sgm_tensors(bounded_model("v3d"), tmp_path))
    torch.save({"state_dict": v3d}, models / "V3D.ckpt")
    damaged = as_published("sv3d_u", sgm_tensors(bounded_model("sv3d_u"), tmp_path))
    next(value for name, value in damaged.items() if name.endswith("out.2.weight")).fill_(math.nan)
    save_file(damaged, models / "sv3d_u.safetensors")
    save_file({"lora.weight": torch.zeros(3)}, models / "lora.safetensors")
    triangle = tmp_path / "triangle.obj"
    triangle.write_text("v -1 -1 0\nv 1 -1 0\nv 0 1 0.5\nf 1 2 3\n", encoding="utf-8")
    command = [sys.executable, ROOT / "benchmarks" / "with_weights.py", "--folder", models]
    command += ["--mesh", triangle, "--steps", "1", "--size-px", "64", "-o", output]
    result = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    page = json.loads((output / "with_weights.json").read_text(encoding="utf-8"))
    measured, missing = page["tables"]
    rows = {row[1]: row for row in measured["rows"]}
    expected = {"mini.safetensors", "sv3d_p.safetensors", "V3D.ckpt"}
    assert len(rows) == len(measured["rows"]) - 1
    assert set(rows) == expected | ({"nova3d-mini.safetensors"} if is_shipped() else set())
    psnr, ssim, iou, normal_error = rows["mini.safetensors"][-4:]
    assert 0.0 < psnr < 99.0 and -1.0 <= ssim <= 1.0 and 0.0 <= iou <= 1.0
    assert 0.0 <= normal_error <= 180.0
    assert rows["sv3d_p.safetensors"][-1] is None  # no normals
    no_vae, broken = sorted(measured["notes"])
    assert "sv3d_u.safetensors" in broken and "NaN" in broken
    assert f"but {Path('vae', 'diffusion_pytorch_model.bin')} (or" in no_vae
    lines = [row[0] for row in missing["rows"]]
    assert "NOVA3D: not found; no weights are published." in lines
    assert any("wonder3d-v1.0/unet" in line for line in lines)
    assert not any(line.startswith(("SV3D", "V3D")) for line in lines)
    assert str(tmp_path) not in json.dumps(page)
    assert {path.name for path in output.glob("*.png")} == {
        f"with_weights_{number}_{Path(row[1]).stem}.png"
        for number, row in enumerate(measured["rows"], 1)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mesh", "missing.obj"], "mesh file missing.obj does not exist."),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--folder", "missing"], "the model folder missing, set by the argument, does not exist."),
    ],
    ids=["mesh", "device", "folder"],
)
def test_bad_settings_are_one_line_before_any_measurement(tmp_path, options, message):
    command = [sys.executable, str(ROOT / "benchmarks" / "with_weights.py"), *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.startswith(message), result.stderr
    assert len(result.stderr.splitlines()) == 1
