"""Wrong inputs: a 400 or an error on the node that says what is wrong, and the server lives on."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from nova3d_core.io.views.transforms_json import read_views

from .client import Client, Refused
from .prompts import VIEWS, key_of, node, shipped, with_inputs
from .workflow_check import Prompt

pytestmark = pytest.mark.host


def complaint(client: Client, prompt: Prompt) -> str:
    """What the user is told: the host's refusal, or the failed node's message with its class."""
    try:
        run = client.run(prompt)
    except Refused as refused:
        return f"HTTP {refused.status}: {refused.body}"
    if run.refused:
        return json.dumps(run.refused)
    assert run.error is not None, "the prompt ran although its input is wrong"
    return f"{run.error['node_type']}: {run.error['exception_message']}"


def batches(**assemble: Any) -> Prompt:
    """Images of the knight, assembled, fused as shipped; with other inputs for AssembleViews."""
    return with_inputs(shipped("multiview_images_to_mesh"), "AssembleViews", **assemble)


def assembled_from(images: dict[str, Any], **assemble: Any) -> Prompt:
    """The same from other images, without masks and normals."""
    prompt = shipped("multiview_images_to_mesh")
    cameras = prompt[key_of(prompt, "AssembleViews")]["inputs"]["cameras"]
    plain = {"images": ["90", 0], "cameras": cameras, "normal_frame": "world"}
    plain |= {"first_view": 0, "invert_masks": False, **assemble}
    prompt[key_of(prompt, "AssembleViews")] = node("AssembleViews", **plain)
    return {**prompt, "90": images}


def empty_images(size: int, color: int, count: int = VIEWS) -> dict[str, Any]:
    return node("EmptyImage", width=size, height=size, batch_size=count, color=color)


def fewer_cameras() -> Prompt:
    """One camera less for AssembleViews alone; the images are rendered with all of them."""
    prompt = batches(cameras=["91", 0])
    few = prompt[key_of(prompt, "OrbitCameras")]["inputs"] | {"count": VIEWS - 1}
    return {**prompt, "91": node("OrbitCameras", **few)}


def three_masks() -> Prompt:
    prompt = batches(masks=["91", 0])
    return {**prompt, "91": node("SolidMask", value=1.0, width=96, height=96), **_repeated()}


def _repeated() -> Prompt:
    three = node("EmptyImage", width=96, height=96, batch_size=3, color=0xFFFFFF)
    return {"90": three, "91": node("ImageToMask", image=["90", 0], channel="red")}


WRONG = {
    "one camera too few": (fewer_cameras, ["AssembleViews", str(VIEWS), str(VIEWS - 1)]),
    "three masks": (three_masks, ["AssembleViews", "mask", "3", str(VIEWS)]),
    "one pixel": (lambda: assembled_from(empty_images(1, 0)), ["1x1"]),
    "no object": (lambda: assembled_from(empty_images(64, 0xFFFFFF)), ["mask"]),
    "black background": (lambda: assembled_from(empty_images(64, 0)), ["mask"]),
    "wrong normal frame": (
        lambda: with_inputs(batches(), "RenderViews", normal_frame="camera"),
        ["DeconflictFusion", "normal", "camera", "world"],
    ),
    "unknown normal frame": (lambda: batches(normal_frame="object"), ["normal_frame", "object"]),
    "unknown preset": (
        lambda: with_inputs(batches(), "DeconflictFusion", preset="superb"),
        ["preset", "superb"],
    ),
    "unknown format": (
        lambda: with_inputs(shipped("views_to_mesh"), "ExportMesh", format="fbx"),
        ["ExportMesh", "fbx", "glb"],
    ),
    "too few faces": (
        lambda: with_inputs(shipped("views_to_mesh"), "ExtractMesh", target_faces=-1),
        ["target_faces", "-1"],
    ),
    "text for a number": (
        lambda: with_inputs(shipped("views_to_mesh"), "ExtractMesh", target_faces="many"),
        ["target_faces", "many"],
    ),
    "folder that is gone": (
        lambda: with_inputs(shipped("views_to_mesh"), "LoadViews", folder="gone"),
        ["LoadViews", "gone"],
    ),
    "folder above": (
        lambda: with_inputs(shipped("views_to_mesh"), "LoadViews", folder="../input/knight/views"),
        ["LoadViews", ".."],
    ),
    "absolute file": (
        lambda: _one_mesh(str(Path(__file__).resolve())),
        ["NOVA3DLoadMesh", Path(__file__).name],
    ),
    "broken file": (lambda: _one_mesh("broken.glb"), ["NOVA3DLoadMesh", "broken.glb"]),
    "file of an unknown type": (lambda: _one_mesh("notes.txt"), ["NOVA3DLoadMesh", "notes.txt"]),
    "broken views": (
        lambda: with_inputs(shipped("views_to_mesh"), "LoadViews", folder="broken"),
        ["LoadViews", "transforms.json"],
    ),
    "cameras that wander off": (
        lambda: with_inputs(batches(), "OrbitCameras", motion="custom", azimuths="0, 90, east"),
        ["OrbitCameras", "east"],
    ),
}


def _one_mesh(file: str) -> Prompt:
    return {
        "1": node("NOVA3DLoadMesh", file=file, up_axis="+Y"),
        "2": _export(["1", 0]),
    }


def _export(mesh: list, prefix: str = "bad/mesh") -> dict[str, Any]:
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
    """Files in the input folder that are not what they seem; nothing where there is no host."""
    folder = request.getfixturevalue("server").base / "input"
    (folder / "broken.glb").write_bytes(b"glTF" + bytes(40))
    (folder / "notes.txt").write_text("v 0 0 0\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "transforms.json").write_text('{"frames": [')


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(client, name):
    make, words = WRONG[name]
    said = complaint(client, make())
    for word in words:
        assert word in said, said
    assert not said.startswith("HTTP") or said.startswith("HTTP 400"), said


@pytest.mark.parametrize(
    "prefix", ["../escaped", "sub/../../escaped", "/tmp/escaped", "C:\\escaped"]
)
@pytest.mark.parametrize("kind", ["ExportMesh", "SaveViews"])
def test_prefix_outside_the_output_folder_is_refused(client, server, kind, prefix):
    before = set(server.base.rglob("*escaped*"))
    if kind == "ExportMesh":
        prompt = {**_one_mesh("character_knight.glb"), "2": _export(["1", 0], prefix)}
    else:
        prompt = {
            "1": node("LoadViews", folder="knight/views"),
            "2": node("SaveViews", views=["1", 0], filename_prefix=prefix),
        }
    said = complaint(client, prompt)
    assert kind in said and "filename_prefix" in said
    assert prefix in said or json.dumps(prefix)[1:-1] in said
    assert set(server.base.rglob("*escaped*")) == before
    assert not list(Path("/tmp").glob("escaped*"))


def test_two_exports_with_one_prefix_are_two_files(client):
    prompt = _one_mesh("character_knight.glb")
    prompt |= {"3": prompt["2"] | {"inputs": prompt["2"]["inputs"] | {"target_faces": 1001}}}
    run = client.run(prompt)
    assert run.has_succeeded
    outputs = client.history(run.prompt_id)["outputs"]
    files = [file["filename"] for key in ("2", "3") for file in outputs[key]["3d"]]
    assert len(set(files)) == 2


def test_alpha_is_the_mask(client, output, inputs):
    """Four channels, as JoinImageWithAlpha and other nodes make them."""
    joined = node("JoinImageWithAlpha", image=["3", 1], alpha=["91", 0])
    prompt = assembled_from(joined)
    prompt["91"] = node("InvertMask", mask=["3", 3])
    prompt["92"] = node("SaveViews", views=["4", 0], filename_prefix="alpha/views")
    run = client.run({key: prompt[key] for key in ("1", "2", "3", "4", "90", "91", "92")})
    assert run.has_succeeded, run.error
    (folder,) = (output / "alpha").iterdir()
    shipped_masks = read_views(inputs / "knight" / "views").masks
    masks = read_views(folder).masks
    assert (masks - shipped_masks).abs().mean() < 0.01
    assert masks.mean() > 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of written files")
def test_full_disk_leaves_nothing_half_written(client, server, output):
    """The server may write no file above 4 kB meanwhile, as on a disk with no more room."""
    before = set(output.rglob("*"))
    old = server.process.rlimit(psutil.RLIMIT_FSIZE)
    server.process.rlimit(psutil.RLIMIT_FSIZE, (4096, old[1]))
    try:
        said = complaint(client, _one_mesh("character_knight.glb"))
    finally:
        server.process.rlimit(psutil.RLIMIT_FSIZE, old)
    assert "ExportMesh" in said and "mesh_" in said
    assert {path for path in set(output.rglob("*")) - before if path.is_file()} == set()
    assert client.run(_one_mesh("character_knight.glb")).has_succeeded


def test_cancelled_upload_leaves_no_file(client, server):
    address = server.url.removeprefix("http://").split(":")
    head = (
        "POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n\r\n--edge\r\n"
        'Content-Disposition: form-data; name="image"; filename="half.png"\r\n\r\n'
    )
    with socket.create_connection((address[0], int(address[1]))) as line:
        line.sendall(head.encode() + b"\x89PNG" + bytes(5000))
    assert client.run(_one_mesh("character_knight.glb")).error is None
    assert not (server.base / "input" / "half.png").exists()
    assert "half.png" not in json.dumps(client.object_info()["LoadImage"])


def test_error_of_one_run_does_not_spoil_the_next(client):
    complaint(client, fewer_cameras())
    assert client.run(batches()).has_succeeded
