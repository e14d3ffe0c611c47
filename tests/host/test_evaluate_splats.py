"""Evaluate Mesh with Gaussian splats: of ComfyUI's SPLAT, and of files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .client import Client
from .prompts import node
from .workflow_check import Prompt

pytestmark = pytest.mark.host

FIT = {"preset": "fast", "seed": 0, "perceptual": "none", "match_exposure": False}
FIT |= {"refine_poses": False, "init": "hull", "splats": 1500, "steps": 30, "device": "cpu"}
EVALUATE = {"protocol": "strict", "points": 1000, "image_size": 64, "seed": 0}


def prompt_with(mesh: list, align: str = "none") -> Prompt:
    """Splats of the shipped object: SPLAT is output 0 of node "2", its file output 1."""
    return {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("FitSplats", views=["1", 0], **FIT),
        "3": node("NOVA3DLoadMesh", file="knight/mesh.glb", up_axis="+Y"),
        "4": node("EvaluateMesh", mesh=mesh, reference=["3", 0], align=align, **EVALUATE),
        "5": node("PreviewAny", source=["4", 0]),
    }


def report_of(client: Client, prompt: Prompt) -> dict[str, Any]:
    run = client.run(prompt)
    assert run.has_succeeded, run.node_errors or (run.error and run.error["exception_message"])
    return json.loads(run.outputs["5"]["text"][0])


def test_images_of_splats_are_compared_with_the_mesh(client, inputs):
    report = report_of(client, prompt_with(["2", 0]))
    assert set(report["metrics"]) == {"images_all", "images_el0", "images_el25"}
    assert report["metrics"]["images_all"]["mask_iou"] > 0.8
    assert any("splats have no surface" in note for note in report["notes"])


def test_icp_of_splats_is_an_error(client, inputs):
    run = client.run(prompt_with(["2", 0], "icp"))
    assert "splats are evaluated by their images alone" in run.error["exception_message"]
