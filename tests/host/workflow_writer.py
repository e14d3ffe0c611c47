"""Writes workflow files: graphs (UI format) from API prompts and a layout.

A template is an API prompt in workflows/api and a graph in workflows that holds the same nodes at
their positions. `graph_from_prompt` derives everything but the layout from the node schemas, so
that a new input of a node reaches all files in one step:

    NOVA3D_WRITE_PAGES=1 python -m pytest tests/host/test_workflow_files.py -m host -k rewrite
"""

from __future__ import annotations

import copy
from typing import Any

from .workflow_check import (
    FRONTEND_ONLY,
    INPUT_NODE,
    OUTPUT_NODE,
    VIEWPORT,
    Info,
    Prompt,
    graph_of_subgraph,
    input_type,
    is_widget,
    node_inputs,
)

Graph = dict[str, Any]


def default_value(spec: list) -> Any:
    """Default of a widget input."""
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
    empty = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, VIEWPORT: ""}
    return options.get("default", choices[0] if choices else empty.get(input_type(spec)))


def complete_prompt(prompt: Prompt, info: Info) -> Prompt:
    """The prompt with exactly the widget inputs of the schemas; new ones at their default."""
    done: Prompt = {}
    for key, node in prompt.items():
        specs = node_inputs(info[node["class_type"]])
        values = {
            name: node["inputs"].get(name, default_value(spec))
            for name, spec in specs.items()
            if name in node["inputs"] or is_widget(spec)
        }
        done[key] = {**node, "inputs": values}
    return done


def graph_from_prompt(prompt: Prompt, layout: Graph, info: Info) -> Graph:
    """A graph with the nodes and links of a prompt.

    Args:
        prompt: ids are integers; a link is (id, output index).
        layout: a graph that provides position and size of each node, front-end-only nodes such as
            notes, groups and `extra`.
        info: /object_info of the oldest supported ComfyUI.
    """
    placed = {str(node["id"]): node for node in layout["nodes"]}
    links: list[list] = []
    nodes = []
    for order, key in enumerate(prompt):
        node = {
            "id": int(key),
            "type": prompt[key]["class_type"],
            "pos": placed[key]["pos"],
            "size": placed[key]["size"],
            "flags": {},
            "order": order,
            "mode": 0,
            **_sockets(prompt, key, links, info),
            "properties": placed[key].get("properties")
            or {"Node name for S&R": prompt[key]["class_type"]},
            "widgets_values": _widget_values(prompt[key], info),
        }
        if "title" in placed[key]:
            node["title"] = placed[key]["title"]
        nodes.append(node)
    _record_links(nodes, links)
    nodes += [node for node in layout["nodes"] if node["type"] in FRONTEND_ONLY]
    for order, node in enumerate(nodes):
        node["order"] = order
    return {
        **{name: layout[name] for name in ("id", "revision") if name in layout},
        "last_node_id": max(node["id"] for node in nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": layout.get("groups", []),
        "config": {},
        "extra": layout.get("extra", {}),
        "version": 0.4,
    }


def rewritten(graph: Graph, prompt: Prompt, info: Info) -> tuple[Graph, Prompt]:
    """A graph and its API prompt after a change of the schemas; the layout stays."""
    prompt = complete_prompt(prompt, info)
    previews = {
        key: node for key, node in _prompt_by_name(graph, info).items() if key not in prompt
    }
    return graph_from_prompt({**prompt, **previews}, copy.deepcopy(graph), info), prompt


def _sockets(prompt: Prompt, key: str, links: list[list], info: Info) -> dict[str, list]:
    """Inputs and outputs of a node; appends its incoming links to `links`."""
    node = prompt[key]
    schema = info[node["class_type"]]
    specs = node_inputs(schema)
    inputs = []
    for name in sorted(specs, key=lambda name: is_widget(specs[name])):  # sockets, then widgets
        socket: dict[str, Any] = {"name": name, "type": input_type(specs[name]), "link": None}
        if is_widget(specs[name]):
            socket["widget"] = {"name": name}
        elif name in schema["input"].get("optional", {}):
            socket["shape"] = 7
        value = node["inputs"].get(name)
        if isinstance(value, list):
            source, slot = value
            kind = info[prompt[source]["class_type"]]["output"][slot]
            links.append([len(links) + 1, int(source), slot, int(key), len(inputs), kind])
            socket["link"] = len(links)
        inputs.append(socket)
    outputs = [
        {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "links": None}
        for name, kind in zip(schema["output_name"], schema["output"], strict=True)
    ]
    return {"inputs": inputs, "outputs": outputs}


def _record_links(nodes: list[dict[str, Any]], links: list[list]) -> None:
    by_id = {node["id"]: node for node in nodes}
    for link, source, slot, *_ in links:
        output = by_id[source]["outputs"][slot]
        output["links"] = [*(output["links"] or []), link]


def _widget_values(node: dict[str, Any], info: Info) -> list[Any]:
    """Values in the front end's order, with those of the widgets that it adds by itself."""
    values: list[Any] = []
    for name, spec in node_inputs(info[node["class_type"]]).items():
        if not is_widget(spec):
            continue
        value = node["inputs"].get(name)
        values.append(default_value(spec) if value is None or isinstance(value, list) else value)
        if adds_control(name, spec):
            values.append("fixed")
        if len(spec) > 1 and spec[1].get("image_upload"):
            values.append("image")
    return values


def adds_control(name: str, spec: list) -> bool:
    """Whether the front end adds the widget `control_after_generate` behind this one."""
    return name == "seed" or bool(len(spec) > 1 and spec[1].get("control_after_generate"))


def rewritten_blueprint(blueprint: dict[str, Any], info: Info) -> dict[str, Any]:
    """A blueprint after a change of the schemas; new inputs inside at their default."""
    done = copy.deepcopy(blueprint)
    (subgraph,) = done["definitions"]["subgraphs"]
    inner = graph_of_subgraph(subgraph)
    names = _socket_names(subgraph)
    prompt = complete_prompt(_prompt_by_name(inner, info), info)
    graph = graph_from_prompt(prompt, inner, info)
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link,
                 strict=True))
        for link in graph["links"]
    ]  # fmt: skip
    for link in subgraph["links"]:
        link = {**link, "id": len(links) + 1}
        if link["origin_id"] == INPUT_NODE:
            name = names[link["target_id"], link["target_slot"]]
            sockets = nodes[link["target_id"]]["inputs"]
            link["target_slot"] = next(i for i, s in enumerate(sockets) if s["name"] == name)
            sockets[link["target_slot"]]["link"] = link["id"]
            subgraph["inputs"][link["origin_slot"]]["linkIds"] = [link["id"]]
        elif link["target_id"] == OUTPUT_NODE:
            socket = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            socket["links"] = [*(socket["links"] or []), link["id"]]
            subgraph["outputs"][link["target_slot"]]["linkIds"] = [link["id"]]
        else:
            continue
        links.append(link)
    subgraph["nodes"], subgraph["links"] = graph["nodes"], links
    subgraph["state"]["lastLinkId"] = len(links)
    return done


def _socket_names(subgraph: dict[str, Any]) -> dict[tuple[int, int], str]:
    """Names of the inputs inside a subgraph by node id and index."""
    return {
        (node["id"], index): socket["name"]
        for node in subgraph["nodes"]
        for index, socket in enumerate(node["inputs"])
    }


def _prompt_by_name(graph: Graph, info: Info) -> Prompt:
    """The prompt of a graph whose widget values belong to the inputs that the file lists."""
    prompt: Prompt = {}
    links = {link[0]: link for link in graph["links"]}
    for node in graph["nodes"]:
        if node["type"] in FRONTEND_ONLY:
            continue
        listed = [socket["name"] for socket in node["inputs"] if "widget" in socket]
        old = {
            name: spec for name, spec in node_inputs(info[node["type"]]).items() if name in listed
        }
        remaining = list(node["widgets_values"])
        values: dict[str, Any] = {}
        for name, spec in old.items():
            values[name] = remaining.pop(0)
            if adds_control(name, spec) or (len(spec) > 1 and spec[1].get("image_upload")):
                remaining.pop(0)
        for socket in node["inputs"]:
            if socket["link"] in links:
                _, source, slot, *_ = links[socket["link"]]
                values[socket["name"]] = [str(source), slot]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values}
    return prompt
