"""The layout rules detect each kind of violation. Needs no ComfyUI."""

from __future__ import annotations

import copy

import pytest

from .workflow_layout import layout_problems, opening_zoom

INFO = {kind: {"display_name": f"{kind} (NOVA3D)"} for kind in ("Make", "Save", "Show")}


def node(key: int, kind: str, x: float, y: float, inputs: int, outputs: int) -> dict:
    return {
        "id": key,
        "type": kind,
        "pos": [x, y],
        "size": [300, 200],
        "inputs": [{"name": f"in{i}", "link": None} for i in range(inputs)],
        "outputs": [{"name": f"out{i}"} for i in range(outputs)],
    }


GRAPH = {
    "nodes": [
        node(1, "Make", 0, 0, 0, 2),
        node(2, "Show", 400, 300, 1, 0),
        node(3, "Save", 800, 0, 1, 0),
        {"id": 4, "type": "MarkdownNote", "title": "Read me", "pos": [0, 300], "size": [300, 200]},
    ],
    "links": [[1, 1, 0, 3, 0, "MESH"], [2, 1, 1, 2, 0, "IMAGE"]],
    "groups": [{"title": "All", "bounding": [-20, -80, 1140, 620]}],
}


def test_accepts_a_readable_graph():
    assert layout_problems(GRAPH, INFO) == []


def test_zoom_fits_the_nodes_into_three_quarters_of_the_window():
    # 1100 x 530 with titles, 10 px of padding: the width decides
    assert opening_zoom(GRAPH) == pytest.approx(0.75 * 1920 / 1120)
    tall = copy.deepcopy(GRAPH)
    tall["nodes"][1]["size"][1] = 1700
    assert opening_zoom(tall) == pytest.approx(0.75 * 1080 / (2030 + 20))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("nodes", 2, "pos"), [2200, 0], "opens at a zoom of 0.57, below 0.6"),
        (("nodes", 1, "pos"), [310, 0], "nodes 1 and 2 are 10 px apart"),
        (("nodes", 0, "title"), "My node", "'My node' does not contain 'Make (NOVA3D)'"),
        (("groups", 0, "bounding"), [-20, -80, 900, 620], "group 'All' cuts node 3"),
        (("groups", 0, "bounding"), [-20, -40, 1140, 580], "group 'All' cuts node 1"),
        (("nodes", 1, "pos"), [400, 0], "link 1 from 1 to 3 passes behind node 2"),
        (("nodes", 2, "pos"), [0, 600], "link 1 from 1 to 3 passes behind node"),
    ],
)
def test_detects_violations(path, value, expected):
    graph = copy.deepcopy(GRAPH)
    parent = graph
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    problems = layout_problems(graph, INFO)
    assert any(expected in line for line in problems), problems


def test_a_title_may_add_to_the_name():
    graph = copy.deepcopy(GRAPH)
    graph["nodes"][0]["title"] = "Ground truth: Make (NOVA3D)"
    assert layout_problems(graph, INFO) == []
