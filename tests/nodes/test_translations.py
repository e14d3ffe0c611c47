"""Every text is translated, every node has a help page with an image; nothing is stale."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
I18N_SYNTAX = re.compile(r"[{}@|]")
"""Characters that the front end's i18n library would interpret."""
CHINESE = re.compile(r"[\u4e00-\u9fff]")
EXPLAINED_CHOICE = re.compile(r"(?:^|; )([a-z][a-z0-9_]+):")
"""A choice that an English tooltip explains."""
SAME_IN_CHINESE = {"UV"}


def load_texts(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / name).read_text(encoding="utf-8"))


def leaves(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """All texts with their key paths."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.mark.parametrize("name", ["nodeDefs.json", "main.json"])
def test_chinese_has_the_same_keys_and_is_chinese(name):
    english, chinese = dict(leaves(load_texts("en", name))), dict(leaves(load_texts("zh", name)))
    assert set(chinese) == set(english)
    for path, text in chinese.items():
        assert CHINESE.search(text) or text in SAME_IN_CHINESE, path


def test_choice_names_are_not_translated():
    """The front end shows choices untranslated, so tooltips must use their original names."""
    english, chinese = (
        dict(leaves(load_texts("en", "nodeDefs.json"))),
        load_texts("zh", "nodeDefs.json"),
    )
    choices = {path: set(EXPLAINED_CHOICE.findall(text)) for path, text in english.items()}
    for (node, *path, last), names in choices.items():
        if last == "tooltip" and path[0] == "inputs":
            tooltip = chinese[node]["inputs"][path[1]]["tooltip"]
            assert all(name in tooltip for name in names), (node, path)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_contain_no_i18n_syntax(language):
    for path, text in leaves(load_texts(language, "nodeDefs.json")):
        assert not I18N_SYNTAX.search(text), path


def test_every_node_has_help_pages_and_an_image():
    nodes = set(load_texts("en", "nodeDefs.json"))
    assert {path.stem for path in DOCS.glob("*.md")} == nodes
    assert {path.parent.name for path in DOCS.glob("*/zh.md")} == nodes
    assert {path.stem for path in (DOCS / "images").iterdir()} == nodes
    for path in (DOCS / "images").iterdir():
        assert path.stat().st_size < 60_000 and PIL.Image.open(path).width <= 1000


def test_help_pages_have_text_sections_and_an_image():
    for path in [*DOCS.glob("*.md"), *DOCS.glob("*/zh.md")]:
        page = path.read_text(encoding="utf-8")
        node = path.stem if path.parent == DOCS else path.parent.name
        handwritten = re.sub(r"<!-- generated.*?<!-- end -->", "", page, flags=re.S)
        assert len(handwritten) > (700 if path.parent == DOCS else 300), path
        assert handwritten.count("\n## ") >= 4, (
            path
        )  # inputs, outputs, typical values, what goes wrong
        images = re.findall(r"!\[.+\]\((.+?)\)", page)
        assert images == [f"images/{node}.webp"], path  # relative to docs/, also for translations
