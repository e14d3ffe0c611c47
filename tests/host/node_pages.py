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
        "inputs": ("Input", "What it is"),
        "outputs": ("Output", "What it is"),
        "optional": "optional",
        "advanced": "advanced",
        "default": "default",
        "file": "or a 3D file",
    },
    "zh": {
        "inputs": ("输入", "说明"),
        "outputs": ("输出", "说明"),
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


def with_tables(page: str, node: dict[str, Any], texts: dict[str, Any], language: str) -> str:
    """A help page with its generated sections made anew.

    Raises:
        ValueError: the page lacks the place of a table.
    """
    tables = {
        "inputs": _input_table(node, texts, language),
        "outputs": _output_table(node, texts, language),
    }
    for name, table in tables.items():
        page, count = re.subn(
            SECTION.format(name), lambda at, table=table: at[1] + table + at[2], page, flags=re.S
        )
        if count != 1:
            raise ValueError(f"expected one place for the table of {name}, found {count}")
    return page


def _input_table(node: dict[str, Any], texts: dict[str, Any], language: str) -> str:
    """Two columns: the page shows its help in a narrow strip."""
    words = WORDS[language]
    optional = node["input"].get("optional", {})
    rows = []
    for key, spec in inputs_of(node).items():
        options, said = spec[1], texts["inputs"][key]
        facts = [_kind(type_of(spec), words["file"]), _range(spec)]
        if options.get("default") is not None:
            facts.append(f"{words['default']} {_spoken(options['default'])}")
        facts += [words["optional"]] * (key in optional)
        facts += [words["advanced"]] * bool(options.get("advanced"))
        label = f"`{key}`" if said["name"] == key else f"{said['name']} `{key}`"
        rows.append((label, f"{said['tooltip']}<br>*{'; '.join(filter(None, facts))}*"))
    return _table(words["inputs"], rows)


def _output_table(node: dict[str, Any], texts: dict[str, Any], language: str) -> str:
    said = [texts["outputs"][str(at)] for at in range(len(node["output"]))]
    rows = [
        (each["name"], f"{each['tooltip']}<br>*{_kind(kind, '')}*")
        for each, kind in zip(said, node["output"], strict=True)
    ]
    return _table(WORDS[language]["outputs"], rows)


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


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
