"""Every workflow file is valid for this ComfyUI, and readable: classes, inputs, links, layout."""

from __future__ import annotations

import copy
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from .client import Client
from .prompts import API, FAST_SETTINGS, node
from .server import PROJECT
from .test_run_workflows import assert_like_the_knight, fetch_mesh, run_to_end
from .workflow_check import (
    FRONTEND_ONLY,
    Info,
    Prompt,
    prompt_from_blueprint,
    prompt_from_graph,
    prompt_problems,
)
from .workflow_layout import layout_problems
from .workflow_writer import rewritten, rewritten_blueprint

pytestmark = pytest.mark.host

GRAPHS = sorted((PROJECT / "workflows").glob("*.json"))
PROMPTS = sorted(API.glob("*.json"))
BLUEPRINTS = sorted((PROJECT / "subgraphs").glob("*.json"))
EXPECTED = {
    "image_to_mesh",
    "views_to_mesh",
    "multiview_images_to_mesh",
    "mesh_to_turntable",
    "mesh_against_reference",
    "image_to_mesh_nova3d",
    "photo_to_mesh",
    "sv3d_to_mesh",
    "sv3d_to_mesh_normals",
    "sv3d_to_mesh_complete",
    "v3d_to_mesh",
    "v3d_to_mesh_normals",
    "views_to_splats",
    "v3d_to_splats",
    "lgm_to_splats",
    "ouroboros3d_to_splats",
    "ouroboros3d_to_mesh",
}
APPS = {"image_to_mesh.app", "views_to_mesh.app"}
NO_DOWNLOAD = {
    "image_to_mesh",
    "views_to_mesh",
    "multiview_images_to_mesh",
    "mesh_to_turntable",
    "mesh_against_reference",
    "views_to_splats",
}
"""Templates that run with nothing but the pack."""
NEWER_NODES = {
    "RemoveBackground",
    "LoadBackgroundRemovalModel",
    "LoadMoGeModel",
    "MoGeInference",
    "MoGeRender",
    "PreviewGaussianSplat",
}
"""Nodes of ComfyUI that its oldest supported version lacks; photo_to_mesh, *_to_mesh_normals,
sv3d_to_mesh_complete and *_to_splats use them."""


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def api_path(graph: Path) -> Path:
    """The API prompt of a template; an app has that of the template without `.app`."""
    return API / f"{graph.stem.removesuffix('.app')}.json"


@pytest.fixture
def info(client) -> Info:
    return client.object_info()


def skip_without_newer_nodes(info: Info, kinds: set[str]) -> None:
    if missing := (kinds & NEWER_NODES) - set(info):
        pytest.skip(f"this ComfyUI has no {', '.join(sorted(missing))}")


def kinds_of(nodes: list[dict]) -> set[str]:
    return {node["type"] for node in nodes}


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_api_prompt_is_valid(path, info):
    prompt = load(path)
    skip_without_newer_nodes(info, {node["class_type"] for node in prompt.values()})
    assert prompt_problems(prompt, info) == []


def test_all_workflows_ship_as_api_prompts():
    assert {path.stem for path in PROMPTS} >= EXPECTED
    assert {path.stem for path in GRAPHS} >= EXPECTED | APPS


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_graph_is_valid_and_has_a_note(path, info):
    graph = load(path)
    skip_without_newer_nodes(info, kinds_of(graph["nodes"]))
    assert prompt_from_graph(graph, info)[1] == []
    notes = [node for node in graph["nodes"] if node["type"] in FRONTEND_ONLY]
    assert notes and len(notes[0]["widgets_values"][0]) > 80
    assert path.with_suffix(".jpg").is_file()  # the only suffix that the template browser requests


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_layout_is_readable_and_hides_nothing(path, info):
    graph = load(path)
    skip_without_newer_nodes(info, kinds_of(graph["nodes"]))
    assert layout_problems(graph, info) == []


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_graph_and_api_prompt_are_equal(path, info):
    graph = load(path)
    skip_without_newer_nodes(info, kinds_of(graph["nodes"]))
    prompt = load(api_path(path))
    assert _without_previews(prompt_from_graph(graph, info)[0]) == _without_previews(prompt)


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_image_templates_start_from_load_image(path):
    """Load Image holds the shipped example and is wired, with its mask."""
    nodes = {node["id"]: node for node in load(path)["nodes"]}
    if not kinds_of(list(nodes.values())) & {
        "SampleMultiviewNormals",
        "SampleOrbit",
        "SampleRecursive",
    }:
        return
    (image,) = [node for node in nodes.values() if node["type"] == "LoadImage"]
    assert image["widgets_values"][0] == "nova3d_example.png"
    assert image["outputs"][0]["links"]
    assert image["outputs"][1]["links"] or "RemoveBackground" in kinds_of(list(nodes.values()))
    text = " ".join(node["widgets_values"][0] for node in nodes.values() if "Note" in node["type"])
    assert "Remove Background" in text


def test_template_browser_lists_those_without_download_first():
    """web/templates.js orders the cards; these names must exist and need no model file."""
    script = (PROJECT / "web" / "templates.js").read_text(encoding="utf-8")
    first = re.findall(r"^  '([\w.]+)',?$", script, re.MULTILINE)
    assert first[0] == "image_to_mesh"
    assert set(first) == NO_DOWNLOAD | APPS
    for name in first:
        prompt = load(api_path(PROJECT / "workflows" / f"{name}.json"))
        models = [node["inputs"].get("model") for node in prompt.values()]
        assert {model for model in models if isinstance(model, str)} <= {"nova3d-mini (built in)"}


@pytest.mark.parametrize("name", sorted(APPS))
def test_app_selects_existing_inputs_and_outputs(name, info):
    graph = load(PROJECT / "workflows" / f"{name}.json")
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    assert graph["extra"]["linearMode"] is True
    selected = graph["extra"]["linearData"]
    for key, widget in selected["inputs"]:
        assert widget in [socket["name"] for socket in nodes[str(key)]["inputs"]]
    for key in selected["outputs"]:
        assert info[nodes[str(key)]["type"]]["output_node"]
    plain = load(PROJECT / "workflows" / f"{name.removesuffix('.app')}.json")
    assert graph["nodes"] == plain["nodes"] and graph["links"] == plain["links"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_blueprint_is_valid(path, info):
    """One node named as its file, whose widgets show the values of the nodes inside."""
    blueprint = load(path)
    (outer,) = blueprint["nodes"]
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    assert outer["title"] == subgraph["name"] == path.stem
    assert outer["type"] == subgraph["id"]
    assert [s["name"] for s in outer["inputs"]] == [s["name"] for s in subgraph["inputs"]]
    assert [s["name"] for s in outer["outputs"]] == [s["name"] for s in subgraph["outputs"]]
    assert "MESH" in [socket["type"] for socket in outer["outputs"]]
    widgets = [socket["name"] for socket in outer["inputs"] if "widget" in socket]
    values = dict(zip(widgets, outer["widgets_values"], strict=True))
    prompt, _, problems = prompt_from_blueprint(blueprint, info, values)
    assert problems == []
    unchanged, _, _ = prompt_from_blueprint(blueprint, info, {})
    assert prompt == unchanged
    sockets = {s["name"] for s in outer["inputs"]} - set(widgets)
    missing = [line for line in prompt_problems(prompt, info) if "lacks the required" not in line]
    assert missing == []
    assert len(prompt_problems(prompt, info)) == len(sockets & {"image", "images"})


def blueprint_run(blueprint: dict, info: Info, values: dict, before: Prompt) -> Prompt:
    """API prompt of a graph of a blueprint between `before` and ExportMesh, with fast settings."""
    prompt, outputs, problems = prompt_from_blueprint(blueprint, info, values)
    assert problems == []
    for inner in prompt.values():
        inner["inputs"] |= FAST_SETTINGS.get(inner["class_type"], {})
    settings = {"format": "glb", "filename_prefix": "blueprint/mesh"} | FAST_SETTINGS["ExportMesh"]
    return {**before, **prompt, "99": node("ExportMesh", mesh=outputs["mesh"], **settings)}


def test_views_blueprint_makes_a_textured_mesh(client: Client, info, tmp_path):
    blueprint = load(PROJECT / "subgraphs" / "Views Folder to Mesh.json")
    prompt = blueprint_run(blueprint, info, {"preset": "draft"}, {})
    run = run_to_end(client, prompt)
    assert_like_the_knight(fetch_mesh(client, run, "99", tmp_path))


def test_images_blueprint_makes_a_textured_mesh(client: Client, info, tmp_path):
    """Images, masks and normals of a render stand in for those of a multi-view model."""
    before = {
        "80": node("NOVA3DLoadMesh", file="example: knight", up_axis="+Y"),
        "81": load(API / "multiview_images_to_mesh.json")["2"],
        "82": load(API / "multiview_images_to_mesh.json")["3"],
    }
    before["82"]["inputs"] |= {"mesh": ["80", 0], "cameras": ["81", 0]}
    blueprint = load(PROJECT / "subgraphs" / "Images to Mesh (NOVA3D).json")
    values = {"images": ["82", 1], "normals": ["82", 2], "masks": ["82", 3]}
    prompt = blueprint_run(blueprint, info, values, before)
    for inner in prompt.values():
        if inner["class_type"] == "OrbitCameras":
            inner["inputs"]["preset"] = "nova3d"
    run = run_to_end(client, prompt)
    assert_like_the_knight(fetch_mesh(client, run, "99", tmp_path))


@pytest.mark.skipif(not os.environ.get("NOVA3D_WRITE_PAGES"), reason="writes files on request")
def test_rewrite_workflows(info):
    """Writes graphs, prompts and blueprints for changed schemas; run it on the oldest version."""
    for path in GRAPHS:
        graph = load(path)
        if kinds_of(graph["nodes"]) & NEWER_NODES - set(info):
            continue
        graph, prompt = rewritten(graph, load(api_path(path)), info)
        _write(path, graph, 1)
        _write(api_path(path), prompt, 2)
    for path in BLUEPRINTS:
        _write(path, rewritten_blueprint(load(path), info), 1)


def _write(path: Path, content: dict, indent: int) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _without_previews(prompt: Prompt) -> Counter:
    """Classes with their values and linked outputs; preview nodes are ignored."""
    nodes: Counter = Counter()
    for each in prompt.values():
        if each["class_type"].startswith("Preview"):
            continue
        values = {
            name: [prompt[value[0]]["class_type"], value[1]] if isinstance(value, list) else value
            for name, value in copy.deepcopy(each["inputs"]).items()
        }
        nodes[each["class_type"], json.dumps(values, sort_keys=True)] += 1
    return nodes
