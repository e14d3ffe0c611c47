"""Every text has its translation, every node its page and image; nothing is left over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
MEANT_FOR_THE_PAGE = re.compile(r"[{}@|]")
"""The page's translator would take these for its own signs."""
CHINESE = re.compile(r"[\u4e00-\u9fff]")
EXPLAINED = re.compile(r"(?:^|; )([a-z][a-z0-9_]+):")
"""The choices that an English tooltip explains."""
SAME_IN_CHINESE = {"UV"}


def texts(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / name).read_text(encoding="utf-8"))


def leaves(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """All texts with the keys that lead to them."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.mark.parametrize("name", ["nodeDefs.json", "main.json"])
def test_chinese_is_complete_and_nothing_is_stale(name):
    english, chinese = dict(leaves(texts("en", name))), dict(leaves(texts("zh", name)))
    assert set(chinese) == set(english)
    for path, text in chinese.items():
        assert CHINESE.search(text) or text in SAME_IN_CHINESE, path


def test_choices_keep_their_names_in_chinese():
    """The page shows choices untranslated: a tooltip that explains one must name it the same."""
    english, chinese = dict(leaves(texts("en", "nodeDefs.json"))), texts("zh", "nodeDefs.json")
    words = {path: set(EXPLAINED.findall(text)) for path, text in english.items()}
    for (node, *path, last), named in words.items():
        if last == "tooltip" and path[0] == "inputs":
            said = chinese[node]["inputs"][path[1]]["tooltip"]
            assert all(word in said for word in named), (node, path)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_hold_no_signs_of_the_pages_translator(language):
    for path, text in leaves(texts(language, "nodeDefs.json")):
        assert not MEANT_FOR_THE_PAGE.search(text), path


def test_every_node_has_its_pages_and_its_image():
    nodes = set(texts("en", "nodeDefs.json"))
    assert {path.stem for path in DOCS.glob("*.md")} == nodes
    assert {path.parent.name for path in DOCS.glob("*/zh.md")} == nodes
    assert {path.stem for path in (DOCS / "images").iterdir()} == nodes
    for path in (DOCS / "images").iterdir():
        assert path.stat().st_size < 60_000 and PIL.Image.open(path).width <= 1000


def test_pages_explain_and_show():
    for path in [*DOCS.glob("*.md"), *DOCS.glob("*/zh.md")]:
        page = path.read_text(encoding="utf-8")
        node = path.stem if path.parent == DOCS else path.parent.name
        own = re.sub(r"<!-- generated.*?<!-- end -->", "", page, flags=re.S)
        assert len(own) > (700 if path.parent == DOCS else 300), path
        assert own.count("\n## ") >= 4, path  # inputs, outputs, typical values, what goes wrong
        images = re.findall(r"!\[.+\]\((.+?)\)", page)
        assert images == [f"images/{node}.webp"], path  # the page looks in docs/ for all of them
