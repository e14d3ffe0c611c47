"""What is wrong with a workflow file, asked of a live host's /object_info."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Prompt = dict[str, dict[str, Any]]
Info = dict[str, dict[str, Any]]

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
PAGE_ONLY = {"Note", "MarkdownNote"}
"""Nodes that live in the page alone: the server never hears of them."""
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
"""What the page puts after a seed's value."""


def prompt_problems(prompt: Prompt, info: Info) -> list[str]:
    """One line for each thing the host would not take in an API prompt; empty if it is fine."""
    return [f"node {key}: {line}" for key in prompt for line in _node_problems(prompt, key, info)]


def _node_problems(prompt: Prompt, key: str, info: Info) -> Iterator[str]:
    kind, given = prompt[key]["class_type"], prompt[key]["inputs"]
    if kind not in info:
        yield f"this host has no class {kind}"
        return
    known = inputs_of(info[kind])
    for name in info[kind]["input"].get("required", {}):
        if name not in given:
            yield f"{kind} needs the input {name}"
    for name, value in given.items():
        if name not in known:
            yield f"{kind} has no input {name}"
        elif isinstance(value, list):
            yield from _link_problems(prompt, info, f"{kind}.{name}", type_of(known[name]), value)
        else:
            yield from value_problems(f"{kind}.{name}", known[name], value)


def _link_problems(
    prompt: Prompt, info: Info, place: str, wanted: str, link: list
) -> Iterator[str]:
    source, slot = link
    if source not in prompt:
        yield f"{place} is linked to the node {source}, which is not there"
        return
    kind = prompt[source]["class_type"]
    outputs = info.get(kind, {}).get("output", [])
    if not 0 <= slot < len(outputs):
        yield f"{place} is linked to output {slot} of {kind}, which has {len(outputs)}"
    elif not types_fit(outputs[slot], wanted):
        yield f"{place} takes {wanted} and is linked to a {outputs[slot]} of {kind}"


def value_problems(place: str, spec: list, value: Any) -> Iterator[str]:
    """What is wrong with a widget's value."""
    kind, options = type_of(spec), spec[1] if len(spec) > 1 else {}
    if kind == "COMBO":
        choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
        if value not in choices:
            yield f"{place} is {value!r}, expected one of {choices}"
        return
    python = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}.get(kind)
    if python is None:
        yield f"{place} takes a link to a {kind}, not the value {value!r}"
    elif not isinstance(value, python) or (kind != "BOOLEAN" and isinstance(value, bool)):
        yield f"{place} is {value!r}, which is no {kind}"
    elif kind in ("INT", "FLOAT"):
        low, high = options.get("min", value), options.get("max", value)
        if not low <= value <= high:
            yield f"{place} is {value}, outside {low} to {high}"


def inputs_of(node: dict[str, Any]) -> dict[str, list]:
    """A class's inputs by name, required ones first, as the page orders its widgets."""
    groups = node["input"]
    return {**groups.get("required", {}), **groups.get("optional", {})}


def type_of(spec: list) -> str:
    """An input's type; lists of choices, as older nodes give them, are a COMBO too."""
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def types_fit(given: Any, wanted: str) -> bool:
    """Whether an output may be linked to an input; either may name several types."""
    given = "COMBO" if isinstance(given, list) else given
    if "*" in (given, wanted):
        return True
    return bool(set(given.split(",")) & set(wanted.split(",")))


def is_widget(spec: list) -> bool:
    """Whether the page draws the input as a field and keeps its value."""
    options = spec[1] if len(spec) > 1 else {}
    return options.get("widgetType", type_of(spec)) in WIDGETS and not options.get("forceInput")


def prompt_of(graph: dict[str, Any], info: Info) -> tuple[Prompt, list[str]]:
    """A saved page (UI format) as the API prompt that the page would queue, and what is wrong.

    Checks what only the page's format can have wrong: dangling links, sockets whose name or type
    is not the host's, and too few or too many widget values.
    """
    links = {link[0]: link for link in graph["links"]}
    nodes = {node["id"]: node for node in graph["nodes"]}
    prompt: Prompt = {}
    problems = [line for link in links.values() for line in _dangling(link, nodes)]
    for node in nodes.values():
        if node["type"] in PAGE_ONLY:
            continue
        if node["type"] not in info:
            problems.append(f"node {node['id']}: this host has no class {node['type']}")
            continue
        problems += [f"node {node['id']}: {line}" for line in _socket_problems(node, info)]
        values, wrong = _widget_values(node, info[node["type"]])
        problems += [f"node {node['id']}: {line}" for line in wrong]
        for socket in node.get("inputs", []):
            if socket.get("link") in links:
                _, source, slot, *_ = links[socket["link"]]
                values[socket["name"]] = [str(source), slot]
            elif socket.get("link") is not None:
                problems.append(f"node {node['id']}: {socket['name']} has a link that is not there")
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values}
    return prompt, problems + prompt_problems(prompt, info)


def _dangling(link: list, nodes: dict[int, dict[str, Any]]) -> Iterator[str]:
    """Links whose two ends do not both know of them."""
    number, source, slot, target, place, *_ = link
    try:
        knows_start = number in (nodes[source]["outputs"][slot]["links"] or [])
        knows_end = nodes[target]["inputs"][place]["link"] == number
    except (KeyError, IndexError):
        knows_start = knows_end = False
    if not (knows_start and knows_end):
        yield f"link {number} from node {source} to node {target} is not in both its nodes"


def _socket_problems(node: dict[str, Any], info: Info) -> Iterator[str]:
    """Sockets that are not the host's; a newer host's may take more types than the file says."""
    known = inputs_of(info[node["type"]])
    for socket in node.get("inputs", []):
        if socket["name"] not in known:
            yield f"{node['type']} has no input {socket['name']}"
        elif not types_fit(socket["type"], type_of(known[socket["name"]])):
            yield f"{node['type']}.{socket['name']} is not of type {socket['type']}"
    has = [out["type"] for out in node.get("outputs", [])]
    wanted = ["COMBO" if isinstance(t, list) else t for t in info[node["type"]]["output"]]
    if has != wanted[: len(has)]:  # newer hosts' nodes may have more; the page adds them
        yield f"{node['type']} has the outputs {wanted}, the file says {has}"


def _widget_values(node: dict[str, Any], info: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values by input name; the page adds one after each seed, for what follows a run."""
    left = list(node.get("widgets_values") or [])
    values: dict[str, Any] = {}
    for name, spec in inputs_of(info).items():
        if not is_widget(spec):
            continue
        if not left:
            return values, [f"{node['type']} has no value for {name}"]
        values[name] = left.pop(0)
        options = spec[1] if len(spec) > 1 else {}
        extra = AFTER_GENERATE if options.get("control_after_generate") or name == "seed" else set()
        if options.get("image_upload"):
            extra = {"image"}
        if left and isinstance(left[0], str) and left[0] in extra:
            left.pop(0)
    return values, [f"{node['type']} has more values than widgets: {left}"] if left else []
