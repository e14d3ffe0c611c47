"""Cancelling from the page: the node stops soon, and the server takes the next prompt."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .prompts import key_of, node, shipped, with_inputs
from .workflow_check import Prompt

pytestmark = pytest.mark.host

MOST_SECONDS = 5.0
"""From the cancel to the end of the prompt."""


def slow_fusion() -> Prompt:
    return with_inputs(shipped("views_to_mesh"), "DeconflictFusion", steps_scale=10.0, seed=11)


def slow_poses() -> Prompt:
    return {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("RefinePoses", views=["1", 0], preset="quality", seed=11, device="cpu"),
        "3": node("SaveViews", views=["2", 0], filename_prefix="never/views"),
    }


def slow_render() -> Prompt:
    prompt = with_inputs(shipped("mesh_to_turntable"), "OrbitCameras", count=200)
    return with_inputs(prompt, "RenderViews", width=512, height=512, supersample=4)


def slow_bake() -> Prompt:
    prompt = {
        "1": node("NOVA3DLoadMesh", file="character_knight.glb", up_axis="+Y"),
        "2": node("LoadViews", folder="knight/views"),
        "3": node("BakeTexture", mesh=["1", 0], views=["2", 0], **_bake()),
        "4": node("ExportMesh", mesh=["3", 0], **_export()),
    }
    return prompt


def slow_evaluation() -> Prompt:
    return with_inputs(
        shipped("mesh_against_reference"), "EvaluateMesh", points=50_000, image_size=512
    )


def _bake() -> dict[str, Any]:
    settings = {"exposure": True, "consistency": True, "sharpen": True}
    return {"texture_size": 2048, "uv": "xatlas", **settings}


def _export() -> dict[str, Any]:
    size = {"target_faces": 1000, "texture_size": 64}
    return {"format": "glb", "filename_prefix": "never/mesh", **size}


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("DeconflictFusion", slow_fusion),
        ("RefinePoses", slow_poses),
        ("RenderViews", slow_render),
        ("BakeTexture", slow_bake),
        ("EvaluateMesh", slow_evaluation),
    ],
)
def test_cancel_stops_the_node_soon(client, server, kind, make):
    prompt = make()
    key = key_of(prompt, kind)
    cancelled_at: list[float] = []

    def cancel_in_the_middle(event: str, data: dict[str, Any]) -> None:
        at_work = event == "progress" and data["node"] == key and data["value"] >= 1
        if at_work and not cancelled_at:
            client.interrupt()
            cancelled_at.append(time.monotonic())

    run = client.run(prompt, cancel_in_the_middle)
    waited = time.monotonic() - cancelled_at[0]

    assert run.is_interrupted and run.error is None
    assert run.executed[-1] == key
    assert waited < MOST_SECONDS
    assert client.history(run.prompt_id)["status"]["status_str"] == "error"
    time.sleep(0.2)  # for a killed worker to be gone
    assert server.children == []
    assert client.run(shipped("mesh_to_turntable")).has_succeeded


def test_cancelled_prompt_runs_when_queued_again(client):
    prompt = with_inputs(shipped("views_to_mesh"), "DeconflictFusion", seed=12)

    def cancel(event: str, data: dict[str, Any]) -> None:
        if event == "progress" and data["value"] == 2:
            client.interrupt()

    assert client.run(prompt, cancel).is_interrupted
    assert client.run(prompt).has_succeeded
