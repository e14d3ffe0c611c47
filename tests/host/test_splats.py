"""Gaussian splats in the host: fitting, rendering, files, and ComfyUI's own splat nodes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from nova3d_core.conventions import SPLAT_UP_AXIS
from nova3d_core.evaluation.metrics.geometry import sample_surface
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.io.splats.files import read_splats, write_splats
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.mesh import Mesh
from nova3d_core.splats import Splats
from nova3d_core.splatting.render import splat_views

from .client import Client, PromptRun, error_message
from .prompts import load_prompt, node, node_key, with_inputs
from .server import PROJECT, Server
from .workflow_check import Prompt, prompt_from_graph

pytestmark = pytest.mark.host

SIZE = 512
FIT = {"preset": "fast", "seed": 0, "perceptual": "none", "match_exposure": False}
FIT |= {"refine_poses": False, "init": "hull", "splats": 1500, "steps": 30, "device": "cpu"}
VIEWPORT = {"image": "nova3d_example.png", "mask": "nova3d_example.png"}
VIEWPORT |= {"normal": "nova3d_example.png", "recording": "", "camera_info": {}}
"""What the page sends for the viewport of Load 3D."""


@pytest.fixture
def info(client) -> dict[str, Any]:
    return client.object_info()


@pytest.fixture
def require_splat_nodes(info) -> None:
    if "RenderSplat" not in info:
        pytest.skip("this ComfyUI has no splat nodes")


def dense_splats(mesh: Mesh, count: int = 40_000) -> Splats:
    """Small opaque grey splats just below the surface of a mesh, so that they end at it."""
    samples, scale = sample_surface(mesh, count, 0), 0.003
    points = torch.from_numpy(samples.points - scale * samples.normals).float()
    return Splats(
        positions=points,
        scales=torch.full((count, 3), scale),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        opacities=torch.full((count,), 0.99),
        colours=torch.full((count, 3), 0.5),
    )


@pytest.fixture(scope="module")
def splat_files(server: Server, l_solid) -> Path:
    """Input folder `3d` with splats of the L-shaped solid, good ones and others."""
    folder = server.base / "input" / "3d"
    folder.mkdir(exist_ok=True)
    splats = dense_splats(l_solid)
    write_splats(splats, folder / "solid.ply", up_axis=SPLAT_UP_AXIS)
    write_splats(splats[:100], folder / "few.ply")
    write_mesh(l_solid, folder / "mesh.ply")
    write_mesh(l_solid, server.base / "input" / "solid.glb")
    header = "ply\nformat binary_little_endian 1.0\nelement vertex {}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    (folder / "points.ply").write_bytes(header.format(8).encode() + bytes(8 * 12))
    damaged = bytearray((folder / "few.ply").read_bytes())
    start = damaged.index(b"end_header\n") + len(b"end_header\n")
    damaged[start : start + 4] = np.float32(np.nan).tobytes()
    (folder / "nan.ply").write_bytes(damaged)
    empty = (folder / "few.ply").read_bytes()[:start].replace(b"vertex 100", b"vertex 0")
    (folder / "empty.ply").write_bytes(empty)
    return folder


def load_splats(name: str) -> Prompt:
    """Nodes "1" (output 6: FILE_3D) and "2" (SPLAT) that load a file with ComfyUI's own nodes."""
    return {
        "1": node("Load3D", model_file=f"3d/{name}", image=VIEWPORT, width=64, height=64),
        "2": node("File3DToSplat", model_3d=["1", 6]),
    }


def camera(yaw: float = 30.0, pitch: float = 20.0) -> dict[str, Any]:
    settings = {"mode": "orbit", "mode.yaw": yaw, "mode.pitch": pitch, "mode.distance": 2.2}
    settings |= {"target_x": 0.0, "target_y": 0.0, "target_z": 0.0, "roll": 0.0, "fov": 39.6}
    return node("CreateCameraInfo", **settings, zoom=1.0, camera_type="perspective")


def render(splats: list, cameras: list) -> dict[str, Any]:
    size = {"width": SIZE, "height": SIZE, "device": "cpu"}
    return node("RenderSplatViews", splats=splats, cameras=cameras, **size)


def save_mask(prompt: Prompt, key: int, mask: list) -> None:
    """Adds nodes that save a mask; the image is saved by node `key`."""
    prompt[str(key + 1)] = node("MaskToImage", mask=mask)
    prompt[str(key)] = node("SaveImage", images=[str(key + 1), 0], filename_prefix=f"splats/{key}")


def run_to_end(client: Client, prompt: Prompt) -> PromptRun:
    run = client.run(prompt)
    assert run.has_succeeded, run.node_errors or (run.error and run.error["exception_message"])
    return run


def files_of(client: Client, run: PromptRun, key: str, kind: str) -> list[bytes]:
    entries = client.history(run.prompt_id)["outputs"][key][kind]
    return [client.view(entry) for entry in entries]


def mask_of(client: Client, run: PromptRun, key: int) -> np.ndarray:
    (content,) = files_of(client, run, str(key), "images")
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("L")) > 127


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


def save_splat(model_3d: list, prefix: str) -> dict[str, Any]:
    size = {"width": 64, "height": 64}
    return node(
        "SaveGaussianSplat", model_3d=model_3d, filename_prefix=prefix, viewport_state="", **size
    )


def saved_splat(client: Client, run: PromptRun, key: str) -> bytes:
    """The file that ComfyUI's Save Splat wrote."""
    path = Path(client.history(run.prompt_id)["outputs"][key]["result"][0])
    entry = {"filename": path.name, "subfolder": path.parent.as_posix(), "type": "output"}
    return client.view(entry)


def assert_same_splats(folder: Path, *contents: bytes) -> None:
    """Asserts that two .ply files hold the same values, up to rounding of the colours."""
    paths = [folder / f"{index}.ply" for index in range(2)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    one, other = (vars(read_splats(path)) for path in paths)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-6, rtol=1e-6)


def test_views_become_splats_that_show_the_object(client, inputs, tmp_path):
    """The shipped prompt: the exported file renders the input silhouettes; preview and report."""
    prompt = with_inputs(load_prompt("views_to_splats"), "FitSplats", seed=21, steps=120)
    prompt["90"] = node("PreviewAny", source=[node_key(prompt, "FitSplats"), 2])
    run = run_to_end(client, prompt)

    (content,) = files_of(client, run, node_key(prompt, "ExportSplats"), "3d")
    (tmp_path / "fetched.ply").write_bytes(content)
    splats = read_splats(tmp_path / "fetched.ply", SPLAT_UP_AXIS)
    views = read_views(inputs / "knight" / "views")
    rendered = splat_views(splats, views.cameras)
    assert overlap(rendered.masks.numpy() > 0.5, views.masks.numpy() > 0.5) > 0.9
    assert float((rendered.colour - views.colour).square().mean().sqrt()) < 0.1

    steps = run.progress[node_key(prompt, "FitSplats")]
    assert len(steps) > 5 and steps[-1][0] == steps[-1][1]
    assert run.previews
    assert min(PIL.Image.open(io.BytesIO(run.previews[-1])).size) > 16
    assert f"{len(splats)} splats" in str(run.outputs["90"]["text"])
    (turntable,) = files_of(client, run, node_key(prompt, "SaveAnimatedWEBP"), "images")
    assert PIL.Image.open(io.BytesIO(turntable)).n_frames > 1


def test_v3d_samples_become_splats(client, tmp_path):
    """Row A6: image, random-weight V3D, splats. The decoder makes a red square on white."""
    prompt = load_prompt("v3d_to_splats")
    run = run_to_end(client, prompt)
    (content,) = files_of(client, run, node_key(prompt, "ExportSplats"), "3d")
    (tmp_path / "fetched.ply").write_bytes(content)
    splats = read_splats(tmp_path / "fetched.ply", SPLAT_UP_AXIS)
    red, green, blue = splats.colours.median(dim=0).values.tolist()
    assert red > 0.6 and max(green, blue) < 0.4


@pytest.mark.parametrize("name", ["views_to_splats", "v3d_to_splats"])
@pytest.mark.usefixtures("require_splat_nodes")
def test_templates_end_in_comfyuis_preview(client, info, tmp_path, name):
    graph = json.loads((PROJECT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt, problems = prompt_from_graph(graph, info)
    assert problems == []
    fast = load_prompt(name)
    for key, each in fast.items():
        prompt[key]["inputs"] |= each["inputs"]
    run = run_to_end(client, prompt)
    key = node_key(prompt, "PreviewGaussianSplat")
    (shown, *_) = client.history(run.prompt_id)["outputs"][key]["result"]
    content = client.view({"filename": shown, "subfolder": "", "type": "temp"})
    (exported,) = files_of(client, run, node_key(prompt, "ExportSplats"), "3d")
    assert_same_splats(tmp_path, content, exported)


@pytest.mark.usefixtures("require_splat_nodes")
def test_our_ply_equals_comfyuis_byte_for_byte(client, tmp_path):
    """The file of FitSplats, and that which ComfyUI writes for its SPLAT; .spz of the same."""
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("FitSplats", views=["1", 0], **FIT),
        "3": save_splat(["2", 3], "splats/ours"),
        "4": node("SplatToFile3D", splat=["2", 0], format="ply"),
        "5": save_splat(["4", 0], "splats/theirs"),
        "6": node("ExportSplats", splats=["2", 0], format="ply", filename_prefix="splats/export"),
        "7": node("SplatToFile3D", splat=["2", 0], format="spz"),
        "8": node("File3DToSplat", model_3d=["7", 0]),
        "9": node("ExportSplats", splats=["8", 0], format="ply", filename_prefix="splats/spz"),
        "10": node("ExportSplats", splats=["2", 0], format="splat", filename_prefix="splats/dot"),
    }
    run = run_to_end(client, prompt)
    ours, theirs = (saved_splat(client, run, key) for key in ("3", "5"))
    exported, from_spz, dot = (files_of(client, run, key, "3d")[0] for key in ("6", "9", "10"))
    assert ours == theirs
    assert exported.startswith(
        b"ply\nformat binary_little_endian 1.0\ncomment NOVA3D for ComfyUI\n"
    )
    assert_same_splats(tmp_path, exported, ours)
    for name, content in (("ours.ply", ours), ("spz.ply", from_spz), ("dot.splat", dot)):
        (tmp_path / name).write_bytes(content)
    ours, from_spz, dot = (
        read_splats(tmp_path / name) for name in ("ours.ply", "spz.ply", "dot.splat")
    )
    assert (from_spz.positions - ours.positions).abs().max() <= 0.5 / 4096 + 1e-6
    assert (from_spz.opacities - ours.opacities).abs().max() <= 0.5 / 255 + 1e-6
    assert len(dot) == len(ours)


@pytest.mark.usefixtures("require_splat_nodes", "splat_files")
@pytest.mark.parametrize("yaw", [30.0, 200.0])
def test_silhouettes_agree_with_the_mesh_and_with_comfyuis_renderer(client, yaw):
    """The L-shaped solid and its splats in ours and in ComfyUI's renderer, from one camera."""
    prompt = load_splats("solid.ply")
    prompt["3"] = camera(yaw)
    prompt["4"] = render(["2", 0], ["3", 0])
    prompt["5"] = render(["1", 6], ["3", 0])
    prompt["6"] = node(
        "RenderSplat", splat=["2", 0], camera_info=["3", 0], width=SIZE, height=SIZE, frames=1,
        splat_scale=1.0, sharpen=1.0, headlight_shading=0.0, opacity_threshold=0.0,
        render_style="color", background="#ffffff",
    )  # fmt: skip
    prompt["7"] = node("NOVA3DLoadMesh", file="solid.glb", up_axis="+Y")
    settings = {"normalise": False, "supersample": 2, "normal_frame": "world"}
    settings |= {"width": SIZE, "height": SIZE}
    prompt["8"] = node("RenderViews", mesh=["7", 0], cameras=["3", 0], **settings)
    for key, source in ((20, ["4", 2]), (30, ["5", 2]), (40, ["6", 1]), (50, ["8", 3])):
        save_mask(prompt, key, source)
    run = run_to_end(client, prompt)
    ours, of_file, theirs, of_mesh = (mask_of(client, run, key) for key in (20, 30, 40, 50))
    assert overlap(ours, of_file) == 1.0
    assert overlap(ours, theirs) > 0.97
    assert overlap(ours, of_mesh) > 0.97
    assert overlap(ours, of_mesh[:, ::-1]) < 0.9  # the solid is not symmetric
    assert overlap(ours, of_mesh[::-1]) < 0.9


@pytest.mark.usefixtures("require_splat_nodes", "splat_files")
def test_comfyuis_mesh_of_our_splats_is_where_the_object_is(client, l_solid, tmp_path):
    prompt = load_splats("solid.ply")
    settings = {"resolution": 128, "kernel": 5, "smooth": 0, "level": 0.4, "min_component": 100}
    prompt["3"] = node(
        "SplatToMesh", splat=["2", 0], **settings, min_opacity=0.02, color_sharpen=2.0
    )
    export = {"format": "ply", "filename_prefix": "splats/mesh"}
    prompt["4"] = node("ExportMesh", mesh=["3", 0], **export, target_faces=1000, texture_size=64)
    run = run_to_end(client, prompt)
    (tmp_path / "mesh.ply").write_bytes(files_of(client, run, "4", "3d")[0])
    mesh = read_mesh(tmp_path / "mesh.ply")
    assert (mesh.bounds - l_solid.bounds).abs().max() < 0.03
    expected = torch.from_numpy(sample_surface(l_solid, 4000, 1).points).float()
    distance = torch.cdist(mesh.vertices, expected).amin(dim=1)
    assert float(distance.mean()) < 0.02


def bad_file(name: str, output: list) -> Prompt:
    prompt = load_splats(name)
    prompt["3"] = camera()
    prompt["4"] = render(output, ["3", 0])
    save_mask(prompt, 20, ["4", 2])
    if output[0] == "1":
        del prompt["2"]
    return prompt


@pytest.mark.usefixtures("require_splat_nodes", "splat_files")
@pytest.mark.parametrize(
    ("name", "output", "words"),
    [
        ("mesh.ply", ["1", 6], ["mesh.ply", "no Gaussian splats but a mesh", "Load Mesh"]),
        ("points.ply", ["1", 6], ["points.ply", "no Gaussian splats but a point cloud"]),
        ("nan.ply", ["1", 6], ["nan.ply", "1 values that are NaN"]),
        ("nan.ply", ["2", 0], ["splats", "1 values that are NaN"]),
        ("empty.ply", ["2", 0], ["there are no splats"]),
    ],
)
def test_bad_splats_are_errors_on_the_node(client, name, output, words):
    message = error_message(client, bad_file(name, output))
    assert message.startswith("RenderSplatViews: ")
    assert all(word in message for word in words), message
    assert len(message) < 500 and "Traceback" not in message and "\n" not in message.strip()


@pytest.mark.usefixtures("require_splat_nodes", "splat_files")
def test_merged_splats_are_exported(client):
    prompt = load_splats("solid.ply")
    prompt["3"] = node("Load3D", model_file="3d/few.ply", image=VIEWPORT, width=64, height=64)
    prompt["4"] = node("File3DToSplat", model_3d=["3", 6])
    prompt["5"] = node("MergeSplat", **{"splats.splat0": ["2", 0], "splats.splat1": ["4", 0]})
    prompt["6"] = node("ExportSplats", splats=["5", 0], format="ply", filename_prefix="splats/m")
    (content,) = files_of(client, run_to_end(client, prompt), "6", "3d")
    assert b"element vertex 40100\n" in content


def photo_prompt(count: int, with_white: bool) -> Prompt:
    """FitSplats of images in which nothing is white, or of a single view."""
    prompt = load_prompt("multiview_images_to_mesh")
    cameras, images = (node_key(prompt, kind) for kind in ("OrbitCameras", "RenderViews"))
    prompt[cameras]["inputs"] |= {"count": count}
    mesh = prompt[images]["inputs"]["mesh"][0]
    prompt = {key: prompt[key] for key in (mesh, cameras, images)}
    source = [images, 1]
    if not with_white:
        prompt["80"] = node("ImageInvert", image=source)
        source = ["80", 0]
    assemble = {"normal_frame": "world", "first_view": 0, "invert_masks": False}
    prompt["81"] = node("AssembleViews", images=source, cameras=[cameras, 0], **assemble)
    prompt["82"] = node("FitSplats", views=["81", 0], **FIT)
    prompt["83"] = node(
        "ExportSplats", splats=["82", 0], format="ply", filename_prefix="never/splats"
    )
    return prompt


def test_one_view_is_an_error(client):
    message = error_message(client, photo_prompt(1, with_white=True))
    assert message.startswith("FitSplats: ") and "view" in message, message
    assert len(message) < 500


def test_views_without_masks_and_white_are_an_error(client):
    message = error_message(client, photo_prompt(6, with_white=False))
    assert message.startswith(("FitSplats: ", "AssembleViews: ")) and "mask" in message, message
    assert len(message) < 500


def test_lpips_without_a_file_is_a_warning(client):
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("FitSplats", views=["1", 0], **{**FIT, "perceptual": "lpips", "steps": 4}),
        "3": node("PreviewAny", source=["2", 2]),
        "4": node("ExportSplats", splats=["2", 0], format="ply", filename_prefix="splats/l"),
    }
    run = run_to_end(client, prompt)
    (warning,) = client.history(run.prompt_id)["outputs"]["2"]["text"]
    assert "LPIPS" in warning and "models/nova3d" in warning and "aligned" in warning
    assert warning in str(run.outputs["3"]["text"])


def test_cancel_stops_the_fit_within_a_step(client):
    prompt = with_inputs(load_prompt("views_to_splats"), "FitSplats", seed=31, steps=50_000)
    key = node_key(prompt, "FitSplats")
    cancelled_at: list[float] = []

    def cancel(event: str, data: dict[str, Any]) -> None:
        is_fitting = event == "progress" and data["node"] == key and data["max"] >= 50_000
        if is_fitting and data["value"] >= 1 and not cancelled_at:
            client.interrupt()
            cancelled_at.append(time.monotonic())

    run = client.run(prompt, cancel)
    assert run.is_interrupted and run.error is None and run.executed[-1] == key
    assert time.monotonic() - cancelled_at[0] < 3.0


def test_a_prefix_outside_the_output_folder_is_refused(client):
    prompt = load_prompt("views_to_splats")
    prompt = with_inputs(prompt, "ExportSplats", filename_prefix="../outside")
    assert "not inside ComfyUI's output folder" in error_message(client, prompt)
