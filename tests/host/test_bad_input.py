"""Invalid inputs give a 400 or an error on the node that names the problem."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from nova3d_core.io.views.transforms_json import read_views

from .client import error_message
from .prompts import VIEWS, load_prompt, node, node_key, with_inputs
from .workflow_check import Prompt

pytestmark = pytest.mark.host


def assemble_prompt(**assemble: Any) -> Prompt:
    """The shipped workflow with changed inputs of AssembleViews."""
    return with_inputs(load_prompt("multiview_images_to_mesh"), "AssembleViews", **assemble)


def assemble_images_prompt(images: dict[str, Any], **assemble: Any) -> Prompt:
    """The shipped workflow with other images, without masks and normals."""
    prompt = load_prompt("multiview_images_to_mesh")
    cameras = prompt[node_key(prompt, "AssembleViews")]["inputs"]["cameras"]
    inputs = {"images": ["90", 0], "cameras": cameras, "normal_frame": "world"}
    inputs |= {"first_view": 0, "invert_masks": False, **assemble}
    prompt[node_key(prompt, "AssembleViews")] = node("AssembleViews", **inputs)
    return {**prompt, "90": images}


def empty_images(size: int, color: int, count: int = VIEWS) -> dict[str, Any]:
    return node("EmptyImage", width=size, height=size, batch_size=count, color=color)


def fewer_cameras() -> Prompt:
    """One camera fewer for AssembleViews than for RenderViews."""
    prompt = assemble_prompt(cameras=["91", 0])
    inputs = prompt[node_key(prompt, "OrbitCameras")]["inputs"] | {"count": VIEWS - 1}
    return {**prompt, "91": node("OrbitCameras", **inputs)}


def other_cameras(**orbit: Any) -> Prompt:
    """Other cameras for AssembleViews than those of RenderViews."""
    prompt = assemble_prompt(cameras=["91", 0])
    inputs = prompt[node_key(prompt, "OrbitCameras")]["inputs"] | orbit
    return {**prompt, "91": node("OrbitCameras", **inputs)}


def clockwise_cameras() -> Prompt:
    azimuths = ", ".join(str(-360.0 * index / VIEWS) for index in range(VIEWS))
    return other_cameras(motion="custom", azimuths=azimuths, elevations="0")


def one_image_everywhere() -> Prompt:
    """One image and mask, repeated for all cameras."""
    prompt = assemble_images_prompt(
        node("RepeatImageBatch", image=["91", 0], amount=VIEWS), masks=["92", 0]
    )
    prompt["91"] = node("ImageFromBatch", image=["3", 1], batch_index=1, length=1)
    prompt["92"] = node("ImageToMask", image=["93", 0], channel="red")
    prompt["93"] = node("RepeatImageBatch", image=["94", 0], amount=VIEWS)
    prompt["94"] = node("ImageFromBatch", image=["95", 0], batch_index=1, length=1)
    prompt["95"] = node("MaskToImage", mask=["3", 3])
    return prompt


def three_masks() -> Prompt:
    prompt = assemble_prompt(masks=["91", 0])
    return {**prompt, **_three_equal_masks()}


def _three_equal_masks() -> Prompt:
    three = node("EmptyImage", width=96, height=96, batch_size=3, color=0xFFFFFF)
    return {"90": three, "91": node("ImageToMask", image=["90", 0], channel="red")}


INVALID_PROMPTS = {
    "one camera too few": (fewer_cameras, ["AssembleViews", str(VIEWS), str(VIEWS - 1)]),
    "three masks": (three_masks, ["AssembleViews", "mask", "3", str(VIEWS)]),
    "one pixel": (lambda: assemble_images_prompt(empty_images(1, 0)), ["1x1"]),
    "no object": (lambda: assemble_images_prompt(empty_images(64, 0xFFFFFF)), ["mask"]),
    "black background": (lambda: assemble_images_prompt(empty_images(64, 0)), ["mask"]),
    "wrong normal frame": (
        lambda: with_inputs(assemble_prompt(), "RenderViews", normal_frame="camera"),
        ["DeconflictFusion", "normal", "camera", "world"],
    ),
    "inverted masks": (
        lambda: assemble_prompt(invert_masks=True),
        ["AssembleViews", "masks look inverted", "invert_masks"],
    ),
    "colours as normals": (
        lambda: assemble_prompt(normals=["3", 1]),
        ["AssembleViews", "same as the colour images"],
    ),
    "one image everywhere": (
        one_image_everywhere,
        ["DeconflictFusion", f"all {VIEWS} views show the same image"],
    ),
    "unknown normal frame": (
        lambda: assemble_prompt(normal_frame="object"),
        ["normal_frame", "object"],
    ),
    "unknown preset": (
        lambda: with_inputs(assemble_prompt(), "DeconflictFusion", preset="superb"),
        ["preset", "superb"],
    ),
    "unknown format": (
        lambda: with_inputs(load_prompt("views_to_mesh"), "ExportMesh", format="fbx"),
        ["ExportMesh", "fbx", "glb"],
    ),
    "too few faces": (
        lambda: with_inputs(load_prompt("views_to_mesh"), "ExtractMesh", target_faces=-1),
        ["target_faces", "-1"],
    ),
    "text instead of a number": (
        lambda: with_inputs(load_prompt("views_to_mesh"), "ExtractMesh", target_faces="many"),
        ["target_faces", "many"],
    ),
    "missing folder": (
        lambda: with_inputs(load_prompt("views_to_mesh"), "LoadViews", folder="gone"),
        ["LoadViews", "gone"],
    ),
    "parent folder": (
        lambda: with_inputs(
            load_prompt("views_to_mesh"), "LoadViews", folder="../input/knight/views"
        ),
        ["LoadViews", ".."],
    ),
    "absolute file": (
        lambda: one_mesh_prompt(str(Path(__file__).resolve())),
        ["NOVA3DLoadMesh", Path(__file__).name],
    ),
    "broken file": (lambda: one_mesh_prompt("broken.glb"), ["NOVA3DLoadMesh", "broken.glb"]),
    "file of an unknown type": (
        lambda: one_mesh_prompt("notes.txt"),
        ["NOVA3DLoadMesh", "notes.txt"],
    ),
    "broken views": (
        lambda: with_inputs(load_prompt("views_to_mesh"), "LoadViews", folder="broken"),
        ["LoadViews", "transforms.json"],
    ),
    "azimuth that is no number": (
        lambda: with_inputs(
            assemble_prompt(), "OrbitCameras", motion="custom", azimuths="0, 90, east"
        ),
        ["OrbitCameras", "east"],
    ),
}


def one_mesh_prompt(file: str) -> Prompt:
    return {
        "1": node("NOVA3DLoadMesh", file=file, up_axis="+Y"),
        "2": export_node(["1", 0]),
    }


def export_node(mesh: list, prefix: str = "bad/mesh") -> dict[str, Any]:
    return node(
        "ExportMesh",
        mesh=mesh,
        format="glb",
        filename_prefix=prefix,
        target_faces=1000,
        texture_size=64,
    )


@pytest.fixture(scope="module", autouse=True)
def broken_files(request):
    """Invalid files in the input folder."""
    folder = request.getfixturevalue("server").base / "input"
    (folder / "broken.glb").write_bytes(b"glTF" + bytes(40))
    (folder / "notes.txt").write_text("v 0 0 0\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "transforms.json").write_text('{"frames": [')


@pytest.mark.parametrize("name", INVALID_PROMPTS)
def test_invalid_input_is_reported(client, name):
    make, words = INVALID_PROMPTS[name]
    message = error_message(client, make())
    for word in words:
        assert word in message, message
    assert not message.startswith("HTTP") or message.startswith("HTTP 400"), message


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (clockwise_cameras, "reversed order"),
        (lambda: other_cameras(elevation=35.0), "elevations are wrong"),
    ],
    ids=["clockwise", "elevation"],
)
def test_wrong_cameras_are_shown_before_the_fusion(client, make, named):
    """On the node that assembles the views, although nothing is fused."""
    prompt = make()
    key = node_key(prompt, "AssembleViews")
    prompt = {each: prompt[each] for each in ("1", "2", "3", key, "91")}
    prompt[key]["inputs"].pop("normals")
    prompt["92"] = node("SaveViews", views=[key, 0], filename_prefix="order/views")
    run = client.run(prompt)
    assert run.has_succeeded, run.error
    assert named in " ".join(run.outputs[key]["text"])


@pytest.mark.parametrize(
    "prefix", ["../escaped", "sub/../../escaped", "/tmp/escaped", "C:\\escaped"]
)
@pytest.mark.parametrize("kind", ["ExportMesh", "SaveViews"])
def test_rejects_prefix_outside_the_output_folder(client, server, kind, prefix):
    before = set(server.base.rglob("*escaped*"))
    if kind == "ExportMesh":
        prompt = {**one_mesh_prompt("character_knight.glb"), "2": export_node(["1", 0], prefix)}
    else:
        prompt = {
            "1": node("LoadViews", folder="knight/views"),
            "2": node("SaveViews", views=["1", 0], filename_prefix=prefix),
        }
    message = error_message(client, prompt)
    assert kind in message and "filename_prefix" in message
    assert prefix in message or json.dumps(prefix)[1:-1] in message
    assert set(server.base.rglob("*escaped*")) == before
    assert not list(Path("/tmp").glob("escaped*"))


def test_exports_with_the_same_prefix_are_separate_files(client):
    prompt = one_mesh_prompt("character_knight.glb")
    prompt |= {"3": prompt["2"] | {"inputs": prompt["2"]["inputs"] | {"target_faces": 1001}}}
    run = client.run(prompt)
    assert run.has_succeeded
    outputs = client.history(run.prompt_id)["outputs"]
    files = [file["filename"] for key in ("2", "3") for file in outputs[key]["3d"]]
    assert len(set(files)) == 2


def test_alpha_channel_becomes_the_mask(client, output, inputs):
    """RGBA images, as JoinImageWithAlpha and other nodes return them."""
    joined = node("JoinImageWithAlpha", image=["3", 1], alpha=["91", 0])
    prompt = assemble_images_prompt(joined)
    prompt["91"] = node("InvertMask", mask=["3", 3])
    prompt["92"] = node("SaveViews", views=["4", 0], filename_prefix="alpha/views")
    run = client.run({key: prompt[key] for key in ("1", "2", "3", "4", "90", "91", "92")})
    assert run.has_succeeded, run.error
    (folder,) = (output / "alpha").iterdir()
    expected = read_views(inputs / "knight" / "views").masks
    masks = read_views(folder).masks
    assert (masks - expected).abs().mean() < 0.01
    assert masks.mean() > 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of written files")
def test_full_disk_leaves_no_partial_files(client, server, output):
    """A file size limit of 4 kB simulates the full disk."""
    before = set(output.rglob("*"))
    limits = server.process.rlimit(psutil.RLIMIT_FSIZE)
    server.process.rlimit(psutil.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        message = error_message(client, one_mesh_prompt("character_knight.glb"))
    finally:
        server.process.rlimit(psutil.RLIMIT_FSIZE, limits)
    assert "ExportMesh" in message and "mesh_" in message
    assert {path for path in set(output.rglob("*")) - before if path.is_file()} == set()
    assert client.run(one_mesh_prompt("character_knight.glb")).has_succeeded


def test_cancelled_upload_leaves_no_file(client, server):
    address = server.url.removeprefix("http://").split(":")
    head = (
        "POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n\r\n--edge\r\n"
        'Content-Disposition: form-data; name="image"; filename="half.png"\r\n\r\n'
    )
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(head.encode() + b"\x89PNG" + bytes(5000))
    assert client.run(one_mesh_prompt("character_knight.glb")).error is None
    assert not (server.base / "input" / "half.png").exists()
    assert "half.png" not in json.dumps(client.object_info()["LoadImage"])


def test_run_after_an_error_succeeds(client):
    error_message(client, fewer_cameras())
    assert client.run(assemble_prompt()).has_succeeded
