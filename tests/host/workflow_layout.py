"""Rules for the layout of templates: readable when opened, nothing hidden.

`layout_problems` measures as the front end's canvas draws: titles of 30 px above a node, sockets
20 px apart, links as splines whose handles are a quarter of their length. Templates open fitted to
75 % of the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from .workflow_check import FRONTEND_ONLY, Info

Graph = dict[str, Any]
Rect = tuple[float, float, float, float]
"""x0, y0, x1, y1."""

WINDOW_PX = (1920, 1080)
FITTED = 0.75
"""Part of the window that a template fills when it opens."""
MIN_ZOOM = 0.6
TITLE_PX, SLOT_PX, PADDING_PX = 30, 20, 10
MIN_GAP_PX = 15
MARGIN_PX = 4
"""Maximum overlap of a link and a node: the link still looks as if it passed the node."""


def opening_zoom(graph: Graph) -> float:
    """Zoom at which the front end opens the template in a window of `WINDOW_PX`."""
    rects = [_rect(node) for node in graph["nodes"]]
    x0, y0 = min(r[0] for r in rects), min(r[1] for r in rects)
    x1, y1 = max(r[2] for r in rects), max(r[3] for r in rects)
    width, height = x1 - x0 + 2 * PADDING_PX, y1 - y0 + 2 * PADDING_PX
    return min(FITTED * WINDOW_PX[0] / width, FITTED * WINDOW_PX[1] / height)


def layout_problems(graph: Graph, info: Info) -> list[str]:
    """Violations of the rules, one line each."""
    zoom = opening_zoom(graph)
    problems = [f"opens at a zoom of {zoom:.2f}, below {MIN_ZOOM}"] if zoom < MIN_ZOOM else []
    problems += _overlaps(graph["nodes"])
    problems += _titles(graph["nodes"], info)
    problems += _groups(graph)
    problems += _hidden_links(graph)
    return problems


def _rect(node: dict[str, Any]) -> Rect:
    """Rectangle of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_PX, x + width, y + height


def _overlaps(nodes: list[dict[str, Any]]) -> Iterator[str]:
    for a, b in combinations(nodes, 2):
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = _rect(a), _rect(b)
        gap = max(bx0 - ax1, ax0 - bx1, by0 - ay1, ay0 - by1)
        if gap < MIN_GAP_PX:
            yield f"nodes {a['id']} and {b['id']} are {gap:g} px apart, less than {MIN_GAP_PX}"


def _titles(nodes: list[dict[str, Any]], info: Info) -> Iterator[str]:
    for node in nodes:
        if node["type"] in FRONTEND_ONLY or "title" not in node:
            continue
        name = info[node["type"]]["display_name"]
        if name not in node["title"]:
            yield f"node {node['id']}: the title '{node['title']}' does not contain '{name}'"


def _groups(graph: Graph) -> Iterator[str]:
    """A group contains nodes as a whole, below its own title."""
    for group in graph.get("groups", []):
        x, y, width, height = group["bounding"]
        for node in graph["nodes"]:
            x0, y0, x1, y1 = _rect(node)
            if x1 <= x or x0 >= x + width or y1 <= y or y0 >= y + height:
                continue
            inside = x <= x0 and y + TITLE_PX <= y0 and x1 <= x + width and y1 <= y + height
            if not inside:
                yield f"group '{group['title']}' cuts node {node['id']}"


def _hidden_links(graph: Graph) -> Iterator[str]:
    """Links that pass behind a node, their own ends included."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, source, slot, target, target_slot, *_ in graph["links"]:
        start = _output_position(nodes[source], slot)
        end = _input_position(nodes[target], target_slot)
        points = list(_spline(start, end))
        for node in nodes.values():
            x0, y0, x1, y1 = _rect(node)
            if node["id"] == source:
                x1 = min(x1, start[0] - 12)  # sockets lie inside the border
            elif node["id"] == target:
                x0 = max(x0, end[0] + 12)
            hidden = any(
                x0 + MARGIN_PX < x < x1 - MARGIN_PX and y0 + MARGIN_PX < y < y1 - MARGIN_PX
                for x, y in points
            )
            if hidden:
                yield f"link {link} from {source} to {target} passes behind node {node['id']}"


def _output_position(node: dict[str, Any], slot: int) -> tuple[float, float]:
    (x, y), (width, _) = node["pos"], node["size"]
    return x + width - SLOT_PX / 2, y + (slot + 0.7) * SLOT_PX


def _input_position(node: dict[str, Any], slot: int) -> tuple[float, float]:
    """Position of a socket; sockets of widgets follow all others and the outputs."""
    x, y = node["pos"]
    sockets = [each for each in node["inputs"] if "widget" not in each]
    if "widget" not in node["inputs"][slot]:
        return x + SLOT_PX / 2, y + (sockets.index(node["inputs"][slot]) + 0.7) * SLOT_PX
    widgets = [each for each in node["inputs"] if "widget" in each]
    row = widgets.index(node["inputs"][slot])
    header = max(len(sockets), len(node.get("outputs", []))) * SLOT_PX
    return x + SLOT_PX / 2, y + header + (row + 0.7) * (SLOT_PX + 4)


def _spline(start: tuple[float, float], end: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """Points of the cubic Bezier curve from an output to an input."""
    (ax, ay), (bx, by) = start, end
    handle = 0.25 * ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
    for step in range(101):
        t = step / 100
        weights = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
        x = sum(w * c for w, c in zip(weights, (ax, ax + handle, bx - handle, bx), strict=True))
        y = sum(w * c for w, c in zip(weights, (ay, ay, by, by), strict=True))
        yield x, y
