"""Textures of meshes in a real ComfyUI: PBR maps, edits, kept colours, views that do not fit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from nova3d_core.io.mesh.read import read_mesh

from ..io.test_mesh_write import parsed_glb
from .client import Client, PromptRun, error_message
from .prompts import node
from .workflow_check import Prompt

pytestmark = pytest.mark.host

FUSED = "example: knight, fused"
KNIGHT = node("NOVA3DLoadMesh", file="character_knight.glb", up_axis="+Y")
BAKE = {"texture_size": 256, "uv": "keep", "exposure": True, "consistency": True, "sharpen": True}
EXPORT = {"filename_prefix": "textures/mesh", "target_faces": 1000, "texture_size": 64}
MATERIAL_TEXTURES = ("normalTexture", "occlusionTexture", "emissiveTexture")


def saved_file(client: Client, run: PromptRun, key: str) -> bytes:
    assert run.has_succeeded, run.node_errors or run.error
    (file,) = client.history(run.prompt_id)["outputs"][key]["3d"]
    return client.view(file)


def saved_texture(client: Client, run: PromptRun, key: str, folder: Path) -> torch.Tensor:
    path = folder / f"{key}.glb"
    path.write_bytes(saved_file(client, run, key))
    return read_mesh(path).texture


def constant(colour: int) -> dict[str, Any]:
    return node("EmptyImage", width=8, height=8, batch_size=1, color=colour)


def material_images(content: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The only material of a GLB, and the pixels of each of its textures."""
    header, binary = parsed_glb(content)
    (material,) = header["materials"]
    rough = material["pbrMetallicRoughness"]
    references = {
        name: owner[name]
        for owner in (rough, material)
        for name in ("baseColorTexture", "metallicRoughnessTexture", *MATERIAL_TEXTURES)
        if name in owner
    }
    images = {}
    for name, reference in references.items():
        image = header["images"][header["textures"][reference["index"]]["source"]]
        view = header["bufferViews"][image["bufferView"]]
        data = binary[view.get("byteOffset", 0) :][: view["byteLength"]]
        images[name] = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    return material, images


def test_export_keeps_the_maps_that_save_glb_writes(client):
    if "ApplyTextureToMesh" not in client.object_info():
        pytest.skip("this ComfyUI has no PBR maps")
    prompt: Prompt = {
        "1": KNIGHT,
        **{str(10 + i): constant(each) for i, each in enumerate((0x804020, 0x404040, 0xC0C0C0))},
        "13": constant(0xA0A0A0),
        "14": constant(0x8080FF),
        "2": node(
            "ApplyTextureToMesh",
            mesh=["1", 0],
            base_color=["10", 0],
            metallic=["11", 0],
            roughness=["12", 0],
            occlusion=["13", 0],
            normal_map=["14", 0],
        ),
        "3": node("ExportMesh", mesh=["2", 0], format="glb", **EXPORT),
        "4": node("SaveGLB", mesh=["2", 0], filename_prefix="textures/theirs"),
        "5": node("ExportMesh", mesh=["2", 0], format="obj", **EXPORT),
    }
    run = client.run(prompt)
    ours, theirs = (saved_file(client, run, key) for key in ("3", "4"))
    material, images = material_images(ours)
    expected, expected_images = material_images(theirs)
    assert set(images) == set(expected_images) >= {"metallicRoughnessTexture", "normalTexture"}
    for name, image in images.items():
        assert np.abs(image.astype(int) - expected_images[name]).max() <= 1, name
    for name in ("metallicFactor", "baseColorFactor"):
        default = [1.0] * 4 if name == "baseColorFactor" else 1.0
        rough, expected_rough = (m["pbrMetallicRoughness"] for m in (material, expected))
        assert rough.get(name, default) == expected_rough.get(name, default)
    assert material["occlusionTexture"]["strength"] == expected["occlusionTexture"]["strength"]
    names = [
        set(parsed_glb(each)[0]["meshes"][0]["primitives"][0]["attributes"])
        for each in (ours, theirs)
    ]
    assert "TANGENT" in names[0] and names[0] >= names[1]
    (text,) = client.history(run.prompt_id)["outputs"]["5"]["text"]
    assert "OBJ cannot store" in text and "normal map" in text


def view_prompt(**bake: Any) -> Prompt:
    """The fused knight baked from one render of the other knight."""
    camera = {"preset": "custom", "count": 1, "elevation": 0.0, "motion": "static"}
    camera |= {"elevation_amplitude": 0.0, "azimuths": "0", "elevations": "0", "radius": 2.4}
    camera |= {"fov": 39.6, "projection": "perspective", "ortho_scale": 1.5}
    render = {"normalise": True, "supersample": 1, "normal_frame": "world"}
    size = {"width": 128, "height": 128}
    return {
        "1": KNIGHT,
        "2": node("OrbitCameras", **camera, **size),
        "3": node("RenderViews", mesh=["1", 0], cameras=["2", 0], **render, **size),
        "4": node("NOVA3DLoadMesh", file=FUSED, up_axis="+Y"),
        "5": node("SolidMask", value=1.0, width=128, height=64),
        "6": node("SolidMask", value=0.0, width=128, height=128),
        "7": node(
            "MaskComposite", destination=["6", 0], source=["5", 0], x=0, y=0, operation="add"
        ),
        "8": node("BakeTexture", **{"mesh": ["4", 0], "views": ["3", 0]} | BAKE | bake),
        "9": node("ExportMesh", mesh=["8", 0], format="glb", **EXPORT),
    }


@pytest.fixture(scope="module")
def own_texture() -> torch.Tensor:
    """(H, W, 3) texture of the fused knight."""
    return read_mesh(Path(__file__).parents[2] / "nova3d_core/assets/knight/fused.glb").texture


def test_unseen_parts_keep_the_texture(client, own_texture, tmp_path):
    """A graph saved before the option existed: its prompt has no `keep_texture`."""
    size = own_texture.shape[0]
    run = client.run(view_prompt(texture_size=size))
    baked = saved_texture(client, run, "9", tmp_path)
    kept = (baked == own_texture).all(dim=-1).float().mean()
    assert 0.3 < kept < 0.95
    run = client.run(view_prompt(texture_size=size, keep_texture=False))
    filled = saved_texture(client, run, "9", tmp_path)
    assert (filled == own_texture).all(dim=-1).float().mean() < 0.1


def test_edit_mask_bakes_only_its_half(client, own_texture, tmp_path):
    whole = client.run(view_prompt(texture_size=own_texture.shape[0]))
    edited = client.run(view_prompt(edit_masks=["7", 0]))
    changed = [
        (saved_texture(client, run, "9", tmp_path) != own_texture).any(dim=-1).float().mean()
        for run in (whole, edited)
    ]
    assert 0.01 < changed[1] < 0.8 * changed[0]


def test_edit_masks_must_match_the_views(client):
    prompt = view_prompt(edit_masks=["7", 0])
    prompt["2"]["inputs"]["count"] = 2
    assert "there is 1 edit mask of 128x128 px for 2 views" in error_message(client, prompt)


def test_views_that_do_not_fit_the_mesh_are_refused_before_the_bake(client):
    """The views show the normalised knight; in its own units it is 2.47 times as large."""
    prompt = view_prompt(mesh=["1", 0])
    prompt["2"]["inputs"] |= {"count": 6}
    message = error_message(client, prompt)
    assert "do not fit the mesh" in message and "IoU of 0." in message
    assert "2.4" in message and "times too large" in message
    poses = {"preset": "draft", "seed": 0, "device": "cpu"}
    refine = {
        **{key: prompt[key] for key in ("1", "2", "3")},
        "5": node("RefinePoses", views=["3", 0], mesh=["1", 0], **poses),
        "6": node("PreviewAny", source=["5", 1]),
    }
    assert "times too large" in error_message(client, refine)
