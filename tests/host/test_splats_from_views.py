"""Splats from Views in the host, with a narrow LGM that has random weights."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from nova3d_core.conventions import SPLAT_UP_AXIS
from nova3d_core.io.splats.files import read_splats

from .client import error_message
from .models import LGM, NOVA3D, narrow_lgm
from .prompts import load_prompt, node, node_key, with_inputs
from .test_run_workflows import run_to_end
from .test_splats import files_of
from .workflow_check import Prompt

pytestmark = pytest.mark.host


def lgm_prompt(model: str = LGM, dtype: str = "auto", **inputs: object) -> Prompt:
    """Splats of the knight, and the report."""
    settings = {"framing": "object", "rotations": "auto"} | inputs
    return {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("LoadNOVA3D", model=model, dtype=dtype),
        "3": node("SplatsFromViews", model=["2", 0], views=["1", 0], **settings),
        "4": node("ExportSplats", splats=["3", 0], format="ply", filename_prefix="lgm/splats"),
        "5": node("PreviewAny", source=["3", 1]),
    }


def test_shipped_prompt_makes_a_file_of_splats(client, tmp_path):
    prompt = with_inputs(load_prompt("lgm_to_splats"), "LoadNOVA3D", model=LGM)
    run = run_to_end(client, prompt)
    (content,) = files_of(client, run, node_key(prompt, "ExportSplats"), "3d")
    (tmp_path / "fetched.ply").write_bytes(content)
    assert len(read_splats(tmp_path / "fetched.ply", SPLAT_UP_AXIS)) == 65_536


def test_report_warning_progress_and_position(client, tmp_path):
    # a dtype of its own: ComfyUI does not run a node again whose inputs are those of another run
    run = run_to_end(client, lgm_prompt(dtype="fp32"))
    report = str(run.outputs["5"]["text"])
    assert "65536 splats by LGM" in report and "views 0, 2, 4, 6" in report
    assert "Warning: the views have another perspective than those of LGM" in report
    assert (45, 45) in run.progress["3"]
    (content,) = files_of(client, run, "4", "3d")
    (tmp_path / "fetched.ply").write_bytes(content)
    splats = read_splats(tmp_path / "fetched.ply", SPLAT_UP_AXIS)
    # the model's cube of -1..1, around the knight, at its scale
    assert 0.4 < float(splats.positions.norm(dim=1).max()) < 1.8


def test_comfyuis_nodes_open_the_file(client):
    if "File3DToSplat" not in client.object_info():
        pytest.skip("this ComfyUI has no splat nodes")
    prompt = {key: each for key, each in lgm_prompt().items() if key in "123"}
    prompt["6"] = node("File3DToSplat", model_3d=["3", 2])
    prompt["7"] = node("GetSplatCount", splat=["6", 0])
    prompt["8"] = node("PreviewAny", source=["7", 1])
    run = run_to_end(client, prompt)
    assert "65536" in str(run.outputs["8"]["text"])


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_every_dtype(client, dtype):
    run = run_to_end(client, lgm_prompt(dtype=dtype, framing="image"))
    assert "65536 splats" in str(run.outputs["5"]["text"])


def test_older_and_unknown_files_differ_by_their_names(client, server, tmp_path):
    folder = server.base / "models" / "nova3d"
    for name in ("model_fp16.safetensors", "mine.safetensors"):
        save_file(narrow_lgm().state_dict(), folder / name)
    client.object_info()
    run = run_to_end(client, lgm_prompt("model_fp16.safetensors"))
    assert "without rotations" in str(run.outputs["5"]["text"])
    (content,) = files_of(client, run, "4", "3d")
    (tmp_path / "old.ply").write_bytes(content)
    rotations = read_splats(tmp_path / "old.ply", SPLAT_UP_AXIS).rotations
    assert float((rotations - rotations[:1]).abs().max()) < 1e-6
    run = run_to_end(client, lgm_prompt("mine.safetensors"))
    assert "the input rotations (identity)" in str(run.outputs["5"]["text"])
    run = run_to_end(client, lgm_prompt("mine.safetensors", rotations="identity"))
    report = str(run.outputs["5"]["text"])
    assert "without rotations" in report and "does not tell" not in report
    for name in ("model_fp16.safetensors", "mine.safetensors"):
        (folder / name).unlink()


def test_models_of_other_nodes_are_refused(client):
    message = error_message(client, lgm_prompt(NOVA3D))
    assert "model is NOVA3D, which generates views" in message and "Fit Splats" in message
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("ImageFromBatch", image=["1", 1], batch_index=0, length=1),
        "3": node("LoadNOVA3D", model=LGM, dtype="auto"),
        "4": node(
            "SampleOrbit", model=["3", 0], image=["2", 0], elevation=0.0, seed=0, steps=1,
            guidance="auto", min_guidance_scale=1.0, max_guidance_scale=2.5, size=64,
        ),
        "5": node("PreviewImage", images=["4", 1]),
    }  # fmt: skip
    assert "model is LGM, which makes splats of views" in error_message(client, prompt)


def test_too_few_views_are_an_error(client):
    prompt = lgm_prompt()
    prompt["1"] = node("LoadViews", folder="knight/views")
    prompt["20"] = node("ImageFromBatch", image=["1", 1], batch_index=0, length=3)
    prompt["21"] = node(
        "OrbitCameras", preset="custom", count=3, elevation=0.0, motion="static",
        elevation_amplitude=30.0, azimuths="0", elevations="0", radius=2.2, fov=39.6,
        projection="perspective", ortho_scale=1.5, width=256, height=256,
    )  # fmt: skip
    prompt["22"] = node(
        "AssembleViews", images=["20", 0], cameras=["21", 0], normal_frame="world", first_view=0,
        invert_masks=False,
    )  # fmt: skip
    prompt["3"]["inputs"]["views"] = ["22", 0]
    assert "there are 3 views, but LGM needs 4" in error_message(client, prompt)


def test_cancel_stops_within_a_block(client):
    prompt = lgm_prompt(framing="image", rotations="normalised")

    def cancel(event: str, data: dict) -> None:
        if event == "progress" and data["node"] == "3" and data["value"] >= 2:
            client.interrupt()

    run = client.run(prompt, cancel)
    assert run.is_interrupted and run.error is None and run.executed[-1] == "3"
