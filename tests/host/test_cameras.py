"""Cameras in and out: lists of newer ComfyUI versions, single ones of older versions, DA3."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_from_orbit, orbit_cameras
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.io.views.transforms_json import read_views

from .client import Client, PromptRun, error_message
from .models import SV3D_P
from .prompts import node
from .server import PACK, Checkout, Server, copy_pack
from .test_core_nodes import require_nodes, run_to_end
from .test_sampling import orbit_inputs, sampling_prompt
from .workflow_check import Prompt

pytestmark = pytest.mark.host

KNIGHT = node("NOVA3DLoadMesh", file="knight/mesh.glb", up_axis="+Y")
"""Normalised: one unit in size, centred."""
RENDER = {
    "width": 96, "height": 96, "normalise": False, "supersample": 1, "normal_frame": "world",
}  # fmt: skip
COUNT, FOV, DISTANCE = 5, 40.0, 2.4


@pytest.fixture(scope="module")
def list_server(
    checkout: Checkout, inputs: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A ComfyUI whose 3D nodes pass lists of cameras."""
    base = tmp_path_factory.mktemp("comfyui_lists")
    shutil.copytree(inputs, base / "input")
    shutil.copytree(models, base / "models")
    pack = base / "custom_nodes" / PACK
    copy_pack(pack)
    shutil.copy2(Path(__file__).with_name("stand_in_cameras.py"), pack)
    entry = (pack / "__init__.py").read_text(encoding="utf-8")
    (pack / "__init__.py").write_text(entry + "\nfrom . import stand_in_cameras\n", "utf-8")
    with Server(checkout, base, with_pack=False) as running:
        yield running


@pytest.fixture
def lists(list_server: Server) -> Client:
    return Client(list_server.url)


def orbit(**changed: Any) -> dict[str, Any]:
    """Orbit Cameras with the cameras of `StandInOrbit`."""
    settings = {"count": COUNT, "fov": FOV, "radius": DISTANCE, "width": 96, "height": 96}
    return node("OrbitCameras", **orbit_inputs("custom", **settings | changed))


def known_cameras() -> Cameras:
    focal = 0.5 / math.tan(math.radians(FOV) / 2)
    rig = RigConfig(count=COUNT, radius=DISTANCE, focal_per_width=focal, width_px=96, height_px=96)
    return orbit_cameras(rig)


def stand_in_orbit(pitch: float = 0.0) -> dict[str, Any]:
    return node("StandInOrbit", count=COUNT, pitch=pitch, fov=FOV, distance=DISTANCE)


def with_saved_views(prompt: Prompt, views: list, name: str) -> Prompt:
    return {**prompt, "save": node("SaveViews", views=views, filename_prefix=f"cameras/{name}")}


def saved_cameras(server: Server, name: str) -> Cameras:
    (folder,) = (server.base / "output" / "cameras").glob(f"{name}_*")
    return read_views(folder).cameras


def assemble(images: list, cameras: list) -> dict[str, Any]:
    settings = {"normal_frame": "world", "first_view": 0, "invert_masks": False}
    return node("AssembleViews", images=images, cameras=cameras, **settings)


def shown_cameras(client: Client, run: PromptRun, key: str) -> list[Any]:
    outputs = client.history(run.prompt_id)["outputs"][key]["cameras"]
    return [json.loads(each) for each in outputs]


def assert_equal(actual: Cameras, expected: Cameras) -> None:
    assert (actual.width, actual.height, actual.kind) == (
        expected.width, expected.height, expected.kind,
    )  # fmt: skip
    torch.testing.assert_close(actual.world_to_camera, expected.world_to_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(actual.intrinsics, expected.intrinsics, atol=1e-3, rtol=1e-5)


def test_camera_lists_into_every_node(lists, list_server):
    """RenderViews, AssembleViews, OrbitCameras and JoinCameras read the same cameras."""
    prompt = {
        "1": KNIGHT,
        "2": stand_in_orbit(),
        "3": node("RenderViews", mesh=["1", 0], cameras=["2", 0], **RENDER),
        "4": assemble(["3", 1], ["2", 0]),
        "5": orbit(cameras=["2", 0]),
        "6": node("RenderViews", mesh=["1", 0], cameras=["5", 0], **RENDER),
        "7": node("JoinCameras", **{"cameras.cameras_0": ["2", 0], "cameras.cameras_1": ["8", 0]}),
        "8": node("BatchCameras", a=["9", 0], b=["11", 0]),
        "9": stand_in_orbit(20.0),
        "11": stand_in_orbit(40.0),
        "10": node("RenderViews", mesh=["1", 0], cameras=["7", 0], **RENDER),
    }
    for name, source in {"render": "3", "assemble": "4", "orbit": "6", "join": "10"}.items():
        prompt |= {f"save {name}": with_saved_views({}, [source, 0], name)["save"]}
    run_to_end(lists, prompt)
    for name in ("render", "assemble", "orbit"):
        assert_equal(saved_cameras(list_server, name), known_cameras())
    joined = saved_cameras(list_server, "join")
    assert joined.elevation_deg.round().tolist() == [0.0] * COUNT + [20.0] * COUNT + [40.0] * COUNT
    assert_equal(joined.resized(96, 96)[:COUNT], known_cameras())


def test_camera_lists_out_and_back_in(lists, list_server):
    prompt = {
        "1": KNIGHT,
        "2": orbit(),
        "3": node("ShowCameras", camera_info=["2", 1]),
        "4": node("RenderViews", mesh=["1", 0], cameras=["2", 1], **RENDER),
        "5": node("BatchCameras", a=["2", 1], b=["2", 1]),
        "6": node("ShowCameras", camera_info=["5", 0]),
    }
    run = run_to_end(lists, with_saved_views(prompt, ["4", 0], "back"))
    assert_equal(saved_cameras(list_server, "back"), known_cameras())
    (shown,) = shown_cameras(lists, run, "3")
    assert len(shown) == COUNT
    (joined,) = shown_cameras(lists, run, "6")
    assert len(joined) == 2 * COUNT


def test_refined_cameras_are_lists_too(lists, list_server):
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": node("RefinePoses", views=["1", 0], preset="draft", seed=0, device="cpu"),
        "3": node("ShowCameras", camera_info=["2", 2]),
    }
    run = run_to_end(lists, with_saved_views(prompt, ["2", 0], "refined"))
    refined = saved_cameras(list_server, "refined")
    (shown,) = shown_cameras(lists, run, "3")
    positions = torch.tensor([[each["position"][axis] for axis in "xyz"] for each in shown])
    torch.testing.assert_close(positions, refined.positions, atol=1e-5, rtol=0)


def test_sampling_follows_a_camera_list(lists, list_server):
    prompt = sampling_prompt("SampleOrbit", SV3D_P, cameras=["7", 1])
    prompt["7"] = node("OrbitCameras", **orbit_inputs("sv3d_sine"))
    prompt["5"]["inputs"]["filename_prefix"] = "cameras/sampled"
    run_to_end(lists, prompt)
    sine = cameras_from_orbit(preset_orbit("sv3d_sine", 64, 64))
    assert_equal(saved_cameras(list_server, "sampled"), sine[[20, *range(20)]])


def test_depth_anything_geometry_gives_the_cameras(lists, list_server):
    """The stand-in's world has its origin at the first camera, ours at the object."""
    prompt = {
        "1": KNIGHT,
        "2": stand_in_orbit(),
        "3": node("RenderViews", mesh=["1", 0], cameras=["2", 0], **RENDER),
        "4": node("StandInGeometry", image=["3", 1], fov=FOV, distance=DISTANCE),
        "5": assemble(["3", 1], ["4", 0]),
    }
    run_to_end(lists, with_saved_views(prompt, ["5", 0], "geometry"))
    expected = known_cameras()
    found = saved_cameras(list_server, "geometry")
    torch.testing.assert_close(found.intrinsics, expected.intrinsics, atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(found.rotation, expected.rotation, atol=1e-5, rtol=0)
    shift = torch.tensor([0.0, 0.0, DISTANCE])
    torch.testing.assert_close(found.positions + shift, expected.positions, atol=1e-5, rtol=0)


def test_invalid_cameras_are_an_error_of_the_node(lists):
    prompt = {
        "1": node("LoadViews", folder="knight/views"),
        "2": stand_in_orbit(),
        "3": assemble(["1", 1], ["2", 0]),
        "4": node("SaveViews", views=["3", 0], filename_prefix="cameras/invalid"),
    }
    assert "there are 8 images but 5 cameras" in error_message(lists, prompt)


def test_single_cameras_of_versions_without_lists(client, info_or_skip_lists):
    """Nodes that take one camera run once for each camera of ours, and see what we see."""
    info = info_or_skip_lists
    require_nodes(info, "RenderMesh")
    prompt = {
        "1": KNIGHT,
        "2": orbit(),
        "3": node("RenderViews", mesh=["1", 0], cameras=["2", 0], **RENDER),
        "4": node(
            "RenderMesh", mesh=["1", 0], camera_info=["2", 1], mode="texture", width=96, height=96,
            background="#ffffff",
        ),
        "5": node("MaskToImage", mask=["3", 3]),
        "6": node("MaskToImage", mask=["4", 1]),
        "7": node("SaveImage", images=["5", 0], filename_prefix="cameras/ours"),
        "8": node("SaveImage", images=["6", 0], filename_prefix="cameras/theirs"),
    }  # fmt: skip
    run = run_to_end(client, prompt)
    ours, theirs = (masks_of(client, run, key) for key in ("7", "8"))
    assert ours.shape == theirs.shape == (COUNT, 96, 96)
    assert ((ours & theirs).sum() / (ours | theirs).sum()) > 0.97


@pytest.fixture
def info_or_skip_lists(client) -> dict[str, Any]:
    info = client.object_info()
    if "BatchCameras" in info:
        pytest.skip("this ComfyUI passes lists of cameras")
    assert info["OrbitCameras"]["output_is_list"] == [False, True, False]
    return info


def masks_of(client: Client, run: PromptRun, key: str) -> np.ndarray:
    """(V, H, W) bool of saved images."""
    from .test_sampling import saved_images

    return np.stack([image[..., 0] > 127 for image in saved_images(client, run, key)])


def test_joined_views_have_all_cameras(client, server):
    """The ids of the inputs are the same in all versions."""
    prompt = {
        "1": KNIGHT,
        "2": orbit(),
        "3": orbit(elevation=30.0, count=3, width=64, height=64),
        "4": node("RenderViews", mesh=["1", 0], cameras=["2", 0], **RENDER),
        "5": node(
            "RenderViews", mesh=["1", 0], cameras=["3", 0], **RENDER | {"width": 64, "height": 64}
        ),
        "6": node("JoinViews", **{"views.views_0": ["4", 0], "views.views_1": ["5", 0]}),
        "7": node("JoinCameras", **{"cameras.cameras_0": ["2", 0], "cameras.cameras_1": ["3", 0]}),
        "8": node("RenderViews", mesh=["1", 0], cameras=["7", 0], **RENDER),
    }
    prompt["9"] = with_saved_views({}, ["6", 0], "joined")["save"]
    prompt["10"] = with_saved_views({}, ["8", 0], "rendered")["save"]
    run_to_end(client, prompt)
    joined, rendered = (saved_cameras(server, name) for name in ("joined", "rendered"))
    assert len(joined) == COUNT + 3
    assert_equal(joined, rendered)


def test_reports_and_warns_of_ignored_inputs(client):
    def text_of(**inputs: Any) -> tuple[str, list[str]]:
        prompt = {
            "1": node("OrbitCameras", **orbit_inputs(**inputs)),
            "2": node("RenderViews", mesh=["3", 0], cameras=["1", 0], **RENDER),
            "3": KNIGHT,
            "4": node("PreviewImage", images=["2", 1]),
        }
        run = run_to_end(client, prompt)
        return run.texts.get("1", ""), run.outputs.get("1", {}).get("text", [])

    unchanged = {"azimuths": "0, 90, 180, 270"}
    assert text_of(preset="v3d", **unchanged)[1] == []
    for text in text_of(preset="v3d", count=7, fov=20.0, **unchanged):
        assert "preset v3d: these inputs are ignored, although changed: count, fov" in str(text)
