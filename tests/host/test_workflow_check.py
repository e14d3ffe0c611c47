"""The workflow checker detects each kind of error. Needs no ComfyUI."""

from __future__ import annotations

import copy

import pytest

from .workflow_check import prompt_from_graph, prompt_problems

INFO = {
    "Make": {
        "input": {
            "required": {
                "size": ["INT", {"min": 1, "max": 64}],
                "kind": ["COMBO", {"options": ["round", "flat"]}],
                "seed": ["INT", {"min": 0, "max": 9, "control_after_generate": True}],
            }
        },
        "output": ["MESH", "IMAGE"],
    },
    "Save": {
        "input": {
            "required": {"mesh": ["MESH,FILE_3D", {}]},
            "optional": {"mask": ["MASK", {}], "old": [["a", "b"], {}]},
        },
        "output": [],
    },
}
PROMPT = {
    "1": {"class_type": "Make", "inputs": {"size": 8, "kind": "flat", "seed": 3}},
    "2": {"class_type": "Save", "inputs": {"mesh": ["1", 0], "old": "b"}},
}
GRAPH = {
    "nodes": [
        {
            "id": 1,
            "type": "Make",
            "inputs": [{"name": "size", "type": "INT", "widget": {"name": "size"}, "link": None}],
            "outputs": [{"type": "MESH", "links": [7]}, {"type": "IMAGE", "links": None}],
            "widgets_values": [8, "flat", 3, "fixed"],
        },
        {
            "id": 2,
            "type": "Save",
            "inputs": [{"name": "mesh", "type": "MESH,FILE_3D", "link": 7}],
            "outputs": [],
            "widgets_values": ["b"],
        },
        {"id": 3, "type": "MarkdownNote", "widgets_values": ["Hello"]},
    ],
    "links": [[7, 1, 0, 2, 0, "MESH"]],
}


def test_valid_prompt_and_graph_are_equal():
    assert prompt_problems(PROMPT, INFO) == []
    assert prompt_from_graph(GRAPH, INFO) == (PROMPT, [])


@pytest.mark.parametrize(
    ("node", "name", "value", "expected"),
    [
        ("1", "size", 65, "outside 1 to 64"),
        ("1", "size", True, "is not of type INT"),
        ("1", "size", 8.5, "is not of type INT"),
        ("1", "kind", "square", "expected one of"),
        ("1", "colour", 1, "has no input colour"),
        ("2", "old", "c", "expected one of"),
        ("2", "mesh", ["1", 1], "linked to a IMAGE of Make"),
        ("2", "mesh", ["1", 2], "which has 2"),
        ("2", "mesh", ["9", 0], "does not exist"),
        ("2", "mesh", "file.glb", "expects a link"),
        ("2", "mask", ["1", 0], "expects MASK"),
    ],
)
def test_detects_invalid_values_in_a_prompt(node, name, value, expected):
    prompt = copy.deepcopy(PROMPT)
    prompt[node]["inputs"][name] = value
    (line,) = prompt_problems(prompt, INFO)
    assert expected in line


def test_newer_versions_may_have_more_inputs_and_outputs():
    info = copy.deepcopy(INFO)
    info["Make"]["output"].append("MASK")
    info["Save"]["input"]["required"]["mesh"][0] = "MESH,FILE_3D,FILE_3D_GLB"
    path = ["STRING,FILE_3D", {"widgetType": "STRING"}]
    info["Save"]["input"]["optional"] = {"path": path, **info["Save"]["input"]["optional"]}
    graph = copy.deepcopy(GRAPH)
    graph["nodes"][1]["widgets_values"] = ["somewhere", "b"]
    assert prompt_from_graph(graph, info)[0]["2"]["inputs"]["path"] == "somewhere"
    info["Save"]["input"]["optional"].pop("path")
    assert prompt_from_graph(GRAPH, info) == (PROMPT, [])


def test_groups_that_grow_have_one_name_for_each_input():
    template = {"input": {"required": {"mesh": ["MESH", {}]}}, "prefix": "mesh_", "min": 1}
    group = ["COMFY_AUTOGROW_V3", {"template": template | {"max": 2}}]
    info = INFO | {"Join": {"input": {"required": {"meshes": group}}, "output": []}}
    join = {"class_type": "Join", "inputs": {"meshes.mesh_0": ["1", 0]}}
    assert prompt_problems(PROMPT | {"3": join}, info) == []
    wrong = {"meshes.mesh_1": ["1", 1], "meshes.mesh_2": ["1", 0]}
    assert prompt_problems(PROMPT | {"3": join | {"inputs": wrong}}, info) == [
        "node 3: Join lacks the required input meshes.mesh_0",
        "node 3: Join.meshes.mesh_1 expects MESH but is linked to a IMAGE of Make",
        "node 3: Join has no input meshes.mesh_2",
    ]


def test_detects_missing_inputs_and_unknown_classes():
    prompt = copy.deepcopy(PROMPT)
    del prompt["1"]["inputs"]["kind"]
    prompt["2"]["class_type"] = "Keep"
    assert prompt_problems(prompt, INFO) == [
        "node 1: Make lacks the required input kind",
        "node 2: unknown class Keep",
    ]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("nodes", 1, "inputs", 0, "link"), None, "is not recorded in both nodes"),
        (("nodes", 1, "inputs", 0, "link"), 8, "has a link that does not exist"),
        (("nodes", 1, "inputs", 0, "name"), "meshes", "has no input meshes"),
        (("nodes", 1, "inputs", 0, "type"), "MASK", "is not of type MASK"),
        (("nodes", 0, "outputs", 0, "links"), [], "is not recorded in both nodes"),
        (("nodes", 1, "outputs"), [{"type": "MESH", "links": None}], "the file lists"),
        (("nodes", 0, "outputs", 1, "type"), "MASK", "the file lists"),
        (("nodes", 0, "widgets_values"), [8, "flat"], "has no value for seed"),
        (("nodes", 0, "widgets_values"), [8, "flat", 3, "fixed", 1], "more values than widgets"),
        (("nodes", 0, "widgets_values"), ["flat", 8, 3, "fixed"], "is not of type INT"),
        (("nodes", 0, "type"), "Keep", "unknown class Keep"),
        (("links", 0, 2), 5, "is not recorded in both nodes"),
    ],
)
def test_detects_errors_in_a_graph(path, value, expected):
    graph = copy.deepcopy(GRAPH)
    parent = graph
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    assert any(expected in line for line in prompt_from_graph(graph, INFO)[1])
