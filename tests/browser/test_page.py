"""The shipped workflows in the real page: load from the templates, run, look at the result."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest

from ..host.models import SVD
from ..host.prompts import API, SMALL
from ..host.server import PACK, PROJECT

pytestmark = [pytest.mark.browser, pytest.mark.host]

WORKFLOWS = sorted(path.stem for path in API.glob("*.json"))
REFUSED = {"image_to_mesh_nova3d": "normals", "sv3d_to_mesh": "silhouette"}
"""What the fusion finds wrong with the views that the small models paint here."""
SOURCES = {"DeconflictFusion", "RenderViews", "SampleOrbit", "SampleMultiviewNormals"}


def load_small(page, name: str) -> None:
    """Loads a workflow and makes it run in seconds."""
    page.load_template(PACK, name)
    here = {node["type"] for node in page.nodes()}
    for kind, values in SMALL.items():
        for field, value in values.items() if kind in here else ():
            page.set_input(kind, field, value)


def shipped(name: str) -> dict:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_template_is_the_prompt_that_ships(page, name):
    page.load_template(PACK, name)
    for node in page.nodes():
        assert node["known"] and not node["red"], node
    seen = {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in page.prompt().items()
        if not node["class_type"].startswith("Preview")
    }
    for node in (wanted := shipped(name)).values():
        node.pop("_meta")
    assert seen == wanted
    page.fit()
    page.shot(name)


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name not in REFUSED])
def test_template_runs_to_its_end(page, name):
    load_small(page, name)
    heard = page.run()
    assert (heard["ended"], heard["errors"]) == ("execution_success", [])
    working = {node["type"] for node in page.nodes()} & SOURCES
    busy = {step["node"] for step in heard["progress"]}
    assert working <= {node["type"] for node in page.nodes() if node["id"] in busy}
    if "DeconflictFusion" in working:
        assert heard["previews"] > 0
    for node in page.nodes():
        assert not node["red"], node
        if node["type"] in ("PreviewImage", "SaveImage", "SaveAnimatedWEBP"):
            assert node["images"] > 0, node
        if node["type"] == "PreviewAny":
            assert len(node["text"]) > 40, node
    page.fit()
    page.shot(f"{name}-done")


@pytest.mark.parametrize("name", REFUSED)
def test_template_paints_views_and_says_what_is_wrong_with_them(page, name):
    """Small models do not paint the knight: their views are shown, and the fusion refuses them."""
    load_small(page, name)
    heard = page.run()
    assert heard["ended"] == "execution_error"
    assert len(heard["errors"]) == 1 and REFUSED[name] in heard["errors"][0]
    assert heard["previews"] > 0
    for node in page.nodes():
        if node["type"] == "PreviewImage":
            assert node["images"] in (16, 21), node
    page.fit()
    page.shot(f"{name}-done")


def test_missing_model_is_told_on_the_page(page):
    """Behind two clicks: the page keeps the words of a node's own validation in its error list."""
    page.load_template(PACK, "sv3d_to_mesh")
    page.set_input("LoadNOVA3D", "model", "gone.safetensors")
    page.tab.locator('[data-testid="queue-button"]').first.click()
    page.tab.get_by_text("View details").first.click(timeout=30_000)
    page.tab.locator('button[aria-label^="Info for"]').first.click()
    told = page.tab.get_by_text("'gone.safetensors' is not in ComfyUI's model folders").first
    told.wait_for()
    assert "sv3d_p.safetensors (9.37 GB" in told.inner_text()
    assert [node["type"] for node in page.nodes() if node["red"]] == ["LoadNOVA3D"]
    page.shot("missing-model")


def test_file_of_another_model_is_told_on_the_page(page):
    page.load_template(PACK, "sv3d_to_mesh")
    page.set_input("LoadNOVA3D", "model", SVD)
    page.tab.locator('[data-testid="queue-button"]').first.click()
    page.tab.get_by_text("View details").first.click(timeout=30_000)
    page.tab.get_by_text("is base Stable Video Diffusion").first.wait_for()
    page.shot("other-model")


def test_mesh_turns_in_the_preview(page):
    load_small(page, "views_to_mesh")
    assert page.run()["ended"] == "execution_success"
    page.fit()
    before = page.viewer_image()
    assert reddest(before) > 40  # the knight's cloak: the texture has arrived
    page.drag_viewer(60)
    after = page.viewer_image()
    changed = np.abs(pixels(before) - pixels(after)).max(axis=2) > 30
    assert changed.mean() > 0.02
    page.shot("turned")


def test_help_page_opens_with_its_image(page):
    page.load_template(PACK, "mesh_to_turntable")
    page.open_help("RenderViews")
    page.tab.get_by_role("heading", name="Render Views of a Mesh").wait_for(timeout=30_000)
    image = page.tab.locator("img[src$='images/RenderViews.webp']")
    image.wait_for()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    assert page.tab.get_by_text("Rays along each side of a pixel").count() == 1
    page.shot("help")


def test_chinese_page_has_chinese_nodes(page):
    texts = json.loads((PROJECT / "locales/zh/nodeDefs.json").read_text(encoding="utf-8"))
    page.tab.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    try:
        page.open()
        page.tab.wait_for_timeout(2000)
        for kind, shown in zip(texts, page.translated(list(texts)), strict=True):
            assert shown[0] == texts[kind]["display_name"]
            names = [entry["name"] for entry in texts[kind]["outputs"].values()]
            assert shown[1:] == names[: len(shown) - 1]
    finally:
        page.tab.evaluate("() => window.app.extensionManager.setting.set('Comfy.Locale', 'en')")


def pixels(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def reddest(image: PIL.Image.Image) -> int:
    """How much redder than green the reddest part is, of 255."""
    values = pixels(image)
    return int((values[..., 0] - values[..., 1]).max())
