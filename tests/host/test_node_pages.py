"""Help pages and translations match the schemas. `dev.py docs` updates their generated parts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .node_pages import Texts, english_texts, pack_nodes, update_lists
from .server import PACK, PROJECT

pytestmark = pytest.mark.host

LOCALES = PROJECT / "locales"
DOCS = PROJECT / "web" / "docs"
IS_UPDATING = bool(os.environ.get("NOVA3D_WRITE_PAGES"))


@pytest.fixture
def info(client) -> dict:
    return client.object_info()


@pytest.fixture
def newest_nodes(info) -> dict:
    """Our nodes on a ComfyUI that has all socket types, from which the pages are generated."""
    if "model_3d_info" not in info["RenderViews"]["input"].get("optional", {}):
        pytest.skip("the pages are generated from a newer ComfyUI, which has all socket types")
    return pack_nodes(info)


def load_texts(language: str) -> Texts:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def page_path(node: str, language: str) -> Path:
    """Help page of a node; NODE.md is English and the fallback for other languages."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def is_up_to_date(path: Path, expected: str) -> bool:
    """Whether a file has the expected content; updates it first in update mode."""
    if IS_UPDATING:
        path.write_text(expected, encoding="utf-8")
    return path.read_text(encoding="utf-8") == expected


def test_english_texts_match_the_schemas(newest_nodes):
    expected = json.dumps(english_texts(newest_nodes), ensure_ascii=False, indent=2) + "\n"
    assert is_up_to_date(LOCALES / "en" / "nodeDefs.json", expected), "run: python dev.py docs"


def test_english_texts_match_older_versions(info):
    texts = load_texts("en")
    for name, node in english_texts(info).items():
        for key, text in node["inputs"].items():
            group = key.partition(".")[0]  # of NAME.NAME_0, where inputs cannot grow
            assert texts[name]["inputs"][group]["tooltip"] == text["tooltip"]
        assert node["outputs"].items() <= texts[name]["outputs"].items()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_generated_lists_match_the_schemas(newest_nodes, language):
    texts = english_texts(newest_nodes) if language == "en" else load_texts(language)
    for name, node in newest_nodes.items():
        path = page_path(name, language)
        expected = update_lists(path.read_text(encoding="utf-8"), node, texts[name], language)
        assert is_up_to_date(path, expected), f"{path.name} is outdated; run: python dev.py docs"


@pytest.mark.skipif(IS_UPDATING, reason="the server has the previous files")
def test_server_provides_pages_images_and_translations(client, info):
    for name in pack_nodes(info):
        for language in ("en", "zh"):
            page = page_path(name, language)
            served = client.get(f"/extensions/{PACK}/docs/{page.relative_to(DOCS).as_posix()}")
            assert served.decode() == page.read_text(encoding="utf-8")
        image = client.get(f"/extensions/{PACK}/docs/images/{name}.webp")
        assert image[8:12] == b"WEBP"
    served = client.get_json("/i18n")
    assert served["zh"]["nodeDefs"] == load_texts("zh")
    assert served["en"]["nodeDefs"] == load_texts("en")
