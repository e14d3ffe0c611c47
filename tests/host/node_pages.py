"""Generated parts of help pages and translations: texts, types and ranges from the schemas."""

from __future__ import annotations

import re
from typing import Any

from .server import PACK
from .workflow_check import GROWING, input_type, node_inputs, prompt_inputs

Texts = dict[str, dict[str, Any]]
"""Content of locales/LANGUAGE/nodeDefs.json: names and tooltips by node id."""

LABELS = {
    "en": {
        "optional": "optional",
        "advanced": "advanced",
        "default": "default",
        "file": "or a 3D file",
    },
    "zh": {
        "optional": "可选",
        "advanced": "高级",
        "default": "默认值",
        "file": "或 3D 文件",
    },
}
SECTION = r"(<!-- generated: {} -->\n).*?(<!-- end -->)"


def pack_nodes(info: dict[str, Any]) -> dict[str, Any]:
    """The pack's nodes in ComfyUI's /object_info."""
    return {name: node for name, node in info.items() if node["python_module"].endswith(f".{PACK}")}


def english_texts(info: dict[str, Any]) -> Texts:
    """The texts of the schemas in the format of a translation."""
    return {
        name: {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": {
                key: {"name": key, "tooltip": spec[1]["tooltip"]}
                for key, spec in node_inputs(node).items()
            },
            "outputs": {
                str(index): {"name": label, "tooltip": tooltip}
                for index, (label, tooltip) in enumerate(
                    zip(node["output_name"], node["output_tooltips"], strict=True)
                )
            },
        }
        for name, node in pack_nodes(info).items()
    }


def update_lists(page: str, node: dict[str, Any], texts: dict[str, Any], language: str) -> str:
    """A help page with updated generated sections.

    Lists instead of tables: the front end shows help in a narrow panel, which cuts off tables.

    Raises:
        ValueError: the page lacks the markers of a section.
    """
    lists = {
        "inputs": _input_list(node, texts, LABELS[language]),
        "outputs": _output_list(node, texts),
    }
    for name, content in lists.items():
        page, count = re.subn(
            SECTION.format(name), lambda m, content=content: m[1] + content + m[2], page, flags=re.S
        )
        if count != 1:
            raise ValueError(f"expected one section for {name}, found {count}")
    return page


def _input_list(node: dict[str, Any], texts: dict[str, Any], labels: dict[str, str]) -> str:
    optional = node["input"].get("optional", {})
    lines = []
    for key, spec in node_inputs(node).items():
        options, text = spec[1], texts["inputs"][key]
        properties = [_type_names(_shown_type(spec), labels["file"]), _range(spec)]
        if options.get("default") is not None:
            properties.append(f"{labels['default']} {_format(options['default'])}")
        properties += [labels["optional"]] * (key in optional)
        properties += [labels["advanced"]] * bool(options.get("advanced"))
        label = f"`{key}`" if text["name"] == key else f"{text['name']} `{key}`"
        lines.append(f"- **{label}** {text['tooltip']} *({'; '.join(filter(None, properties))})*\n")
    return "".join(lines)


def _output_list(node: dict[str, Any], texts: dict[str, Any]) -> str:
    outputs = [texts["outputs"][str(index)] for index in range(len(node["output"]))]
    return "".join(
        f"- **{text['name']}** {text['tooltip']} *({_type_names(types, '')})*\n"
        for text, types in zip(outputs, node["output"], strict=True)
    )


def _type_names(types: str, or_file: str) -> str:
    """Types of a socket; the many types of 3D files become one."""
    names = types.split(",")
    other = [name for name in names if not name.startswith("FILE_3D")] or names
    return " / ".join(other) + (f" {or_file}" if len(other) < len(names) else "")


def _shown_type(spec: list) -> str:
    """Type of an input; for a group that grows, the type of its inputs."""
    if input_type(spec) != GROWING:
        return input_type(spec)
    (each, *_) = prompt_inputs({"input": {"required": {"group": spec}}}).values()
    return input_type(each)


def _range(spec: list) -> str:
    """Range of a number or of a number of inputs, or choices that are not files of a folder."""
    options = spec[1]
    if input_type(spec) == GROWING:
        return f"{options['template']['min']} … {options['template']['max']}"
    if input_type(spec) in ("INT", "FLOAT"):
        return f"{_format(options['min'])} … {_format(options['max'])}"
    if input_type(spec) == "COMBO" and options.get("default") is not None:
        return ", ".join(options["options"])
    return ""


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
