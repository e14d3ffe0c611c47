"""Every workflow file names only classes, inputs, types and links that this host has."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from .prompts import API
from .server import PROJECT
from .workflow_check import PAGE_ONLY, Info, Prompt, prompt_of, prompt_problems

pytestmark = pytest.mark.host

PAGES = sorted(path for path in (PROJECT / "workflows").glob("*.json") if path.name != "index.json")
PROMPTS = sorted(API.glob("*.json"))
WANTED = {
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
def test_api_prompt_fits_this_host(path, info):
    assert prompt_problems(json.loads(path.read_text(encoding="utf-8")), info) == []


def test_all_graphs_ship_as_prompts():
    assert {path.stem for path in PROMPTS} >= WANTED


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_fits_this_host_and_explains_itself(path, info):
    graph = json.loads(path.read_text(encoding="utf-8"))
    assert prompt_of(graph, info)[1] == []
    notes = [node for node in graph["nodes"] if node["type"] in PAGE_ONLY]
    assert notes and len(notes[0]["widgets_values"][0]) > 80
    assert path.with_suffix(".jpg").is_file()  # the one ending that the template browser asks for


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_and_its_prompt_are_the_same_graph(path, info):
    twin = API / path.name
    assert twin.is_file()
    graph, _ = prompt_of(json.loads(path.read_text(encoding="utf-8")), info)
    prompt = json.loads(twin.read_text(encoding="utf-8"))
    assert _without_previews(graph) == _without_previews(prompt)


def _without_previews(prompt: Prompt) -> Counter:
    """Classes with their values and what they are linked to; nodes that only show are left out."""
    seen: Counter = Counter()
    for node in prompt.values():
        if node["class_type"].startswith("Preview"):
            continue
        values = {
            name: [prompt[value[0]]["class_type"], value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        seen[node["class_type"], json.dumps(values, sort_keys=True)] += 1
    return seen
