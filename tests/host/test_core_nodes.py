"""Our meshes go through the core's own 3D nodes, and theirs through ours, where it has them."""

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

from .client import Client, Run
from .prompts import key_of, node, shipped
from .workflow_check import Prompt

pytestmark = pytest.mark.host

KNIGHT = node("NOVA3DLoadMesh", file="character_knight.glb", up_axis="+Y")
SIZE = 200


@pytest.fixture
def info(client) -> dict[str, Any]:
    return client.object_info()


def needs(info: dict[str, Any], *kinds: str) -> None:
    missing = [kind for kind in kinds if kind not in info]
    if missing:
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")


def done(client: Client, prompt: Prompt) -> Run:
    run = client.run(prompt)
    assert run.has_succeeded, run.refused or run.error
    return run


def export(mesh: list, file_format: str = "glb") -> dict[str, Any]:
    size = {"target_faces": 1000, "texture_size": 64}
    return node("ExportMesh", mesh=mesh, format=file_format, filename_prefix="core/mesh", **size)


def mesh_of(client: Client, run: Run, key: str, folder: Path) -> Mesh:
    (file,) = client.history(run.prompt_id)["outputs"][key]["3d"]
    (folder / file["filename"]).write_bytes(client.view(file))
    return read_mesh(folder / file["filename"])


def image_of(client: Client, run: Run, key: str) -> np.ndarray:
    """(H, W, 3) in 0..1."""
    (file,) = client.history(run.prompt_id)["outputs"][key]["images"]
    image = PIL.Image.open(io.BytesIO(client.view(file))).convert("RGB")
    return np.asarray(image, dtype=np.float32) / 255.0


def baked_knight() -> Prompt:
    """The fused and textured mesh of the shipped workflow, without its outputs."""
    prompt = shipped("views_to_mesh")
    return {key: prompt[key] for key in prompt if key not in ("5", "6")}


def test_path_goes_into_the_hosts_preview(client):
    """Preview 3D takes a path under the output folder, in every version that has it."""
    prompt = {"1": KNIGHT, "2": export(["1", 0]), "3": node("Preview3D", model_file=["2", 0])}
    run = done(client, prompt)
    assert "3" in run.outputs
    shown = run.outputs["3"]["result"][0]
    assert shown.startswith("core/mesh_") and shown.endswith(".glb")


def test_hosts_own_writer_takes_our_mesh(client, info, tmp_path):
    prompt = {"1": KNIGHT, "2": node("SaveGLB", mesh=["1", 0], filename_prefix="core/theirs")}
    ours = read_mesh(Path(__file__).parents[2] / "nova3d_core/assets/character_knight.glb")
    theirs = mesh_of(client, done(client, prompt), "2", tmp_path)
    assert len(theirs.faces) == len(ours.faces)
    corners = theirs.vertices[theirs.faces], ours.vertices[ours.faces]
    assert torch.allclose(*corners, atol=1e-5)
    if "MeshToFile3D" in info:  # hosts that write textures
        assert torch.allclose(theirs.uv[theirs.faces], ours.uv[ours.faces], atol=1e-5)
        assert (theirs.texture - ours.texture).abs().max() < 2 / 255


def test_hosts_own_writer_takes_the_fused_mesh(client, tmp_path):
    prompt = baked_knight()
    prompt["9"] = node("SaveGLB", mesh=[key_of(prompt, "BakeTexture"), 0], filename_prefix="core/f")
    assert is_watertight(mesh_of(client, done(client, prompt), "9", tmp_path))


def test_decimated_and_unwrapped_by_the_host_then_baked_by_us(client, info, tmp_path):
    needs(info, "DecimateMesh", "UnwrapMesh")
    prompt = baked_knight()
    bake, raw = key_of(prompt, "BakeTexture"), [key_of(prompt, "ExtractMesh"), 0]
    prompt["20"] = node("DecimateMesh", mesh=raw, target_face_count=800, placement_mode="midpoint")
    prompt["21"] = node(
        "UnwrapMesh", mesh=["20", 0], segmenter="pec", resolution=256, padding=1, weld_distance=0.0
    )
    prompt[bake]["inputs"] |= {"mesh": ["21", 0], "uv": "keep"}
    prompt["9"] = export([bake, 0])
    mesh = mesh_of(client, done(client, prompt), "9", tmp_path)
    assert 300 < len(mesh.faces) <= 1000
    assert mesh.texture is not None and mesh.texture.std() > 0.05


def test_files_of_the_host_come_into_our_nodes(client, info, tmp_path):
    needs(info, "MeshToFile3D")
    prompt = {
        "1": KNIGHT,
        "2": node("MeshToFile3D", mesh=["1", 0]),
        "3": export(["2", 0], "ply"),
        "4": export(["2", 0]),
    }
    run = done(client, prompt)
    ours = read_mesh(Path(__file__).parents[2] / "nova3d_core/assets/character_knight.glb")
    through = mesh_of(client, run, "4", tmp_path)
    assert torch.allclose(through.vertices[through.faces], ours.vertices[ours.faces], atol=1e-5)
    assert (through.texture - ours.texture).abs().max() < 2 / 255


def test_our_file_goes_into_the_hosts_nodes(client, info, tmp_path):
    needs(info, "MeshToFile3D")
    assert info["ExportMesh"]["output"][1] == "FILE_3D_GLB"
    prompt = {
        "1": KNIGHT,
        "2": export(["1", 0]),
        "3": node("SaveGLB", mesh=["2", 1], filename_prefix="core/file"),
    }
    run = done(client, prompt)
    ours, theirs = (mesh_of(client, run, key, tmp_path) for key in ("2", "3"))
    assert torch.equal(ours.vertices, theirs.vertices)


def test_both_renderers_see_the_same_through_one_camera(client, info):
    """The host's renderer and ours, the host's camera: silhouettes and colours fall together.

    A mirrored axis, a camera that turns the other way or a texture upside down would show.
    """
    needs(info, "RenderMesh", "CreateCameraInfo")
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
    run = done(client, prompt)
    our_image, their_image, our_mask, their_mask = (
        image_of(client, run, key) for key in ("11", "12", "13", "14")
    )
    inside, theirs_inside = our_mask[..., 0] > 0.5, their_mask[..., 0] > 0.5
    overlap = (inside & theirs_inside).sum() / (inside | theirs_inside).sum()
    assert 0.02 < inside.mean() < 0.9
    assert overlap > 0.97
    both = inside & theirs_inside
    alike = np.corrcoef(our_image[both].ravel(), their_image[both].ravel())[0, 1]
    assert alike > 0.9
