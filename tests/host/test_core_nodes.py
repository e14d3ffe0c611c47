"""Interoperability with ComfyUI's own 3D nodes, in versions that have them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from nova3d_core.evaluation.occupancy import is_watertight
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh

from .client import Client, PromptRun
from .prompts import load_prompt, node, node_key
from .workflow_check import Prompt

pytestmark = pytest.mark.host

KNIGHT = node("NOVA3DLoadMesh", file="character_knight.glb", up_axis="+Y")
SIZE = 200


@pytest.fixture
def info(client) -> dict[str, Any]:
    return client.object_info()


def require_nodes(info: dict[str, Any], *kinds: str) -> None:
    missing = [kind for kind in kinds if kind not in info]
    if missing:
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")


def run_to_end(client: Client, prompt: Prompt) -> PromptRun:
    run = client.run(prompt)
    assert run.has_succeeded, run.node_errors or run.error
    return run


def export_node(mesh: list, file_format: str = "glb") -> dict[str, Any]:
    size = {"target_faces": 1000, "texture_size": 64}
    return node("ExportMesh", mesh=mesh, format=file_format, filename_prefix="core/mesh", **size)


def mesh_of(client: Client, run: PromptRun, key: str, folder: Path) -> Mesh:
    (file,) = client.history(run.prompt_id)["outputs"][key]["3d"]
    (folder / file["filename"]).write_bytes(client.view(file))
    return read_mesh(folder / file["filename"])


def image_of(client: Client, run: PromptRun, key: str) -> np.ndarray:
    """(H, W, 3) in 0..1."""
    (file,) = client.history(run.prompt_id)["outputs"][key]["images"]
    image = PIL.Image.open(io.BytesIO(client.view(file))).convert("RGB")
    return np.asarray(image, dtype=np.float32) / 255.0


def baked_knight_prompt() -> Prompt:
    """The shipped workflow up to the baked mesh, without its output nodes."""
    prompt = load_prompt("views_to_mesh")
    return {key: prompt[key] for key in prompt if key not in ("5", "6")}


def test_preview_3d_accepts_the_exported_path(client):
    """Preview 3D takes a path relative to the output folder."""
    prompt = {"1": KNIGHT, "2": export_node(["1", 0]), "3": node("Preview3D", model_file=["2", 0])}
    run = run_to_end(client, prompt)
    assert "3" in run.outputs
    shown = run.outputs["3"]["result"][0]
    assert shown.startswith("core/mesh_") and shown.endswith(".glb")


def test_save_glb_writes_our_mesh(client, info, tmp_path):
    prompt = {"1": KNIGHT, "2": node("SaveGLB", mesh=["1", 0], filename_prefix="core/theirs")}
    ours = read_mesh(Path(__file__).parents[2] / "nova3d_core/assets/character_knight.glb")
    saved = mesh_of(client, run_to_end(client, prompt), "2", tmp_path)
    assert len(saved.faces) == len(ours.faces)
    corners = saved.vertices[saved.faces], ours.vertices[ours.faces]
    assert torch.allclose(*corners, atol=1e-5)
    if "MeshToFile3D" in info:  # versions that write textures
        assert torch.allclose(saved.uv[saved.faces], ours.uv[ours.faces], atol=1e-5)
        assert (saved.texture - ours.texture).abs().max() < 2 / 255


def test_save_glb_writes_the_fused_mesh(client, tmp_path):
    prompt = baked_knight_prompt()
    prompt["9"] = node(
        "SaveGLB", mesh=[node_key(prompt, "BakeTexture"), 0], filename_prefix="core/f"
    )
    assert is_watertight(mesh_of(client, run_to_end(client, prompt), "9", tmp_path))


def test_bakes_a_mesh_decimated_and_unwrapped_by_comfyui(client, info, tmp_path):
    require_nodes(info, "DecimateMesh", "UnwrapMesh")
    prompt = baked_knight_prompt()
    bake, raw = node_key(prompt, "BakeTexture"), [node_key(prompt, "ExtractMesh"), 0]
    prompt["20"] = node("DecimateMesh", mesh=raw, target_face_count=800, placement_mode="midpoint")
    prompt["21"] = node(
        "UnwrapMesh", mesh=["20", 0], segmenter="pec", resolution=256, padding=1, weld_distance=0.0
    )
    prompt[bake]["inputs"] |= {"mesh": ["21", 0], "uv": "keep"}
    prompt["9"] = export_node([bake, 0])
    mesh = mesh_of(client, run_to_end(client, prompt), "9", tmp_path)
    assert 300 < len(mesh.faces) <= 1000
    assert mesh.texture is not None and mesh.texture.std() > 0.05


def test_our_nodes_accept_comfyuis_3d_files(client, info, tmp_path):
    require_nodes(info, "MeshToFile3D")
    prompt = {
        "1": KNIGHT,
        "2": node("MeshToFile3D", mesh=["1", 0]),
        "3": export_node(["2", 0], "ply"),
        "4": export_node(["2", 0]),
    }
    run = run_to_end(client, prompt)
    ours = read_mesh(Path(__file__).parents[2] / "nova3d_core/assets/character_knight.glb")
    converted = mesh_of(client, run, "4", tmp_path)
    assert torch.allclose(converted.vertices[converted.faces], ours.vertices[ours.faces], atol=1e-5)
    assert (converted.texture - ours.texture).abs().max() < 2 / 255


def test_comfyuis_nodes_accept_our_3d_file(client, info, tmp_path):
    require_nodes(info, "MeshToFile3D")
    assert info["ExportMesh"]["output"][1] == "FILE_3D_GLB"
    prompt = {
        "1": KNIGHT,
        "2": export_node(["1", 0]),
        "3": node("SaveGLB", mesh=["2", 1], filename_prefix="core/file"),
    }
    run = run_to_end(client, prompt)
    ours, saved = (mesh_of(client, run, key, tmp_path) for key in ("2", "3"))
    assert torch.equal(ours.vertices, saved.vertices)


def test_renderers_agree_for_the_same_camera(client, info):
    """ComfyUI's renderer and ours, with ComfyUI's camera: silhouettes and colours coincide.

    Detects a mirrored axis, an inverted rotation, and a flipped texture.
    """
    require_nodes(info, "RenderMesh", "CreateCameraInfo")
    camera = {"mode": "orbit", "mode.yaw": 30.0, "mode.pitch": 20.0, "mode.distance": 4.0}
    camera |= {"target_x": 0.0, "target_y": 1.0, "target_z": 0.0, "roll": 0.0, "fov": 45.0}
    camera |= {"zoom": 1.0, "camera_type": "perspective"}
    size = {"width": SIZE, "height": SIZE}
    ours = {"normalise": False, "supersample": 2, "normal_frame": "world"}
    theirs = {"mode": "texture", "background": "#ffffff"}
    prompt = {
        "1": KNIGHT,
        "2": node("CreateCameraInfo", **camera),
        "3": node("RenderViews", mesh=["1", 0], cameras=["2", 0], **size, **ours),
        "4": node("RenderMesh", mesh=["1", 0], camera_info=["2", 0], **size, **theirs),
        "5": node("MaskToImage", mask=["3", 3]),
        "6": node("MaskToImage", mask=["4", 1]),
    }
    for key, source in {"11": ["3", 1], "12": ["4", 0], "13": ["5", 0], "14": ["6", 0]}.items():
        prompt[key] = node("SaveImage", images=source, filename_prefix="core/both")
    run = run_to_end(client, prompt)
    our_image, their_image, our_mask, their_mask = (
        image_of(client, run, key) for key in ("11", "12", "13", "14")
    )
    inside, theirs_inside = our_mask[..., 0] > 0.5, their_mask[..., 0] > 0.5
    overlap = (inside & theirs_inside).sum() / (inside | theirs_inside).sum()
    assert 0.02 < inside.mean() < 0.9
    assert overlap > 0.97
    both = inside & theirs_inside
    correlation = np.corrcoef(our_image[both].ravel(), their_image[both].ravel())[0, 1]
    assert correlation > 0.9
