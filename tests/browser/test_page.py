"""The shipped workflows in the front end: load as template, run, check the result."""

from __future__ import annotations

import json
import zlib

import numpy as np
import PIL.Image
import pytest

from ..host.client import Client
from ..host.models import SVD
from ..host.prompts import API, TEMPLATES, fast_settings
from ..host.server import PACK, PROJECT
from ..host.test_sampling import square_image, uploaded

pytestmark = [pytest.mark.browser, pytest.mark.host]

REJECTED = {"image_to_mesh_nova3d": "normals"}
"""Why the fusion rejects the views that the small models generate."""
NOT_RUN = {"photo_to_mesh"}
"""There is no small model for ComfyUI's Remove Background."""
SOURCES = {"DeconflictFusion", "RenderViews", "SampleOrbit", "SampleMultiviewNormals"}


def load_fast(page, name: str) -> None:
    """Loads a workflow with settings for a fast run."""
    page.load_template(PACK, name)
    node_types = {node["type"] for node in page.nodes()}
    for kind, values in fast_settings(node_types).items():
        for field, value in values.items():
            page.set_input(kind, field, value)
    if "SampleOrbit" in node_types:  # the small models generate red squares, whatever the image
        square = uploaded(Client(page.url), square_image(), "square.png")["inputs"]["image"]
        page.set_input("LoadImage", "image", square)
    for kind in node_types & {"SampleOrbit", "SampleMultiviewNormals", "SampleRecursive"}:
        # a seed of its own: ComfyUI does not run a node again whose inputs are those of another run
        if name not in REJECTED:
            page.set_input(kind, "seed", zlib.crc32(name.encode()))


def load_prompt(name: str) -> dict:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_equals_the_shipped_prompt(page, name):
    page.load_template(PACK, name)
    for node in page.nodes():
        assert node["known"] and not node["red"], node
    actual = {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for key, node in page.prompt().items()
        if not node["class_type"].startswith("Preview")
    }
    for node in (expected := load_prompt(name)).values():
        node.pop("_meta")
    assert actual == expected
    page.fit()
    page.shot(name)


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - set(REJECTED) - NOT_RUN))
def test_template_runs_successfully(page, name):
    load_fast(page, name)
    messages = page.run()
    assert (messages["ended"], messages["errors"]) == ("execution_success", [])
    sources = {node["type"] for node in page.nodes()} & SOURCES
    reported = {step["node"] for step in messages["progress"]}
    assert sources <= {node["type"] for node in page.nodes() if node["id"] in reported}
    if "DeconflictFusion" in sources:
        assert messages["previews"] > 0
    for node in page.nodes():
        assert not node["red"], node
        if node["type"] in ("PreviewImage", "SaveImage", "SaveAnimatedWEBP"):
            assert node["images"] > 0, node
        if node["type"] == "PreviewAny":
            assert len(node["text"]) > 40, node
    page.fit()
    page.shot(f"{name}-done")


@pytest.mark.parametrize("name", REJECTED)
def test_template_shows_views_and_why_the_fusion_rejects_them(page, name):
    """The views of the small models are shown in the page, and the fusion rejects them."""
    load_fast(page, name)
    messages = page.run()
    assert messages["ended"] == "execution_error"
    assert len(messages["errors"]) == 1 and REJECTED[name] in messages["errors"][0]
    assert messages["previews"] > 0
    for node in page.nodes():
        if node["type"] == "PreviewImage":
            assert node["images"] in (16, 21), node
    page.fit()
    page.shot(f"{name}-done")


def test_missing_model_is_reported_in_the_page(page):
    """Two clicks away: the front end shows a node's validation message in its error list."""
    page.load_template(PACK, "sv3d_to_mesh")
    page.set_input("LoadNOVA3D", "model", "gone.safetensors")
    page.tab.locator('[data-testid="queue-button"]').first.click()
    page.tab.get_by_text("View details").first.click(timeout=30_000)
    page.tab.locator('button[aria-label^="Info for"]').first.click()
    message = page.tab.get_by_text("'gone.safetensors' is not in ComfyUI's model folders").first
    message.wait_for()
    assert "sv3d_p.safetensors (9.37 GB" in message.inner_text()
    assert [node["type"] for node in page.nodes() if node["red"]] == ["LoadNOVA3D"]
    page.shot("missing-model")


def test_file_of_another_model_is_reported_in_the_page(page):
    page.load_template(PACK, "sv3d_to_mesh")
    page.set_input("LoadNOVA3D", "model", SVD)
    page.tab.locator('[data-testid="queue-button"]').first.click()
    page.tab.get_by_text("View details").first.click(timeout=30_000)
    page.tab.get_by_text("is base Stable Video Diffusion").first.wait_for()
    page.shot("other-model")


def test_mesh_rotates_in_the_preview(page):
    load_fast(page, "views_to_mesh")
    assert page.run()["ended"] == "execution_success"
    page.fit()
    before = page.viewer_image()
    assert max_redness(before) > 40  # the knight's cloak: the texture is loaded
    page.drag_viewer(60)
    after = page.viewer_image()
    changed = np.abs(pixels(before) - pixels(after)).max(axis=2) > 30
    assert changed.mean() > 0.02
    page.shot("rotated")


def test_help_page_opens_with_its_image(page):
    page.load_template(PACK, "mesh_to_turntable")
    page.open_help("RenderViews")
    page.tab.get_by_role("heading", name="Render Views of a Mesh").wait_for(timeout=30_000)
    image = page.tab.locator("img[src$='images/RenderViews.webp']")
    image.wait_for()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    assert page.tab.get_by_text("Antialiasing: rays per pixel along each axis").count() == 1
    page.shot("help")


def test_nodes_are_translated_to_chinese(page):
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


def max_redness(image: PIL.Image.Image) -> int:
    """Maximum difference of red and green, in 0..255."""
    values = pixels(image)
    return int((values[..., 0] - values[..., 1]).max())
