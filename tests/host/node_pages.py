"""What is generated of the help pages and translations: everything that the schemas already say."""

from __future__ import annotations

import re
from typing import Any

from .server import PACK
from .workflow_check import inputs_of, type_of

Texts = dict[str, dict[str, Any]]
"""What locales/LANGUAGE/nodeDefs.json holds: names and tooltips by node id."""

WORDS = {
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
        "file": "或三维文件",
    },
}
SECTION = r"(<!-- generated: {} -->\n).*?(<!-- end -->)"


def ours(info: dict[str, Any]) -> dict[str, Any]:
    """The pack's nodes in a host's /object_info."""
    return {name: node for name, node in info.items() if node["python_module"].endswith(f".{PACK}")}


def english(info: dict[str, Any]) -> Texts:
    """The schemas' own texts in the form of a translation."""
    return {
        name: {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": {
                key: {"name": key, "tooltip": spec[1]["tooltip"]}
                for key, spec in inputs_of(node).items()
            },
            "outputs": {
                str(at): {"name": label, "tooltip": tooltip}
                for at, (label, tooltip) in enumerate(
                    zip(node["output_name"], node["output_tooltips"], strict=True)
                )
            },
        }
        for name, node in ours(info).items()
    }


def with_lists(page: str, node: dict[str, Any], texts: dict[str, Any], language: str) -> str:
    """A help page with its generated sections made anew.

    Lists, not tables: the page shows help in a narrow strip, which cuts tables off.

    Raises:
        ValueError: the page lacks the place of a list.
    """
    lists = {
        "inputs": _input_list(node, texts, WORDS[language]),
        "outputs": _output_list(node, texts),
    }
    for name, made in lists.items():
        page, count = re.subn(
            SECTION.format(name), lambda at, made=made: at[1] + made + at[2], page, flags=re.S
        )
        if count != 1:
            raise ValueError(f"expected one place for the list of {name}, found {count}")
    return page


def _input_list(node: dict[str, Any], texts: dict[str, Any], words: dict[str, str]) -> str:
    optional = node["input"].get("optional", {})
    lines = []
    for key, spec in inputs_of(node).items():
        options, said = spec[1], texts["inputs"][key]
        facts = [_kind(type_of(spec), words["file"]), _range(spec)]
        if options.get("default") is not None:
            facts.append(f"{words['default']} {_spoken(options['default'])}")
        facts += [words["optional"]] * (key in optional)
        facts += [words["advanced"]] * bool(options.get("advanced"))
        label = f"`{key}`" if said["name"] == key else f"{said['name']} `{key}`"
        lines.append(f"- **{label}** {said['tooltip']} *({'; '.join(filter(None, facts))})*\n")
    return "".join(lines)


def _output_list(node: dict[str, Any], texts: dict[str, Any]) -> str:
    said = [texts["outputs"][str(at)] for at in range(len(node["output"]))]
    return "".join(
        f"- **{each['name']}** {each['tooltip']} *({_kind(kind, '')})*\n"
        for each, kind in zip(said, node["output"], strict=True)
    )


def _kind(kind: str, or_file: str) -> str:
    """A socket's types, the many of 3D files as one."""
    kinds = kind.split(",")
    plain = [name for name in kinds if not name.startswith("FILE_3D")] or kinds
    return " / ".join(plain) + (f" {or_file}" if len(plain) < len(kinds) else "")


def _range(spec: list) -> str:
    """The range of a number; the choices of a list, unless they are what lies in a folder."""
    options = spec[1]
    if type_of(spec) in ("INT", "FLOAT"):
        return f"{_spoken(options['min'])} … {_spoken(options['max'])}"
    if type_of(spec) == "COMBO" and options.get("default") is not None:
        return ", ".join(options["options"])
    return ""


def _spoken(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
