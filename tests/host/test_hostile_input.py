"""Inputs that refer to files outside the input folder, start other programs, or are inverted.

Each gives an error on the node that names the input; warnings appear in /history.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from .client import Client, error_message
from .prompts import VIEWS, load_prompt, node, node_key, with_inputs
from .server import PROJECT
from .workflow_check import Prompt

pytestmark = pytest.mark.host

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
    b"0 0 64 64 rectfill\nshowpage\n%%EOF\n"
)
"""PostScript program: opening it as an image would start Ghostscript."""
SECRET = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
TETRAHEDRON = (
    "mtllib {}\nusemtl skin\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\n"
    "f 1/1 3/3 2/2\nf 1/1 2/2 4/3\nf 1/1 4/3 3/2\nf 2/1 3/2 4/3\n"
)


def gltf_with_buffer(uri: str) -> dict[str, Any]:
    """One triangle whose vertex positions are read from the file `uri`."""
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(SECRET)}],
        "buffers": [{"byteLength": len(SECRET), "uri": uri}],
    }


@pytest.fixture(scope="module", autouse=True)
def hostile_files(request):
    """Hostile files in the input folder; the secret file is next to the folder."""
    base = request.getfixturevalue("server").base
    folder = base / "input"
    (base / "secret.bin").write_bytes(SECRET)
    shutil.copy2(base / "secret.bin", folder / "inside.bin")
    uris = {
        "inside": "inside.bin",
        "above": "../secret.bin",
        "encoded": "%2e%2e/secret.bin",
        "absolute": (base / "secret.bin").as_posix(),
        "file_url": (base / "secret.bin").as_uri(),
    }
    if sys.platform != "win32":
        (folder / "link.bin").symlink_to(base / "secret.bin")
        uris["link"] = "link.bin"
    for name, uri in uris.items():
        (folder / f"{name}.gltf").write_text(json.dumps(gltf_with_buffer(uri)))
    (folder / "eps.png").write_bytes(EPS)
    (folder / "eps.mtl").write_text("newmtl skin\nmap_Kd eps.png\n")
    (folder / "eps.obj").write_text(TETRAHEDRON.format("eps.mtl"))
    (folder / "bare.obj").write_text(TETRAHEDRON.format("gone.mtl"))
    for name in ("with_eps", "inverted"):
        shutil.copytree(folder / "knight" / "views", folder / name)
    images, masks = (
        [frame[key] for frame in json.loads(transforms.read_text())["frames"]]
        for transforms, key in (
            (folder / "with_eps" / "transforms.json", "file_path"),
            (folder / "inverted" / "transforms.json", "mask_path"),
        )
    )
    (folder / "with_eps" / images[0]).write_bytes(EPS)
    for mask in masks:
        with Image.open(folder / "inverted" / mask) as image:
            inverted = ImageOps.invert(image.convert("L"))
        inverted.save(folder / "inverted" / mask)


def export_prompt(file: str) -> Prompt:
    """Loads a mesh from the input folder and exports it as a GLB."""
    export = {"format": "glb", "filename_prefix": "hostile/mesh"}
    export |= {"target_faces": 1000, "texture_size": 64}
    return {
        "1": node("NOVA3DLoadMesh", file=file, up_axis="+Y"),
        "2": node("ExportMesh", mesh=["1", 0], **export),
    }


def fuse_prompt(folder: str) -> Prompt:
    return with_inputs(load_prompt("views_to_mesh"), "LoadViews", folder=folder)


def assemble_prompt(masks: str, invert_masks: bool) -> Prompt:
    """Assembles rendered views with their masks, "right" or "inverted", and saves them."""
    prompt = load_prompt("multiview_images_to_mesh")
    assemble = prompt[node_key(prompt, "AssembleViews")]["inputs"]
    assemble |= {"invert_masks": invert_masks}
    prompt["90"] = node("InvertMask", mask=assemble["masks"])
    assemble["masks"] = ["90", 0] if masks == "inverted" else assemble["masks"]
    prompt["91"] = node(
        "SaveViews", views=[node_key(prompt, "AssembleViews"), 0], filename_prefix="hostile/views"
    )
    needed = {"91", "90", *_sources(prompt, "91")}
    return {key: prompt[key] for key in needed}


def _sources(prompt: Prompt, key: str) -> set[str]:
    """A node and all nodes that it depends on."""
    links = [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    return {key}.union(*(_sources(prompt, link) for link in links))


def test_reads_a_buffer_inside_the_folder(client):
    assert client.run(export_prompt("inside.gltf")).has_succeeded


@pytest.mark.parametrize("name", ["above", "encoded", "absolute", "file_url", "link"])
def test_mesh_cannot_open_files_outside_its_folder(client, server, name):
    if name == "link" and sys.platform == "win32":
        pytest.skip("links need a privilege on Windows")
    message = error_message(client, export_prompt(f"{name}.gltf"))
    assert message.startswith("NOVA3DLoadMesh: ")
    assert f"{name}.gltf" in message
    assert not list((server.base / "output").rglob(f"*{name}*"))
    assert len(message) < 500 and "Traceback" not in message


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (lambda: export_prompt("eps.obj"), ["NOVA3DLoadMesh", "eps.png", "PNG"]),
        (lambda: export_prompt("eps.png"), ["NOVA3DLoadMesh", "eps.png", ".glb"]),
        (lambda: fuse_prompt("with_eps"), ["LoadViews", "with_eps", "PNG"]),
    ],
    ids=["texture", "mesh", "view"],
)
def test_rejects_postscript_as_an_image(client, prompt, words):
    message = error_message(client, prompt())
    assert all(word in message for word in words), message
    assert "ostscript" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (lambda: assemble_prompt("inverted", False), "AssembleViews"),
        (lambda: assemble_prompt("right", True), "AssembleViews"),
        (lambda: fuse_prompt("inverted"), "LoadViews"),
    ],
    ids=["inverted", "inverted by the input", "in a folder"],
)
def test_rejects_inverted_masks(client, prompt, kind):
    message = error_message(client, prompt())
    assert message.startswith(f"{kind}: ")
    assert f"inverted in {VIEWS} of {VIEWS} views" in message
    assert "invert_masks" in message and "Invert Mask" in message
    assert len(message) < 500


def test_invert_masks_corrects_inverted_masks(client, output):
    run = client.run(assemble_prompt("inverted", True))
    assert run.has_succeeded, run.error
    (masks,) = (path / "masks" for path in (output / "hostile").glob("views_*"))
    with Image.open(next(masks.iterdir())) as mask:
        assert mask.convert("L").getpixel((0, 0)) == 0


def warnings_in_history(client: Client, prompt: Prompt) -> dict[str, list[str]]:
    """Node id -> `text` of its entry in the history."""
    run = client.run(prompt)
    assert run.has_succeeded, run.error
    outputs = client.history(run.prompt_id)["outputs"]
    assert (
        run.texts.items() <= {key: "\n".join(out["text"]) for key, out in outputs.items()}.items()
    )
    return {key: output["text"] for key, output in outputs.items()}


def test_warnings_appear_in_the_history(client):
    prompt = export_prompt("bare.obj")
    first = warnings_in_history(client, prompt)
    (warning,) = first["1"]
    assert "bare.obj" in warning and "gone.mtl" in warning
    assert first["2"] == []


def test_node_without_warnings_has_no_history_entry(client):
    run = client.run(export_prompt("inside.gltf"))
    assert set(client.history(run.prompt_id)["outputs"]) == {"2"}


def test_example_client_prints_warnings(client, tmp_path):
    prompt = export_prompt("bare.obj")
    prompt["2"]["inputs"]["filename_prefix"] = "hostile/client"
    (tmp_path / "prompt.json").write_text(json.dumps(prompt))
    command = [sys.executable, PROJECT / "docs" / "api_client.py", tmp_path / "prompt.json"]
    command += ["--server", client.url, "-o", tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "NOVA3DLoadMesh (node 1): " in ran.stderr and "gone.mtl" in ran.stderr
    assert Path(ran.stdout.strip()).suffix == ".glb"
