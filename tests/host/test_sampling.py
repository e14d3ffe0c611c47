"""An image becomes views, with small models in the layouts of the real ones."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import numpy as np
import PIL.Image
import pytest

from nova3d_core.io.views.transforms_json import read_views

from .client import Client, Refused, Run
from .models import NOVA3D, OTHERS, SV3D_P, SV3D_U, SVD, V3D
from .prompts import key_of, node, shipped, with_inputs
from .test_run_workflows import done, fetched_mesh
from .workflow_check import Prompt

pytestmark = pytest.mark.host

SETTINGS = {"guidance": "auto", "min_guidance_scale": 1.0, "max_guidance_scale": 2.5}


def sampled(kind: str, model: str, image: list | None = None, **inputs: Any) -> Prompt:
    """An image of the knight, a model, its views saved, its images shown."""
    settings = {"seed": 0, "steps": 1, "size": 64, **SETTINGS}
    settings |= {"elevation": 0.0} if kind == "SampleOrbit" else {}
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("ImageFromBatch", image=["1", 1], batch_index=0, length=1),
        "3": node("LoadNOVA3D", model=model, dtype="auto"),
        "4": node(kind, model=["3", 0], image=image or ["2", 0], **(settings | inputs)),
        "5": node("SaveViews", views=["4", 0], filename_prefix="sampled/views"),
        "6": node("SaveImage", images=["4", 1], filename_prefix="sampled/colour"),
    }
    return prompt if image is None else {k: v for k, v in prompt.items() if k not in "12"}


def images(client: Client, run: Run, key: str) -> list[np.ndarray]:
    """What a SaveImage node saved, (H, W, 3) each."""
    files = client.history(run.prompt_id)["outputs"][key]["images"]
    return [np.asarray(PIL.Image.open(io.BytesIO(client.view(file)))) for file in files]


def complaint(client: Client, prompt: Prompt) -> str:
    """The failed node's message with its class; or the refusal of a wrong input."""
    try:
        run = client.run(prompt)
    except Refused as refused:
        return refused.body
    if run.refused:
        return json.dumps(run.refused)
    assert run.error is not None, "the prompt ran although its input is wrong"
    return f"{run.error['node_type']}: {run.error['exception_message']}"


@pytest.mark.parametrize(("name", "views"), [("sv3d_to_mesh", 21), ("v3d_to_mesh", 18)])
def test_a_image_becomes_a_mesh(client, tmp_path, name, views):
    """The whole chain; the small models paint a square on every side, which is a block.

    SV3D shows the input image itself as the first view, so it gets a square, too.
    """
    prompt = shipped(name)
    prompt["90"] = uploaded(client, square(), "square.png")
    prompt = with_inputs(prompt, "PrepareImage", image=["90", 0])
    run = done(client, prompt)

    mesh = fetched_mesh(client, run, key_of(prompt, "ExportMesh"), tmp_path)
    assert len(mesh.faces) > 100 and mesh.texture is not None
    red, green, _ = mesh.texture.reshape(-1, 3).mean(dim=0).tolist()
    assert red > green + 0.3
    steps = run.progress[key_of(prompt, "SampleOrbit")]
    assert (1, 1) in steps and (views, views) in steps  # sampling, decoding


def test_a_image_becomes_views_with_normals_and_those_a_mesh(client, output, tmp_path):
    """The small model's normals are nonsense that the fusion refuses, so it gets the colours."""
    prompt = shipped("image_to_mesh_nova3d")
    key = key_of(prompt, "SampleMultiviewNormals")
    prompt["90"] = node("OrbitCameras", **_orbit("nova3d"))
    prompt["91"] = node(
        "AssembleViews", images=[key, 1], masks=[key, 3], cameras=["90", 0],
        normal_frame="world", first_view=0, invert_masks=False,
    )  # fmt: skip
    prompt["92"] = node("SaveViews", views=[key, 0], filename_prefix="normals/views")
    prompt["93"] = node("SaveImage", images=[key, 2], filename_prefix="normals/image")
    run = done(client, with_inputs(prompt, "DeconflictFusion", views=["91", 0]))

    mesh = fetched_mesh(client, run, key_of(prompt, "ExportMesh"), tmp_path)
    assert len(mesh.faces) > 100 and mesh.texture is not None
    (folder,) = (output / "normals").glob("views*")
    views = read_views(folder)
    assert len(views) == 16 and views.normal_frame == "front_view"
    assert views.cameras.azimuth_deg[0] == pytest.approx(0.0, abs=1e-3)
    assert len(images(client, run, "93")) == 16
    for preview in run.previews[:1]:  # colour above normals
        assert min(PIL.Image.open(io.BytesIO(preview)).size) > 16
    assert run.previews


def _orbit(preset: str, **changed: Any) -> dict[str, Any]:
    usual = {
        "preset": preset, "count": 16, "elevation": 0.0, "motion": "static", "elevation_amplitude": 30.0,
        "azimuths": "0", "elevations": "0", "radius": 2.2, "fov": 39.6, "projection": "perspective",
        "ortho_scale": 1.5, "width": 64, "height": 64,
    }  # fmt: skip
    return usual | changed


def test_seeds_repeat_and_a_second_run_is_cached(client):
    def painted(seed: int, **changed: Any) -> np.ndarray:
        prompt = sampled("SampleOrbit", f"stability/{SV3D_U}", seed=seed, **changed)
        return np.stack(images(client, done(client, prompt), "6"))

    first, other = painted(2**64 - 1), painted(7)
    assert first.shape == (21, 64, 64, 3)
    # steps of 0 are the model's own; written out they are another prompt with the same meaning
    guided = {"guidance": "triangle", "min_guidance_scale": 1.0, "max_guidance_scale": 2.5}
    assert np.array_equal(first, painted(2**64 - 1, **guided))
    assert (first[1:] != other[1:]).mean() > 0.05
    assert not np.array_equal(first[10], painted(2**64 - 1, **guided | {"max_guidance_scale": 9.0})[10])
    # only the input view is the image itself
    assert np.array_equal(first[0], other[0])
    prompt = sampled("SampleOrbit", f"stability/{SV3D_U}", seed=7)
    assert "4" in done(client, prompt).executed  # the host remembers the last prompt alone
    assert "4" not in done(client, prompt).executed


def test_sv3d_p_goes_along_linked_cameras_and_gives_them_on(client, output):
    """Front last in, front first out: what goes on fits the images' order."""
    prompt = sampled("SampleOrbit", SV3D_P, cameras=["90", 0])
    rise = {"motion": "sine", "count": 21, "elevation": 10.0}
    prompt["90"] = node("OrbitCameras", **_orbit("custom", **rise))
    prompt["91"] = node(
        "AssembleViews", images=["4", 1], cameras=["4", 2],
        normal_frame="world", first_view=0, invert_masks=False,
    )  # fmt: skip
    prompt["92"] = node("SaveViews", views=["91", 0], filename_prefix="along/views")
    done(client, prompt)
    (folder,) = (output / "along").iterdir()
    cameras = read_views(folder).cameras
    assert len(cameras) == 21
    assert float(cameras.elevation_deg.max()) == pytest.approx(40.0, abs=1.0)
    assert float(cameras.azimuth_deg[0]) == pytest.approx(0.0, abs=1e-3)


def test_another_number_of_cameras_is_refused(client):
    prompt = sampled("SampleOrbit", SV3D_P, cameras=["90", 0])
    prompt["90"] = node("OrbitCameras", **_orbit("nova3d"))
    assert "paints 21 views, but 16 cameras were given" in complaint(client, prompt)


WRONG_NODE = {
    "SampleMultiviewNormals": (SV3D_P, ["SV3D p", "no normals", "Sample Orbit"]),
    "SampleOrbit": (NOVA3D, ["NOVA3D", "Sample Multi-View Normals"]),
}


@pytest.mark.parametrize("kind", WRONG_NODE)
def test_a_model_of_the_other_node_is_told_where_to_go(client, kind):
    model, words = WRONG_NODE[kind]
    said = complaint(client, sampled(kind, model))
    for word in [kind, *words]:
        assert word in said, said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.safetensors", ["gone.safetensors", "not in", "sv3d_p.safetensors"]),
        (SVD, ["Stable Video Diffusion", "never taught", "SV3D"]),
        (next(iter(OTHERS)), ["no multi-view model", "without layers across time"]),
        ("cut.safetensors", ["cut.safetensors"]),
        ("../checkpoints/" + SV3D_P, ["not in"]),
    ],
)
def test_a_file_that_is_no_such_model_is_named(client, name, words):
    said = complaint(client, sampled("SampleOrbit", name))
    for word in ["LoadNOVA3D", *words]:
        assert word in said, said


def test_a_changed_file_is_loaded_again(client, server):
    file = server.base / "models" / "nova3d" / V3D
    prompt = sampled("SampleOrbit", V3D, seed=5)
    assert "3" in done(client, prompt).executed
    assert "3" not in done(client, prompt).executed
    file.touch()
    assert "3" in done(client, prompt).executed


def test_cancel_takes_effect_within_a_step(client):
    prompt = sampled("SampleOrbit", SV3D_P, steps=1000, seed=11)
    cancelled_at: list[float] = []

    def cancel(event: str, data: dict[str, Any]) -> None:
        at_work = event == "progress" and data["node"] == "4" and data["max"] == 1000
        if at_work and data["value"] >= 2 and not cancelled_at:
            client.interrupt()
            cancelled_at.append(time.monotonic())

    run = client.run(prompt, cancel)
    assert run.is_interrupted and run.error is None
    assert time.monotonic() - cancelled_at[0] < 5.0
    assert max(value for value, most in run.progress["4"] if most == 1000) <= 20
    assert "on the CPU takes about" in run.texts["4"]  # said before it starts
    assert done(client, sampled("SampleOrbit", SV3D_P, seed=12))


def test_cancel_while_loading(client):
    prompt = sampled("SampleOrbit", SV3D_P)
    prompt["3"]["inputs"]["dtype"] = "bf16"  # not from the host's cache
    cancelled: list[bool] = []

    def cancel(event: str, data: dict[str, Any]) -> None:
        if event == "progress" and data["node"] == "3" and not cancelled:
            client.interrupt()
            cancelled.append(True)

    run = client.run(prompt, cancel)
    assert run.is_interrupted and run.error is None
    assert "4" not in run.executed
    assert done(client, prompt).progress["3"]


def test_repeated_sampling_holds_no_more_memory(client, server):
    held = []
    for seed in range(100, 106):
        done(client, sampled("SampleMultiviewNormals", NOVA3D, seed=seed))
        held.append(server.resident_bytes)
    # a run's views are kept by the host's cache for one prompt, and take 1 MB
    assert held[-1] < held[1] * 1.05, held


def uploaded(client: Client, image: PIL.Image.Image, name: str) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return node("LoadImage", image=client.upload(name, buffer.getvalue())["name"])


def square() -> PIL.Image.Image:
    """A red square on white."""
    image = PIL.Image.new("RGB", (96, 96), "white")
    image.paste((220, 60, 40), (16, 16, 80, 80))
    return image


def disc(size: tuple[int, int], mode: str = "RGB", places: tuple[float, ...] = (0.5,)):
    """Dark discs on white, or on nothing for RGBA; one at each place along the width."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    radius = 0.2 * min(size)
    inside = np.zeros((height, width), bool)
    for place in places:
        inside |= (x - place * width) ** 2 + (y - height / 2) ** 2 < radius**2
    levels = np.where(inside, 60, 255).astype(np.uint8)
    if mode == "I;16":
        return PIL.Image.fromarray(levels.astype(np.uint16) * 257)
    if mode == "L":
        return PIL.Image.fromarray(levels)
    colour = np.repeat(levels[..., None], 3, axis=2)
    if mode == "RGBA":
        colour = np.concatenate([colour, np.where(inside, 255, 0)[..., None]], axis=2)
    return PIL.Image.fromarray(colour.astype(np.uint8), mode)


GOOD = {
    "grey": disc((80, 80), "L"),
    "16 bit": disc((80, 80), "I;16"),
    "transparent": disc((80, 80), "RGBA"),
    "wide": disc((200, 60)),
    "20k pixels": disc((20000, 300)),
    "8 pixels": disc((8, 8)),
    "two objects": disc((200, 80), "RGB", (0.25, 0.75)),
}
NOTES = {"8 pixels": "8x8 px", "two objects": "2 objects"}


@pytest.mark.parametrize("name", GOOD)
def test_all_kinds_of_images_are_taken(client, name):
    """The knight's own chain: Load Image, Prepare Image only where there is an alpha."""
    prompt = sampled("SampleOrbit", SV3D_P, ["90", 0], seed=21)
    prompt["90"] = uploaded(client, GOOD[name], f"{name}.png")
    if name == "transparent":
        prompt["91"] = node("InvertMask", mask=["90", 1])
        prompt = with_inputs(prompt, "SampleOrbit", mask=["91", 0])
    run = client.run(prompt)
    if name == "16 bit" and run.error:  # Load Image of older hosts reads it as white
        assert "no object" in run.error["exception_message"]
        return
    assert run.has_succeeded, run.error
    first = images(client, run, "6")[0]
    assert (first[32, 32] < 200).all() or name == "two objects"
    assert (first[:, 0] > 250).all()
    assert NOTES.get(name, "") in run.texts.get("4", "")


BAD = {
    "empty mask": (node("EmptyImage", width=80, height=80, batch_size=1, color=0x404040), ["mask"]),
    "no white": (node("EmptyImage", width=80, height=80, batch_size=1, color=0x404040), ["mask"]),
    "blank": (node("EmptyImage", width=80, height=80, batch_size=1, color=0xFFFFFF), ["mask"]),
    "batch": (node("EmptyImage", width=80, height=80, batch_size=3, color=0), ["3 images"]),
}


@pytest.mark.parametrize("name", BAD)
def test_images_that_show_no_object_are_refused(client, name):
    image, words = BAD[name]
    prompt = sampled("SampleOrbit", SV3D_P, ["90", 0])
    prompt["90"] = image
    if name == "empty mask":
        prompt["91"] = node("SolidMask", value=0.0, width=80, height=80)
        prompt = with_inputs(prompt, "SampleOrbit", mask=["91", 0])
    said = complaint(client, prompt)
    for word in ["SampleOrbit", *words]:
        assert word in said, said
