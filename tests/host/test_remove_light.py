"""Remove Light from Views in a graph: lit views, the gate, and bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.evaluation.lights import LIGHTS, lit_views
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.io.views.transforms_json import write_views
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.training.procedural.catalog import procedural_object

from .prompts import node
from .workflow_check import Prompt

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lit_folder(server):
    """Views of a procedural object under a key light, without light, and its mesh as inputs."""
    folder = server.base / "input" / "light"
    mesh = procedural_object(2, "vase", 48)
    cameras = cameras_from_orbit(preset_orbit("sv3d_sine", 64, 64))[list(range(0, 21, 2))]
    for name, views in (
        ("lit", lit_views(mesh, cameras, LIGHTS["key"], RenderConfig(1))),
        ("unlit", render_views(mesh, cameras, RenderConfig(1)).views),
        ("black", render_views(mesh, cameras, RenderConfig(1)).views),
    ):
        colour = views.colour
        if name == "black":
            colour = torch.where(views.masks[..., None] > 0.0, 0.0, colour)
        views = replace(views, colour=colour, normals=None, normal_frame=None)
        write_views(views, folder / name)
    write_mesh(mesh, folder / "vase.glb")
    return folder


def prompt(views: str, **settings: Any) -> Prompt:
    values = {"strength": 1.0, "gate": 0.15} | settings
    bake = {"exposure": True, "consistency": True, "sharpen": True}
    return {
        "1": node("NOVA3DLoadMesh", file="light/vase.glb", up_axis="+Y"),
        "2": node("LoadViews", folder=f"light/{views}"),
        "3": node("RemoveLight", mesh=["1", 0], views=["2", 0], **values),
        "4": node("BakeTexture", mesh=["1", 0], views=["3", 0], texture_size=128, uv="box", **bake),
        "5": node("PreviewImage", images=["4", 1]),
        "6": node("PreviewImage", images=["3", 1]),
        "7": node("PreviewImage", images=["3", 2]),
        "8": node("PreviewAny", source=["3", 3]),
    }


def report_of(client, run) -> str:
    (text,) = client.history(run.prompt_id)["outputs"]["8"]["text"]
    return text


def test_light_is_removed_and_reported(client, lit_folder):
    run = client.run(prompt("lit"))
    assert run.has_succeeded, run.error
    outputs = client.history(run.prompt_id)["outputs"]
    assert len(outputs["6"]["images"]) == 11
    assert len(outputs["7"]["images"]) == 1
    assert "100% of it was removed." in report_of(client, run)
    assert run.progress["3"][-1] == (11, 11)


def test_unlit_views_stay_and_the_node_says_why(client, lit_folder):
    run = client.run(prompt("unlit"))
    assert run.has_succeeded, run.error
    (text,) = client.history(run.prompt_id)["outputs"]["3"]["text"]
    assert "the views count as unlit and are unchanged." in text
    assert text in report_of(client, run)


def test_black_views_are_an_error_that_says_what_to_do(client, lit_folder):
    run = client.run(prompt("black"))
    assert not run.has_succeeded
    assert "neither black nor overexposed. Check the colours of the views" in str(run.error)
