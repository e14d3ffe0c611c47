"""Inputs that reach outside the input folder, start other programs, or mean the opposite.

Each is an error on the node that names the input; warnings are in the host's history.
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

from .client import Client
from .prompts import VIEWS, key_of, node, shipped, with_inputs
from .server import PROJECT
from .test_bad_input import complaint
from .workflow_check import Prompt

pytestmark = pytest.mark.host

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
    b"0 0 64 64 rectfill\nshowpage\n%%EOF\n"
)
"""A program in PostScript: opening it as an image starts Ghostscript."""
SECRET = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
TETRAHEDRON = (
    "mtllib {}\nusemtl skin\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\n"
    "f 1/1 3/3 2/2\nf 1/1 2/2 4/3\nf 1/1 4/3 3/2\nf 2/1 3/2 4/3\n"
)


def gltf_with_buffer(uri: str) -> dict[str, Any]:
    """One triangle whose positions are the bytes that `uri` names."""
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
    """Files in the input folder; the secret lies next to it."""
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
        with Image.open(folder / "inverted" / mask) as given:
            turned = ImageOps.invert(given.convert("L"))
        turned.save(folder / "inverted" / mask)


def export_of(file: str) -> Prompt:
    """Reads a mesh of the input folder and writes it as a GLB."""
    export = {"format": "glb", "filename_prefix": "hostile/mesh"}
    export |= {"target_faces": 1000, "texture_size": 64}
    return {
        "1": node("NOVA3DLoadMesh", file=file, up_axis="+Y"),
        "2": node("ExportMesh", mesh=["1", 0], **export),
    }


def views_of(folder: str) -> Prompt:
    return with_inputs(shipped("views_to_mesh"), "LoadViews", folder=folder)


def assembled(masks: str, invert_masks: bool) -> Prompt:
    """Rendered views put together again with their masks, "right" or "inverted"; then saved."""
    prompt = shipped("multiview_images_to_mesh")
    assemble = prompt[key_of(prompt, "AssembleViews")]["inputs"]
    assemble |= {"invert_masks": invert_masks}
    prompt["90"] = node("InvertMask", mask=assemble["masks"])
    assemble["masks"] = ["90", 0] if masks == "inverted" else assemble["masks"]
    prompt["91"] = node(
        "SaveViews", views=[key_of(prompt, "AssembleViews"), 0], filename_prefix="hostile/views"
    )
    needed = {"91", "90", *_sources(prompt, "91")}
    return {key: prompt[key] for key in needed}


def _sources(prompt: Prompt, key: str) -> set[str]:
    """The nodes that a node needs, and what those need."""
    links = [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
    return {key}.union(*(_sources(prompt, link) for link in links))


def test_a_buffer_in_the_folder_is_read(client):
    assert client.run(export_of("inside.gltf")).has_succeeded


@pytest.mark.parametrize("name", ["above", "encoded", "absolute", "file_url", "link"])
def test_a_mesh_opens_nothing_outside_its_folder(client, server, name):
    if name == "link" and sys.platform == "win32":
        pytest.skip("links need a privilege on Windows")
    said = complaint(client, export_of(f"{name}.gltf"))
    assert said.startswith("NOVA3DLoadMesh: ")
    assert f"{name}.gltf" in said
    assert not list((server.base / "output").rglob(f"*{name}*"))
    assert len(said) < 500 and "Traceback" not in said


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (lambda: export_of("eps.obj"), ["NOVA3DLoadMesh", "eps.png", "PNG"]),
        (lambda: export_of("eps.png"), ["NOVA3DLoadMesh", "eps.png", ".glb"]),
        (lambda: views_of("with_eps"), ["LoadViews", "with_eps", "PNG"]),
    ],
    ids=["texture", "mesh", "view"],
)
def test_postscript_is_no_image(client, prompt, words):
    said = complaint(client, prompt())
    assert all(word in said for word in words), said
    assert "ostscript" not in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (lambda: assembled("inverted", False), "AssembleViews"),
        (lambda: assembled("right", True), "AssembleViews"),
        (lambda: views_of("inverted"), "LoadViews"),
    ],
    ids=["inverted", "inverted by the node", "in a folder"],
)
def test_inverted_masks_are_refused(client, prompt, kind):
    said = complaint(client, prompt())
    assert said.startswith(f"{kind}: ")
    assert f"inverted in {VIEWS} of {VIEWS} views" in said
    assert "invert_masks" in said and "InvertMask" in said
    assert len(said) < 500


def test_inverted_masks_are_inverted_back(client, output):
    run = client.run(assembled("inverted", True))
    assert run.has_succeeded, run.error
    (masks,) = (path / "masks" for path in (output / "hostile").glob("views_*"))
    with Image.open(next(masks.iterdir())) as mask:
        assert mask.convert("L").getpixel((0, 0)) == 0


def warnings_in_history(client: Client, prompt: Prompt) -> dict[str, list[str]]:
    """Node id -> what `text` of its entry in the history says."""
    run = client.run(prompt)
    assert run.has_succeeded, run.error
    outputs = client.history(run.prompt_id)["outputs"]
    assert (
        run.texts.items() <= {key: "\n".join(out["text"]) for key, out in outputs.items()}.items()
    )
    return {key: output["text"] for key, output in outputs.items()}


def test_warnings_are_in_the_history(client):
    prompt = export_of("bare.obj")
    first = warnings_in_history(client, prompt)
    (warning,) = first["1"]
    assert "bare.obj" in warning and "gone.mtl" in warning
    assert first["2"] == []


def test_a_node_without_warnings_has_no_entry(client):
    run = client.run(export_of("inside.gltf"))
    assert set(client.history(run.prompt_id)["outputs"]) == {"2"}


def test_example_client_prints_warnings(client, tmp_path):
    prompt = export_of("bare.obj")
    prompt["2"]["inputs"]["filename_prefix"] = "hostile/client"
    (tmp_path / "prompt.json").write_text(json.dumps(prompt))
    words = [sys.executable, PROJECT / "docs" / "api_client.py", tmp_path / "prompt.json"]
    words += ["--server", client.url, "-o", tmp_path]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "NOVA3DLoadMesh (node 1): " in ran.stderr and "gone.mtl" in ran.stderr
    assert Path(ran.stdout.strip()).suffix == ".glb"
