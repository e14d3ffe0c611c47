"""Complete Texture in a graph: the models of ComfyUI's management, result, cancel, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nova3d_core.evaluation.occupancy import is_watertight
from nova3d_core.io.mesh.read import read_mesh

from .models import LGM, MINI, SV3D_P
from .prompts import load_prompt, node, node_key, with_inputs
from .server import PROJECT
from .test_normals import MOGE_NODES
from .test_run_workflows import fetch_mesh, run_to_end
from .test_sampling import square_image, uploaded
from .workflow_check import Prompt

pytestmark = pytest.mark.host

FUSED = "example: knight, fused"
FUSED_FILE = PROJECT / "nova3d_core" / "assets" / "knight" / "fused.glb"


def complete_prompt(model: str = SV3D_P, **settings: Any) -> Prompt:
    """The fused knight of the package, whose views are at the horizon."""
    inputs = {
        "method": "resample", "orbits": 1, "steps": 2, "start_noise": 8.0, "iterations": 2,
        "seed": 0, "size": 64,
    } | settings  # fmt: skip
    return {
        "1": node("NOVA3DLoadMesh", file=FUSED, up_axis="+Y"),
        "2": node("LoadViews", folder="example: knight"),
        "3": node("LoadNOVA3D", model=model, dtype="auto"),
        "4": node("CompleteTexture", mesh=["1", 0], views=["2", 0], model=["3", 0], **inputs),
        "5": node(
            "ExportMesh", mesh=["4", 0], format="glb", filename_prefix="completed/k",
            target_faces=40000, texture_size=1024,
        ),
        "6": node("PreviewImage", images=["4", 3]),
        "7": node("PreviewAny", source=["4", 4]),
    }  # fmt: skip


@pytest.mark.parametrize("method", ["resample", "sds_pixels", "sds_latents"])
def test_unseen_parts_change_and_the_rest_does_not(client, output, method):
    run = client.run(complete_prompt(method=method))
    assert run.has_succeeded, run.error
    outputs = client.history(run.prompt_id)["outputs"]
    assert len(outputs["6"]["images"]) == 21
    assert "of the texture is unseen" in outputs["7"]["text"][0]
    before = read_mesh(FUSED_FILE)
    path = max((output / "completed").glob("*.glb"), key=lambda each: each.stat().st_mtime)
    after = read_mesh(path)
    assert torch.equal(before.faces, after.faces)
    changed = (before.texture - after.texture).abs().amax(dim=-1) > 0.02
    assert 0.005 < float(changed.float().mean()) < 0.8


def test_the_built_in_kind_of_model_completes_its_own_orbit(client):
    run = client.run(complete_prompt(MINI))
    assert run.has_succeeded, run.error
    assert len(client.history(run.prompt_id)["outputs"]["6"]["images"]) == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": MINI, "method": "sds_latents"}, "needs a model that takes the elevation"),
        ({"model": LGM}, "LGM cannot complete textures"),
        ({"mask": ["2", 2]}, "mask is connected, but image is not"),
        ({"size": 100}, "sampling size_px is 100, expected a multiple of"),
    ],
)
def test_mistakes_are_errors_that_say_what_to_do(client, settings, message):
    prompt = complete_prompt(settings.pop("model", SV3D_P))
    prompt["4"]["inputs"] |= settings
    run = client.run(prompt)
    assert not run.has_succeeded
    assert message in str(run.error)


def test_the_template_gives_a_closed_textured_mesh(client, tmp_path):
    """From one image: sine orbit, normals, light, completion; a red square in every view."""
    if not set(client.object_info()) >= MOGE_NODES:
        pytest.skip("this ComfyUI has no MoGe nodes")
    prompt = load_prompt("sv3d_to_mesh_complete")
    square = uploaded(client, square_image(), "square.png")["inputs"]["image"]
    prompt = with_inputs(prompt, "LoadImage", image=square)
    report = [node_key(prompt, "CompleteTexture"), 4]
    prompt["90"] = node("PreviewAny", source=report)
    run = run_to_end(client, prompt)

    mesh = fetch_mesh(client, run, node_key(prompt, "ExportMesh"), tmp_path)
    assert is_watertight(mesh) and len(mesh.faces) > 100
    assert mesh.texture is not None and float(mesh.texture.std()) > 0.0
    (text,) = client.history(run.prompt_id)["outputs"]["90"]["text"]
    assert "of the texture is unseen" in text and "SV3D p (resample)" in text
