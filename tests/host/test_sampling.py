"""Sampling of views from an image, with small models in the layouts of the public ones."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import PIL.Image
import pytest

from nova3d_core.io.views.transforms_json import read_views

from .client import Client, PromptRun, error_message
from .models import NOVA3D, OTHER_MODELS, SV3D_P, SV3D_U, SVD, V3D, WONDER3D
from .prompts import load_prompt, node, node_key, with_inputs
from .test_run_workflows import fetch_mesh, run_to_end
from .workflow_check import Prompt

pytestmark = pytest.mark.host

SETTINGS = {"guidance": "auto", "min_guidance_scale": 1.0, "max_guidance_scale": 2.5}


def sampling_prompt(kind: str, model: str, image: list | None = None, **inputs: Any) -> Prompt:
    """Samples an image of the knight, saves the views and the images."""
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


def saved_images(client: Client, run: PromptRun, key: str) -> list[np.ndarray]:
    """Images of a SaveImage node, (H, W, 3) each."""
    files = client.history(run.prompt_id)["outputs"][key]["images"]
    return [np.asarray(PIL.Image.open(io.BytesIO(client.view(file)))) for file in files]


@pytest.mark.parametrize(("name", "views"), [("sv3d_to_mesh", 21), ("v3d_to_mesh", 18)])
def test_image_to_mesh(client, tmp_path, name, views):
    """The complete workflow; the small models generate a square in every view, that is, a block.

    SV3D returns the input image as the first view, so the input is a square as well.
    """
    prompt = load_prompt(name)
    square = uploaded(client, square_image(), "square.png")["inputs"]["image"]
    prompt = with_inputs(prompt, "LoadImage", image=square)
    run = run_to_end(client, prompt)

    mesh = fetch_mesh(client, run, node_key(prompt, "ExportMesh"), tmp_path)
    assert len(mesh.faces) > 100 and mesh.texture is not None
    red, green, _ = mesh.texture.reshape(-1, 3).mean(dim=0).tolist()
    assert red > green + 0.3
    steps = run.progress[node_key(prompt, "SampleOrbit")]
    assert (1, 1) in steps and (views, views) in steps  # sampling, decoding


def test_image_to_views_with_normals_to_mesh(client, output, tmp_path):
    """The small model's normals are invalid for the fusion, which gets the colours only."""
    prompt = load_prompt("image_to_mesh_nova3d")
    key = node_key(prompt, "SampleMultiviewNormals")
    prompt["90"] = node("OrbitCameras", **orbit_inputs("nova3d"))
    prompt["91"] = node(
        "AssembleViews", images=[key, 1], masks=[key, 3], cameras=["90", 0],
        normal_frame="world", first_view=0, invert_masks=False,
    )  # fmt: skip
    prompt["92"] = node("SaveViews", views=[key, 0], filename_prefix="normals/views")
    prompt["93"] = node("SaveImage", images=[key, 2], filename_prefix="normals/image")
    run = run_to_end(client, with_inputs(prompt, "DeconflictFusion", views=["91", 0]))

    mesh = fetch_mesh(client, run, node_key(prompt, "ExportMesh"), tmp_path)
    assert len(mesh.faces) > 100 and mesh.texture is not None
    (folder,) = (output / "normals").glob("views*")
    views = read_views(folder)
    assert len(views) == 16 and views.normal_frame == "front_view"
    assert views.cameras.azimuth_deg[0] == pytest.approx(0.0, abs=1e-3)
    assert len(saved_images(client, run, "93")) == 16
    for preview in run.previews[:1]:  # colours above normals
        assert min(PIL.Image.open(io.BytesIO(preview)).size) > 16
    assert run.previews


def test_wonder3d_folder_to_views_with_normals(client, server, output):
    """A folder of .bin files in models/nova3d; without its VAE, the message names the file."""
    prompt = sampling_prompt("SampleMultiviewNormals", WONDER3D, steps=2)
    prompt["7"] = node("SaveImage", images=["4", 2], filename_prefix="wonder3d/normals")
    prompt["5"]["inputs"]["filename_prefix"] = "wonder3d/views"
    run = run_to_end(client, prompt)
    assert "6 views" in run.texts["4"]
    assert {(1, 2), (2, 2), (12, 12)} <= set(run.progress["4"])  # sampling, decoding
    (folder,) = (output / "wonder3d").glob("views*")
    views = read_views(folder)
    assert len(views) == 6 and views.normal_frame == "front_view"
    assert views.cameras.kind == "orthographic"
    assert (views.cameras.width, views.cameras.height) == (128, 128)  # enlarged
    azimuths = views.cameras.azimuth_deg.round().int() % 360
    assert azimuths.tolist() == [0, 45, 90, 180, 270, 315]
    colours, normals = (saved_images(client, run, key) for key in "67")
    assert len(colours) == len(normals) == 6 and colours[0].shape == (64, 64, 3)

    vae = server.base / "models" / "nova3d" / "wonder3d-v1.0" / "vae"
    vae.rename(vae.with_name("renamed"))
    try:
        prompt["3"]["inputs"]["dtype"] = "fp16"  # not cached
        message = error_message(client, prompt)
        for word in ("LoadNOVA3D", "wonder3d-v1.0", "vae", "diffusion_pytorch_model.bin"):
            assert word in message, message
    finally:
        vae.with_name("renamed").rename(vae)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_wonder3d_in_half_precision(client, dtype):
    prompt = sampling_prompt("SampleMultiviewNormals", WONDER3D, steps=2)
    prompt["3"]["inputs"]["dtype"] = dtype
    run = run_to_end(client, prompt)
    assert np.stack(saved_images(client, run, "6")).std() > 10.0  # the square, not blank


def orbit_inputs(preset: str, **changed: Any) -> dict[str, Any]:
    defaults = {
        "preset": preset, "count": 16, "elevation": 0.0, "motion": "static",
        "elevation_amplitude": 30.0, "azimuths": "0", "elevations": "0", "radius": 2.2,
        "fov": 39.6, "projection": "perspective", "ortho_scale": 1.5, "width": 64, "height": 64,
    }  # fmt: skip
    return defaults | changed


def test_seed_reproduces_images_and_second_run_is_cached(client):
    def sampled_images(seed: int, **changed: Any) -> np.ndarray:
        prompt = sampling_prompt("SampleOrbit", f"stability/{SV3D_U}", seed=seed, **changed)
        return np.stack(saved_images(client, run_to_end(client, prompt), "6"))

    first, other = sampled_images(2**64 - 1), sampled_images(7)
    assert first.shape == (21, 64, 64, 3)
    # the model's default settings, written out: another prompt with the same meaning
    guidance = {"guidance": "triangle", "min_guidance_scale": 1.0, "max_guidance_scale": 2.5}
    assert np.array_equal(first, sampled_images(2**64 - 1, **guidance))
    assert (first[1:] != other[1:]).mean() > 0.05
    assert not np.array_equal(
        first[10], sampled_images(2**64 - 1, **guidance | {"max_guidance_scale": 9.0})[10]
    )
    # only the input view is the input image
    assert np.array_equal(first[0], other[0])
    prompt = sampling_prompt("SampleOrbit", f"stability/{SV3D_U}", seed=7)
    assert "4" in run_to_end(client, prompt).executed  # ComfyUI caches the last prompt only
    assert "4" not in run_to_end(client, prompt).executed


def test_sv3d_p_follows_connected_cameras_and_returns_them(client, output):
    """The front camera is the last of the input and the first of the output, like the images."""
    prompt = sampling_prompt("SampleOrbit", SV3D_P, cameras=["90", 0])
    orbit = {"motion": "sine", "count": 21, "elevation": 10.0}
    prompt["90"] = node("OrbitCameras", **orbit_inputs("custom", **orbit))
    prompt["91"] = node(
        "AssembleViews", images=["4", 1], cameras=["4", 2],
        normal_frame="world", first_view=0, invert_masks=False,
    )  # fmt: skip
    prompt["92"] = node("SaveViews", views=["91", 0], filename_prefix="along/views")
    run_to_end(client, prompt)
    (folder,) = (output / "along").iterdir()
    cameras = read_views(folder).cameras
    assert len(cameras) == 21
    assert float(cameras.elevation_deg.max()) == pytest.approx(40.0, abs=1.0)
    assert float(cameras.azimuth_deg[0]) == pytest.approx(0.0, abs=1e-3)


def test_sampler_framing_and_decode_chunks_are_inputs(client):
    """With framing `image` the first view of SV3D is the input image itself, here off centre."""
    image = PIL.Image.new("RGB", (64, 64), "white")
    image.paste((220, 60, 40), (4, 8, 24, 40))
    settings = {"framing": "image", "sampler": "heun", "steps": 2, "decode_chunk_size": 5}
    prompt = sampling_prompt("SampleOrbit", SV3D_P, ["90", 0], **settings)
    prompt["90"] = uploaded(client, image, "off_centre.png")
    run = run_to_end(client, prompt)
    first, *others = saved_images(client, run, "6")
    assert len(others) == 20
    assert np.abs(first.astype(int) - np.asarray(image).astype(int)).max() <= 2
    prompt = sampling_prompt("SampleOrbit", SV3D_P, ["90", 0])
    prompt["90"] = uploaded(client, image, "off_centre.png")
    centred = saved_images(client, run_to_end(client, prompt), "6")[0]
    dark = (centred.min(axis=2) < 128).nonzero()
    assert abs(dark[0].min() + dark[0].max() - 63) <= 1  # cropped to the object
    assert abs(dark[1].min() + dark[1].max() - 63) <= 1


def test_rejects_wrong_number_of_cameras(client):
    prompt = sampling_prompt("SampleOrbit", SV3D_P, cameras=["90", 0])
    prompt["90"] = node("OrbitCameras", **orbit_inputs("nova3d"))
    assert "generates 21 views, but got 16 cameras" in error_message(client, prompt)


WRONG_MODELS = {
    "SampleMultiviewNormals": (SV3D_P, ["SV3D p", "no normals", "Sample Orbit"]),
    "SampleOrbit": (NOVA3D, ["NOVA3D", "Sample Multi-View Normals"]),
}


@pytest.mark.parametrize("kind", WRONG_MODELS)
def test_error_for_the_wrong_model_names_the_right_node(client, kind):
    model, words = WRONG_MODELS[kind]
    message = error_message(client, sampling_prompt(kind, model))
    for word in [kind, *words]:
        assert word in message, message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.safetensors", ["gone.safetensors", "not in", "sv3d_p.safetensors"]),
        (SVD, ["Stable Video Diffusion", "not trained", "SV3D"]),
        (next(iter(OTHER_MODELS)), ["not a multi-view model", "without temporal layers"]),
        ("cut.safetensors", ["cut.safetensors"]),
        ("../checkpoints/" + SV3D_P, ["not in"]),
    ],
)
def test_rejects_files_that_are_no_multi_view_model(client, name, words):
    message = error_message(client, sampling_prompt("SampleOrbit", name))
    for word in ["LoadNOVA3D", *words]:
        assert word in message, message


def test_changed_file_is_reloaded(client, server):
    file = server.base / "models" / "nova3d" / V3D
    prompt = sampling_prompt("SampleOrbit", V3D, seed=5)
    assert "3" in run_to_end(client, prompt).executed
    assert "3" not in run_to_end(client, prompt).executed
    file.touch()
    assert "3" in run_to_end(client, prompt).executed


def test_cancel_takes_effect_within_a_step(client):
    prompt = sampling_prompt("SampleOrbit", SV3D_P, steps=1000, seed=11)
    cancelled_at: list[float] = []

    def cancel(event: str, data: dict[str, Any]) -> None:
        is_sampling = event == "progress" and data["node"] == "4" and data["max"] == 1000
        if is_sampling and data["value"] >= 2 and not cancelled_at:
            client.interrupt()
            cancelled_at.append(time.monotonic())

    run = client.run(prompt, cancel)
    assert run.is_interrupted and run.error is None
    assert time.monotonic() - cancelled_at[0] < 5.0
    assert max(value for value, total in run.progress["4"] if total == 1000) <= 20
    assert "on the CPU takes about" in run.texts["4"]  # shown before sampling starts
    assert run_to_end(client, sampling_prompt("SampleOrbit", SV3D_P, seed=12))


def test_cancel_of_wonder3d(client):
    prompt = sampling_prompt("SampleMultiviewNormals", WONDER3D, steps=500, seed=11)
    cancelled: list[int] = []

    def cancel(event: str, data: dict[str, Any]) -> None:
        is_sampling = event == "progress" and data["node"] == "4" and data["max"] == 500
        if is_sampling and data["value"] >= 2 and not cancelled:
            client.interrupt()
            cancelled.append(data["value"])

    run = client.run(prompt, cancel)
    assert run.is_interrupted and run.error is None and cancelled
    assert max(value for value, total in run.progress["4"] if total == 500) <= cancelled[0] + 20


def test_cancel_while_loading(client):
    prompt = sampling_prompt("SampleOrbit", SV3D_P)
    prompt["3"]["inputs"]["dtype"] = "bf16"  # not cached
    cancelled: list[bool] = []

    def cancel(event: str, data: dict[str, Any]) -> None:
        if event == "progress" and data["node"] == "3" and not cancelled:
            client.interrupt()
            cancelled.append(True)

    run = client.run(prompt, cancel)
    assert run.is_interrupted and run.error is None
    assert "4" not in run.executed
    assert run_to_end(client, prompt).progress["3"]


def test_repeated_sampling_does_not_leak(client, server):
    resident_bytes = []
    for seed in range(100, 106):
        run_to_end(client, sampling_prompt("SampleMultiviewNormals", NOVA3D, seed=seed))
        resident_bytes.append(server.resident_bytes)
    # ComfyUI caches the views of the last prompt: 1 MB
    assert resident_bytes[-1] < resident_bytes[1] * 1.05, resident_bytes


def uploaded(client: Client, image: PIL.Image.Image, name: str) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return node("LoadImage", image=client.upload(name, buffer.getvalue())["name"])


def square_image() -> PIL.Image.Image:
    """A red square on white."""
    image = PIL.Image.new("RGB", (96, 96), "white")
    image.paste((220, 60, 40), (16, 16, 80, 80))
    return image


def disc_image(size: tuple[int, int], mode: str = "RGB", centres: tuple[float, ...] = (0.5,)):
    """Dark discs on white, or on transparency for RGBA; centres as fractions of the width."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    radius = 0.2 * min(size)
    inside = np.zeros((height, width), bool)
    for centre in centres:
        inside |= (x - centre * width) ** 2 + (y - height / 2) ** 2 < radius**2
    levels = np.where(inside, 60, 255).astype(np.uint8)
    if mode == "I;16":
        return PIL.Image.fromarray(levels.astype(np.uint16) * 257)
    if mode == "L":
        return PIL.Image.fromarray(levels)
    colour = np.repeat(levels[..., None], 3, axis=2)
    if mode == "RGBA":
        colour = np.concatenate([colour, np.where(inside, 255, 0)[..., None]], axis=2)
    return PIL.Image.fromarray(colour.astype(np.uint8), mode)


VALID_IMAGES = {
    "grey": disc_image((80, 80), "L"),
    "16 bit": disc_image((80, 80), "I;16"),
    "transparent": disc_image((80, 80), "RGBA"),
    "wide": disc_image((200, 60)),
    "20k pixels": disc_image((20000, 300)),
    "8 pixels": disc_image((8, 8)),
    "two objects": disc_image((200, 80), "RGB", (0.25, 0.75)),
}
EXPECTED_WARNINGS = {"8 pixels": "8x8 px", "two objects": "2 separate objects"}


@pytest.mark.parametrize("name", VALID_IMAGES)
def test_accepts_all_kinds_of_images(client, name):
    """Load Image directly into Sample Orbit; transparent images with their mask."""
    prompt = sampling_prompt("SampleOrbit", SV3D_P, ["90", 0], seed=21)
    prompt["90"] = uploaded(client, VALID_IMAGES[name], f"{name}.png")
    if name == "transparent":
        prompt["91"] = node("InvertMask", mask=["90", 1])
        prompt = with_inputs(prompt, "SampleOrbit", mask=["91", 0])
    run = client.run(prompt)
    if name == "16 bit" and run.error:  # older versions of Load Image read it as white
        assert "no object" in run.error["exception_message"]
        return
    assert run.has_succeeded, run.error
    first = saved_images(client, run, "6")[0]
    assert (first[32, 32] < 200).all() or name == "two objects"
    assert (first[:, 0] > 250).all()
    assert EXPECTED_WARNINGS.get(name, "") in run.texts.get("4", "")


INVALID_IMAGES = {
    "empty mask": (node("EmptyImage", width=80, height=80, batch_size=1, color=0x404040), ["mask"]),
    "no white": (node("EmptyImage", width=80, height=80, batch_size=1, color=0x404040), ["mask"]),
    "blank": (node("EmptyImage", width=80, height=80, batch_size=1, color=0xFFFFFF), ["mask"]),
    "batch": (node("EmptyImage", width=80, height=80, batch_size=3, color=0), ["3 images"]),
}


@pytest.mark.parametrize("name", INVALID_IMAGES)
def test_rejects_images_without_an_object(client, name):
    image, words = INVALID_IMAGES[name]
    prompt = sampling_prompt("SampleOrbit", SV3D_P, ["90", 0])
    prompt["90"] = image
    if name == "empty mask":
        prompt["91"] = node("SolidMask", value=0.0, width=80, height=80)
        prompt = with_inputs(prompt, "SampleOrbit", mask=["91", 0])
    message = error_message(client, prompt)
    for word in ["SampleOrbit", *words]:
        assert word in message, message
