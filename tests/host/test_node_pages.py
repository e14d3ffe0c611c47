"""Help pages and translations say what the schemas say. `dev.py docs` writes what is generated."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .node_pages import Texts, english, ours, with_lists
from .server import PACK, PROJECT

pytestmark = pytest.mark.host

LOCALES = PROJECT / "locales"
DOCS = PROJECT / "web" / "docs"
IS_WRITING = bool(os.environ.get("NOVA3D_WRITE_PAGES"))


@pytest.fixture
def info(client) -> dict:
    return client.object_info()


@pytest.fixture
def newest(info) -> dict:
    """Our nodes on a host that has all their sockets: the pages are made from that."""
    if "model_3d_info" not in info["RenderViews"]["input"].get("optional", {}):
        pytest.skip("this ComfyUI is older than some sockets: the pages are made from a newer one")
    return ours(info)


def kept(language: str) -> Texts:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def page_of(node: str, language: str) -> Path:
    """The page falls back to NODE.md for every language that has no page of its own."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def is_fresh(path: Path, wanted: str) -> bool:
    """Whether a file has the wanted content; when asked to write, it then has."""
    if IS_WRITING:
        path.write_text(wanted, encoding="utf-8")
    return path.read_text(encoding="utf-8") == wanted


def test_english_texts_are_the_schemas(newest):
    wanted = json.dumps(english(newest), ensure_ascii=False, indent=2) + "\n"
    assert is_fresh(LOCALES / "en" / "nodeDefs.json", wanted), "run: python dev.py docs"


def test_english_texts_fit_an_older_host_too(info):
    texts = kept("en")
    for name, node in english(info).items():
        assert node["inputs"].items() <= texts[name]["inputs"].items()
        assert node["outputs"].items() <= texts[name]["outputs"].items()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_lists_of_the_pages_are_the_schemas(newest, language):
    texts = english(newest) if language == "en" else kept(language)
    for name, node in newest.items():
        path = page_of(name, language)
        wanted = with_lists(path.read_text(encoding="utf-8"), node, texts[name], language)
        assert is_fresh(path, wanted), f"{path.name} is stale; run: python dev.py docs"


@pytest.mark.skipif(IS_WRITING, reason="the host still has what was there before")
def test_host_serves_pages_images_and_translations(client, info):
    for name in ours(info):
        for language in ("en", "zh"):
            page = page_of(name, language)
            served = client.get(f"/extensions/{PACK}/docs/{page.relative_to(DOCS).as_posix()}")
            assert served.decode() == page.read_text(encoding="utf-8")
        image = client.get(f"/extensions/{PACK}/docs/images/{name}.webp")
        assert image[8:12] == b"WEBP"
    served = client.get_json("/i18n")
    assert served["zh"]["nodeDefs"] == kept("zh")
    assert served["en"]["nodeDefs"] == kept("en")
