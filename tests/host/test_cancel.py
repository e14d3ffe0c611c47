"""A cancel stops the running node quickly, and the server accepts the next prompt."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .models import SV3D_P
from .prompts import load_prompt, node, node_key, with_inputs
from .workflow_check import Prompt

pytestmark = pytest.mark.host

MAX_SECONDS = 5.0
"""Limit of the time between the cancel and the end of the prompt."""
IN_THREAD = ("BakeTexture", "RefineTexture", "RemoveLight", "EvaluateMesh")
MAX_SECONDS_IN_THREAD = 3.0
"""Nodes whose core call runs in a thread: a cancel does not wait for its next step."""


def slow_fusion() -> Prompt:
    return with_inputs(load_prompt("views_to_mesh"), "DeconflictFusion", steps_scale=10.0, seed=11)


def slow_poses() -> Prompt:
    return {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("RefinePoses", views=["1", 0], preset="quality", seed=11, device="cpu"),
        "3": node("SaveViews", views=["2", 0], filename_prefix="never/views"),
    }


def slow_render() -> Prompt:
    prompt = with_inputs(load_prompt("mesh_to_turntable"), "OrbitCameras", count=200)
    return with_inputs(prompt, "RenderViews", width=512, height=512, supersample=4)


def slow_bake() -> Prompt:
    prompt = {
        "1": node("NOVA3DLoadMesh", file="example: knight, fused", up_axis="+Y"),
        "2": node("LoadViews", folder="knight/views"),
        "3": node("BakeTexture", mesh=["1", 0], views=["2", 0], **_bake()),
        "4": node("ExportMesh", mesh=["3", 0], **_export()),
    }
    return prompt


def slow_refinement() -> Prompt:
    return {
        "1": node("NOVA3DLoadMesh", file="example: knight, fused", up_axis="+Y"),
        "2": node("LoadViews", folder="knight/views"),
        "3": node(
            "RefineTexture", mesh=["1", 0], views=["2", 0], steps=10_000, perceptual="aligned"
        ),
        "4": node("ExportMesh", mesh=["3", 0], **_export()),
    }


def slow_completion() -> Prompt:
    settings = {"method": "resample", "orbits": 1, "steps": 1000, "start_noise": 8.0}
    return {
        "1": node("NOVA3DLoadMesh", file="example: knight, fused", up_axis="+Y"),
        "2": node("LoadViews", folder="example: knight"),
        "3": node("LoadNOVA3D", model=SV3D_P, dtype="auto"),
        "4": node(
            "CompleteTexture", mesh=["1", 0], views=["2", 0], model=["3", 0], iterations=1,
            seed=11, size=64, **settings,
        ),
        "5": node("ExportMesh", mesh=["4", 0], **_export()),
    }  # fmt: skip


def slow_light() -> Prompt:
    return {
        "1": node("NOVA3DLoadMesh", file="example: knight, fused", up_axis="+Y"),
        "2": node("LoadViews", folder="knight/views"),
        "3": node("RemoveLight", mesh=["1", 0], views=["2", 0], strength=1.0, gate=0.0),
        "4": node("SaveViews", views=["3", 0], filename_prefix="never/views"),
    }


def slow_evaluation() -> Prompt:
    return with_inputs(
        load_prompt("mesh_against_reference"), "EvaluateMesh", points=50_000, image_size=512
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
        ("RefineTexture", slow_refinement),
        ("RemoveLight", slow_light),
        ("CompleteTexture", slow_completion),
        ("EvaluateMesh", slow_evaluation),
    ],
)
def test_cancel_stops_the_node_quickly(client, server, kind, make):
    prompt = make()
    key = node_key(prompt, kind)
    cancelled_at: list[float] = []

    def cancel_during_node(event: str, data: dict[str, Any]) -> None:
        is_running = event == "progress" and data["node"] == key and data["value"] >= 1
        if is_running and not cancelled_at:
            client.interrupt()
            cancelled_at.append(time.monotonic())

    run = client.run(prompt, cancel_during_node)
    seconds = time.monotonic() - cancelled_at[0]

    assert run.is_interrupted and run.error is None
    assert run.executed[-1] == key
    assert seconds < (MAX_SECONDS_IN_THREAD if kind in IN_THREAD else MAX_SECONDS)
    assert client.history(run.prompt_id)["status"]["status_str"] == "error"
    time.sleep(0.2)  # until a killed worker has exited
    assert server.children == []
    assert client.run(load_prompt("mesh_to_turntable")).has_succeeded


def test_cancelled_prompt_can_be_queued_again(client):
    prompt = with_inputs(load_prompt("views_to_mesh"), "DeconflictFusion", seed=12)

    def cancel(event: str, data: dict[str, Any]) -> None:
        if event == "progress" and data["value"] == 2:
            client.interrupt()

    assert client.run(prompt, cancel).is_interrupted
    assert client.run(prompt).has_succeeded
