"""Templates, apps, blueprints and the node search, as a user meets them in the front end."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest

from nova3d_core.io.mesh.read import read_mesh

from ..host.client import Client
from ..host.prompts import FAST_SETTINGS, TEMPLATES, fast_settings
from ..host.server import PACK, PROJECT
from ..host.test_workflow_files import APPS, NO_DOWNLOAD
from ..host.workflow_layout import MIN_ZOOM, WINDOW_PX, layout_problems
from .page import Page

pytestmark = [pytest.mark.browser, pytest.mark.host]

MIN_NOTE_FILL = 0.6
SEARCHES = {
    "3d": "NOVA3D",
    "mesh": "NOVA3D",
    "photogrammetry": "Fuse Views into a Surface",
    "photo to mesh": "Fuse Views into a Surface",
    "uv": "Bake Texture from Views",
    "texture": "Bake Texture from Views",
    "bake": "Bake Texture from Views",
    "camera": "Orbit Cameras",
    "normal map": "Sample Multi-View Normals",
    "gaussian splatting": "Fit Splats",
    "3dgs": "Fit Splats",
}
"""What a user types, and the node that must be among the results."""
EXAMPLE = PROJECT / "nova3d_core" / "assets" / "example.png"


@pytest.fixture
def wide_page(page: Page) -> Page:
    """The page in the window for which the templates are laid out."""
    page.tab.set_viewport_size({"width": WINDOW_PX[0], "height": WINDOW_PX[1]})
    return page


@pytest.fixture
def own_image(tmp_path: Path) -> Path:
    """An image that is not in the input folder: the mirrored example."""
    path = tmp_path / "my_bird.png"
    PIL.Image.open(EXAMPLE).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    return path


def set_fast(page: Page, *kept: str) -> None:
    """Settings for a fast run; a user does without. Classes in `kept` keep their values."""
    present = {node["type"] for node in page.nodes()}
    for kind, values in fast_settings(present - set(kept)).items():
        for name, value in values.items():
            page.set_input(kind, name, value)
    page.set_input("DeconflictFusion", "steps_scale", 0.1)


def exported_mesh(page: Page, prefix: str):
    """The newest mesh that a run wrote, fetched as the page does."""
    history = Client(page.url).get_json("/history")
    outputs = list(history.values())[-1]["outputs"]
    files = [file for entry in outputs.values() for file in entry.get("3d", [])]
    (file,) = [file for file in files if file["filename"].startswith(prefix)]
    return Client(page.url).view(file)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_opens_readable(wide_page, name):
    wide_page.load_template(PACK, name)
    wide_page.tab.wait_for_timeout(1500)
    assert wide_page.zoom() >= MIN_ZOOM
    assert layout_problems(wide_page.graph(), Client(wide_page.url).object_info()) == []
    text, area = wide_page.note_heights()
    assert MIN_NOTE_FILL * area <= text <= area
    wide_page.shot(f"opened-{name}")


def test_templates_without_download_come_first(wide_page):
    names = wide_page.cards(PACK)
    wide_page.shot("cards")
    assert names[0] == "image_to_mesh"
    first = names[: len(NO_DOWNLOAD | APPS)]
    assert set(first) == NO_DOWNLOAD | APPS
    assert names[len(first) :] == sorted(names[len(first) :])


def test_own_image_becomes_a_mesh_in_three_actions(wide_page, own_image, tmp_path):
    page = wide_page
    page.load_template(PACK, "image_to_mesh")
    set_fast(page, "DeconflictFusion")

    page.upload_by_mouse("LoadImage", own_image)
    page.choose_by_mouse("DeconflictFusion", "preset", "draft")
    messages = page.run(seconds=480)

    assert (messages["ended"], messages["errors"]) == ("execution_success", [])
    prompt = {node["class_type"]: node["inputs"] for node in page.prompt().values()}
    assert prompt["LoadImage"]["image"].startswith("my_bird")
    assert prompt["DeconflictFusion"]["preset"] == "draft"
    (tmp_path / "mesh.glb").write_bytes(exported_mesh(page, "mesh"))
    mesh = read_mesh(tmp_path / "mesh.glb")
    assert len(mesh.faces) > 500 and mesh.texture is not None
    page.shot("own-image")


def test_own_image_becomes_a_mesh_in_the_app(wide_page, own_image, tmp_path):
    """The app shows only the image, the model and the preset; the same three actions."""
    page = wide_page
    page.load_template(PACK, "image_to_mesh.app")
    page.close_tour()
    set_fast(page, "DeconflictFusion")
    labels = page.tab.locator('[data-testid="builder-widget-label"]').all_inner_texts()
    assert labels == ["image", "model", "preset"]

    page.tab.locator('[data-testid="linear-widgets"] input[type="file"]').first.set_input_files(
        own_image
    )
    page.tab.locator('[data-testid="widget-select-default-trigger"]').last.click()
    page.tab.get_by_role("option", name="draft").click()
    run = page.tab.locator('[data-testid="linear-run-button"]')
    run.get_by_role("button", name="Run", exact=True).click()

    messages = page.wait_for_end(seconds=480)
    assert (messages["ended"], messages["errors"]) == ("execution_success", [])
    prompt = {node["class_type"]: node["inputs"] for node in page.prompt().values()}
    assert prompt["LoadImage"]["image"].startswith("my_bird")
    assert prompt["DeconflictFusion"]["preset"] == "draft"
    page.shot("app-done")


def test_three_nodes_with_a_blueprint_make_a_mesh(wide_page, tmp_path):
    """The shortest graph: ComfyUI's Load Image and Save 3D Model, and our blueprint."""
    page = wide_page
    page.close_tour()
    page.tab.evaluate("() => window.app.graph.clear()")
    blueprint = "Image to Mesh (NOVA3D)"
    for words, title in (
        ("LoadImage", "Load Image"),
        (blueprint, blueprint),
        ("SaveGLB", "Save 3D Model"),
    ):
        page.add_node(words, title)
    page.connect(
        [
            ("Load Image", "IMAGE", blueprint, "image"),
            ("Load Image", "MASK", blueprint, "mask"),
            (blueprint, "mesh", "Save 3D Model", "mesh"),
        ]
    )
    assert len(page.nodes()) == 3
    page.set_input("LoadImage", "image", "nova3d_example.png")
    page.set_blueprint_inputs(FAST_SETTINGS)
    page.set_input("SaveGLB", "filename_prefix", "three/nodes")
    messages = page.run()
    assert (messages["ended"], messages["errors"]) == ("execution_success", [])
    (tmp_path / "mesh.glb").write_bytes(exported_mesh(page, "nodes"))
    mesh = read_mesh(tmp_path / "mesh.glb")
    assert len(mesh.faces) > 500 and mesh.texture is not None
    page.shot("three-nodes")


def test_search_finds_the_nodes(page):
    page.close_tour()
    for words, expected in SEARCHES.items():
        results = page.search(words)
        assert any(expected in text for text in results), (words, results[:10])
    page.shot("search")


def test_blueprints_are_found_by_search(page):
    """By name only: the front end drops the aliases in the blueprints of packs."""
    page.close_tour()
    for path in (PROJECT / "subgraphs").glob("*.json"):
        results = page.search(path.stem.removesuffix(" (NOVA3D)").lower())
        assert any(path.stem in text and "Blueprint" in text for text in results), path.stem


def test_texts_fit_their_nodes(page):
    """No label or value is cut in a new node, in English and Chinese, on the canvas."""
    texts = json.loads((PROJECT / "locales/zh/nodeDefs.json").read_text(encoding="utf-8"))
    for locale in ("en", "zh"):
        page.set_locale(locale)
        try:
            assert page.cut_texts(list(texts)) == []
        finally:
            page.set_locale("en")
