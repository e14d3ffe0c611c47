"""Sample Recursive in the host, with a small pair that has random weights."""

from __future__ import annotations

import io
import math
import time

import PIL.Image
import pytest

from nova3d_core.conventions import SPLAT_UP_AXIS
from nova3d_core.io.splats.files import read_splats
from nova3d_core.io.views.transforms_json import read_views

from .client import error_message
from .models import LGM, OUROBOROS3D, OUROBOROS3D_RECONSTRUCTION, SV3D_P
from .prompts import load_prompt, node, node_key, with_inputs
from .test_run_workflows import fetch_mesh, run_to_end
from .test_sampling import sampling_prompt, square_image, uploaded
from .test_splats import files_of
from .workflow_check import Prompt

pytestmark = pytest.mark.host

STEPS = 2


def recursive_prompt(model: str = OUROBOROS3D, dtype: str = "auto", **inputs: object) -> Prompt:
    """Views, splats and report of the knight."""
    settings = {
        "seed": 0, "steps": STEPS, "feedback": "both", "every": 1, "elevation": 0.0, "size": 64
    } | inputs  # fmt: skip
    return {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("ImageFromBatch", image=["1", 1], batch_index=0, length=1),
        "3": node("LoadNOVA3D", model=model, dtype=dtype),
        "4": node("SampleRecursive", model=["3", 0], image=["2", 0], **settings),
        "5": node("SaveViews", views=["4", 0], filename_prefix="recursive/views"),
        "6": node("ExportSplats", splats=["4", 2], format="ply", filename_prefix="recursive/x"),
        "7": node("PreviewAny", source=["4", 3]),
    }


def test_shipped_prompt_makes_a_file_of_splats(client, tmp_path):
    prompt = with_inputs(load_prompt("ouroboros3d_to_splats"), "LoadNOVA3D", model=OUROBOROS3D)
    run = run_to_end(client, prompt)
    (content,) = files_of(client, run, node_key(prompt, "ExportSplats"), "3d")
    (tmp_path / "fetched.ply").write_bytes(content)
    splats = read_splats(tmp_path / "fetched.ply", SPLAT_UP_AXIS)
    assert len(splats) > 10_000
    assert float((splats.rotations[:, 0].abs() - 1.0).abs().max()) < 1e-6  # axis-aligned


def test_shipped_prompt_makes_a_mesh(client, tmp_path):
    prompt = with_inputs(load_prompt("ouroboros3d_to_mesh"), "LoadNOVA3D", model=OUROBOROS3D)
    square = uploaded(client, square_image(), "square.png")["inputs"]["image"]
    run = run_to_end(client, with_inputs(prompt, "LoadImage", image=square))
    mesh = fetch_mesh(client, run, node_key(prompt, "ExportMesh"), tmp_path)
    assert len(mesh.faces) > 100 and mesh.texture is not None
    red, green, _ = mesh.texture.reshape(-1, 3).mean(dim=0).tolist()
    assert red > green + 0.3


def test_views_report_previews_and_progress(client, output):
    run = run_to_end(client, recursive_prompt(dtype="fp32", seed=5))
    (folder,) = (output / "recursive").glob("views*")
    views = read_views(folder)
    assert len(views) == 8 and views.cameras.width == 64
    azimuths = views.cameras.azimuth_deg.remainder(360.0).tolist()
    assert azimuths == pytest.approx([0, 45, 90, 135, 180, 225, 270, 337.5], abs=0.01)
    report = str(run.outputs["7"]["text"])
    assert "splats by Ouroboros3D" in report and "2 reconstructions, feedback both" in report
    assert (STEPS, STEPS) in run.progress["4"]
    width, height = PIL.Image.open(io.BytesIO(run.previews[-1])).size
    assert math.isclose(width / height, 1.0, rel_tol=0.5)  # two rows of views, two of renders
    other = run_to_end(client, recursive_prompt(dtype="fp32", seed=5, feedback="none"))
    assert "1 reconstruction, feedback none" in str(other.outputs["7"]["text"])


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_dtype(client, dtype):
    run = run_to_end(client, recursive_prompt(dtype=dtype, steps=1))
    assert "splats by Ouroboros3D" in str(run.outputs["7"]["text"])


def test_comfyuis_nodes_open_the_file(client):
    if "File3DToSplat" not in client.object_info():
        pytest.skip("this ComfyUI has no splat nodes")
    prompt = {key: each for key, each in recursive_prompt(steps=1).items() if key in "1234"}
    prompt["8"] = node("File3DToSplat", model_3d=["4", 4])
    prompt["9"] = node("GetSplatCount", splat=["8", 0])
    prompt["10"] = node("PreviewAny", source=["9", 1])
    run = run_to_end(client, prompt)
    assert int("".join(filter(str.isdigit, str(run.outputs["10"]["text"])))) > 10_000


def test_models_of_other_nodes_are_refused(client):
    message = error_message(client, recursive_prompt(SV3D_P))
    assert "model is SV3D p, expected Ouroboros3D's pair" in message
    message = error_message(client, recursive_prompt(LGM))
    assert "model is LGM, expected Ouroboros3D's pair" in message
    message = error_message(client, sampling_prompt("SampleOrbit", OUROBOROS3D))
    assert "samples views and splats together" in message and "Sample Recursive" in message


def test_a_missing_reconstruction_model_is_an_error(client, server):
    path = server.base / "models" / "nova3d" / OUROBOROS3D_RECONSTRUCTION
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    try:
        message = error_message(client, recursive_prompt(seed=8))
    finally:
        hidden.rename(path)
    assert "needs its reconstruction model" in message and "recon_model.pth" in message


def test_an_image_without_an_object_is_an_error(client):
    prompt = recursive_prompt()
    prompt["2"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0xFFFFFF)
    del prompt["1"]
    assert "object" in error_message(client, prompt)


def test_cancel_stops_within_a_step(client):
    cancelled_at: list[float] = []

    def cancel(event: str, data: dict) -> None:
        is_step = event == "progress" and data["node"] == "4" and data["value"] >= 1
        if is_step and not cancelled_at:
            cancelled_at.append(time.monotonic())
            client.interrupt()

    run = client.run(recursive_prompt(steps=500, seed=77), cancel)
    assert run.is_interrupted and run.error is None and run.executed[-1] == "4"
    assert time.monotonic() - cancelled_at[0] < 5.0
