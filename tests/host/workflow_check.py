"""Validates workflow files against the /object_info of a running ComfyUI."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Prompt = dict[str, dict[str, Any]]
Info = dict[str, dict[str, Any]]

VIEWPORT = "LOAD_3D"
"""Type of the viewport of ComfyUI's 3D nodes: the page fills in its state."""
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", VIEWPORT}
GROWING = "COMFY_AUTOGROW_V3"
"""Type of a group of inputs that grows as they are connected."""
FRONTEND_ONLY = {"Note", "MarkdownNote"}
"""Nodes of the front end only, unknown to the server."""
CONTROL_AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
"""Values of the widget that the front end adds after a seed."""


def prompt_problems(prompt: Prompt, info: Info) -> list[str]:
    """Problems of an API prompt, one line each; empty for a valid prompt."""
    return [f"node {key}: {line}" for key in prompt for line in _node_problems(prompt, key, info)]


def _node_problems(prompt: Prompt, key: str, info: Info) -> Iterator[str]:
    kind, inputs = prompt[key]["class_type"], prompt[key]["inputs"]
    if kind not in info:
        yield f"unknown class {kind}"
        return
    specs = prompt_inputs(info[kind])
    for name in required_inputs(info[kind]):
        if name not in inputs:
            yield f"{kind} lacks the required input {name}"
    for name, value in inputs.items():
        if name not in specs:
            yield f"{kind} has no input {name}"
        elif isinstance(value, list):
            yield from _link_problems(
                prompt, info, f"{kind}.{name}", input_type(specs[name]), value
            )
        else:
            yield from value_problems(f"{kind}.{name}", specs[name], value)


def _link_problems(
    prompt: Prompt, info: Info, label: str, expected: str, link: list
) -> Iterator[str]:
    source, slot = link
    if source not in prompt:
        yield f"{label} is linked to the node {source}, which does not exist"
        return
    kind = prompt[source]["class_type"]
    outputs = info.get(kind, {}).get("output", [])
    if not 0 <= slot < len(outputs):
        yield f"{label} is linked to output {slot} of {kind}, which has {len(outputs)}"
    elif not types_match(outputs[slot], expected):
        yield f"{label} expects {expected} but is linked to a {outputs[slot]} of {kind}"


def value_problems(label: str, spec: list, value: Any) -> Iterator[str]:
    """Problems of a widget value."""
    kind, options = input_type(spec), spec[1] if len(spec) > 1 else {}
    if kind == "COMBO":
        choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
        if value not in choices:
            yield f"{label} is {value!r}, expected one of {choices}"
        return
    if kind == VIEWPORT:
        return
    python = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}.get(kind)
    if python is None:
        yield f"{label} expects a link to a {kind}, not the value {value!r}"
    elif not isinstance(value, python) or (kind != "BOOLEAN" and isinstance(value, bool)):
        yield f"{label} is {value!r}, which is not of type {kind}"
    elif kind in ("INT", "FLOAT"):
        low, high = options.get("min", value), options.get("max", value)
        if not low <= value <= high:
            yield f"{label} is {value}, outside {low} to {high}"


def node_inputs(node: dict[str, Any]) -> dict[str, list]:
    """Inputs of a class by name, in the front end's widget order: required ones first."""
    groups = node["input"]
    return {**groups.get("required", {}), **groups.get("optional", {})}


def prompt_inputs(node: dict[str, Any]) -> dict[str, list]:
    """Inputs by their name in prompts: a group that grows has one name for each of its inputs."""
    specs = {}
    for name, spec in node_inputs(node).items():
        if input_type(spec) == GROWING:
            template = spec[1]["template"]
            (inner,) = [named for named in template["input"].values() if named]
            each = next(iter(inner.values()))
            indices = range(template["max"])
            specs |= {f"{name}.{template['prefix']}{index}": each for index in indices}
        else:
            specs[name] = spec
    return specs


def required_inputs(node: dict[str, Any]) -> list[str]:
    """Names in prompts of the inputs that must be given."""
    names = []
    for name, spec in node["input"].get("required", {}).items():
        if input_type(spec) == GROWING:
            template = spec[1]["template"]
            names += [f"{name}.{template['prefix']}{index}" for index in range(template["min"])]
        else:
            names.append(name)
    return names


def input_type(spec: list) -> str:
    """Type of an input; a list of choices, as in older nodes, is a COMBO."""
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def types_match(output: Any, expected: str) -> bool:
    """Whether an output can be linked to an input; both may list several types."""
    output = "COMBO" if isinstance(output, list) else output
    if "*" in (output, expected):
        return True
    return bool(set(output.split(",")) & set(expected.split(",")))


def is_widget(spec: list) -> bool:
    """Whether the front end shows the input as a widget and saves its value."""
    options = spec[1] if len(spec) > 1 else {}
    return options.get("widgetType", input_type(spec)) in WIDGETS and not options.get("forceInput")


def prompt_from_graph(graph: dict[str, Any], info: Info) -> tuple[Prompt, list[str]]:
    """Converts a saved graph (UI format) to an API prompt; also returns the problems of the graph.

    Besides the problems of the prompt: dangling links, unknown socket names or types, and too few
    or too many widget values.
    """
    links = {link[0]: link for link in graph["links"]}
    nodes = {node["id"]: node for node in graph["nodes"]}
    prompt: Prompt = {}
    problems = [line for link in links.values() for line in _link_consistency_problems(link, nodes)]
    for node in nodes.values():
        if node["type"] in FRONTEND_ONLY:
            continue
        if node["type"] not in info:
            problems.append(f"node {node['id']}: unknown class {node['type']}")
            continue
        problems += [f"node {node['id']}: {line}" for line in _socket_problems(node, info)]
        values, widget_problems = _widget_values(node, info[node["type"]])
        problems += [f"node {node['id']}: {line}" for line in widget_problems]
        for socket in node.get("inputs", []):
            if socket.get("link") in links:
                _, source, slot, *_ = links[socket["link"]]
                values[socket["name"]] = [str(source), slot]
            elif socket.get("link") is not None:
                problems.append(
                    f"node {node['id']}: {socket['name']} has a link that does not exist"
                )
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values}
    return prompt, problems + prompt_problems(prompt, info)


def _link_consistency_problems(link: list, nodes: dict[int, dict[str, Any]]) -> Iterator[str]:
    """Problems of a link that is not recorded in both of its nodes."""
    link_id, source, slot, target, target_slot, *_ = link
    try:
        in_source = link_id in (nodes[source]["outputs"][slot]["links"] or [])
        in_target = nodes[target]["inputs"][target_slot]["link"] == link_id
    except (KeyError, IndexError):
        in_source = in_target = False
    if not (in_source and in_target):
        yield f"link {link_id} from node {source} to node {target} is not recorded in both nodes"


def _socket_problems(node: dict[str, Any], info: Info) -> Iterator[str]:
    """Unknown sockets; sockets of newer versions may accept more types than the file lists."""
    specs = prompt_inputs(info[node["type"]])
    for socket in node.get("inputs", []):
        if socket["name"] not in specs:
            yield f"{node['type']} has no input {socket['name']}"
        elif not types_match(socket["type"], input_type(specs[socket["name"]])):
            yield f"{node['type']}.{socket['name']} is not of type {socket['type']}"
    outputs = [output["type"] for output in node.get("outputs", [])]
    expected = ["COMBO" if isinstance(t, list) else t for t in info[node["type"]]["output"]]
    if outputs != expected[: len(outputs)]:  # newer versions may have more outputs
        yield f"{node['type']} has the outputs {expected}, the file lists {outputs}"


def _widget_values(node: dict[str, Any], info: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values by input name, without the extra value that the front end adds after each seed."""
    remaining = list(node.get("widgets_values") or [])
    values: dict[str, Any] = {}
    for name, spec in node_inputs(info).items():
        if not is_widget(spec):
            continue
        if not remaining:
            return values, [f"{node['type']} has no value for {name}"]
        values[name] = remaining.pop(0)
        options = spec[1] if len(spec) > 1 else {}
        extra = (
            CONTROL_AFTER_GENERATE
            if options.get("control_after_generate") or name == "seed"
            else set()
        )
        if options.get("image_upload"):
            extra = {"image"}
        if remaining and isinstance(remaining[0], str) and remaining[0] in extra:
            remaining.pop(0)
    return values, [
        f"{node['type']} has more values than widgets: {remaining}"
    ] if remaining else []


INPUT_NODE, OUTPUT_NODE = -10, -20
"""Ids that stand for the sockets of a subgraph."""


def graph_of_subgraph(subgraph: dict[str, Any]) -> dict[str, Any]:
    """The nodes inside a subgraph as a graph; links from and to its sockets are removed."""
    nodes = copy.deepcopy(subgraph["nodes"])
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [[link[key] for key in keys] for link in subgraph["links"]]
    outside = {link[0] for link in links if link[1] == INPUT_NODE or link[3] == OUTPUT_NODE}
    for node in nodes:
        for socket in node["inputs"]:
            socket["link"] = None if socket["link"] in outside else socket["link"]
        for socket in node["outputs"]:
            kept = [link for link in socket["links"] or [] if link not in outside]
            socket["links"] = kept or None
    return {"nodes": nodes, "links": [link for link in links if link[0] not in outside]}


def prompt_from_blueprint(
    blueprint: dict[str, Any], info: Info, values: dict[str, Any]
) -> tuple[Prompt, dict[str, list], list[str]]:
    """Converts a blueprint to an API prompt.

    Args:
        blueprint: a file of subgraphs/, with one node.
        info: /object_info.
        values: widget value or link for sockets of the blueprint's node, by name.

    Returns:
        The prompt of the nodes inside, the links of the outputs by name, and the problems.
    """
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    prompt, _ = prompt_from_graph(graph_of_subgraph(subgraph), info)
    inside = {str(node["id"]): node for node in subgraph["nodes"]}
    problems = [f"there is no input {name}" for name in values]
    outputs: dict[str, list] = {}
    for link in subgraph["links"]:
        if link["origin_id"] == INPUT_NODE:
            name = subgraph["inputs"][link["origin_slot"]]["name"]
            target = str(link["target_id"])
            if name in values:
                problems.remove(f"there is no input {name}")
                socket = inside[target]["inputs"][link["target_slot"]]["name"]
                prompt[target]["inputs"][socket] = values[name]
        elif link["target_id"] == OUTPUT_NODE:
            name = subgraph["outputs"][link["target_slot"]]["name"]
            outputs[name] = [str(link["origin_id"]), link["origin_slot"]]
    return prompt, outputs, problems
