"""Every workflow file is valid for this ComfyUI: classes, inputs, types and links."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from .prompts import API
from .server import PROJECT
from .workflow_check import FRONTEND_ONLY, Info, Prompt, prompt_from_graph, prompt_problems

pytestmark = pytest.mark.host

GRAPHS = sorted(
    path for path in (PROJECT / "workflows").glob("*.json") if path.name != "index.json"
)
PROMPTS = sorted(API.glob("*.json"))
EXPECTED = {
    "image_to_mesh",
    "views_to_mesh",
    "multiview_images_to_mesh",
    "mesh_to_turntable",
    "mesh_against_reference",
    "image_to_mesh_nova3d",
    "sv3d_to_mesh",
    "v3d_to_mesh",
}


@pytest.fixture
def info(client) -> Info:
    return client.object_info()


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_api_prompt_is_valid(path, info):
    assert prompt_problems(json.loads(path.read_text(encoding="utf-8")), info) == []


def test_all_workflows_ship_as_api_prompts():
    assert {path.stem for path in PROMPTS} >= EXPECTED


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_graph_is_valid_and_has_a_note(path, info):
    graph = json.loads(path.read_text(encoding="utf-8"))
    assert prompt_from_graph(graph, info)[1] == []
    notes = [node for node in graph["nodes"] if node["type"] in FRONTEND_ONLY]
    assert notes and len(notes[0]["widgets_values"][0]) > 80
    assert path.with_suffix(".jpg").is_file()  # the only suffix that the template browser requests


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_graph_and_api_prompt_are_equal(path, info):
    api_path = API / path.name
    assert api_path.is_file()
    graph, _ = prompt_from_graph(json.loads(path.read_text(encoding="utf-8")), info)
    prompt = json.loads(api_path.read_text(encoding="utf-8"))
    assert _without_previews(graph) == _without_previews(prompt)


def _without_previews(prompt: Prompt) -> Counter:
    """Classes with their values and linked outputs; preview nodes are ignored."""
    nodes: Counter = Counter()
    for node in prompt.values():
        if node["class_type"].startswith("Preview"):
            continue
        values = {
            name: [prompt[value[0]]["class_type"], value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        nodes[node["class_type"], json.dumps(values, sort_keys=True)] += 1
    return nodes
