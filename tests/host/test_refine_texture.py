"""Refine Texture in a graph: result, preview, fallback without a backbone, bad input."""

from __future__ import annotations

from typing import Any

import pytest

from nova3d_core.io.mesh.read import read_mesh

from .prompts import load_prompt, node
from .workflow_check import Prompt

pytestmark = pytest.mark.host

FUSED = "example: knight, fused"


def refine_prompt(file: str = FUSED, **refine: Any) -> Prompt:
    """The fused knight of the package, refined by its own views."""
    settings = {"steps": 8, "perceptual": "aligned"} | refine
    size = {"target_faces": 5000, "texture_size": 384}
    return {
        "1": node("NOVA3DLoadMesh", file=file, up_axis="+Y"),
        "2": node("LoadViews", folder="example: knight"),
        "3": node("RefineTexture", mesh=["1", 0], views=["2", 0], **settings),
        "4": node("ExportMesh", mesh=["3", 0], format="glb", filename_prefix="refined/k", **size),
        "5": node("PreviewImage", images=["3", 1]),
    }


def test_texture_is_refined_and_the_rest_is_unchanged(client, output):
    run = client.run(refine_prompt())
    assert run.has_succeeded, run.error
    assert run.progress["3"][-1] == (8, 8)
    (path,) = (output / "refined").glob("*.glb")
    result = read_mesh(path)
    assert result.texture.shape == (384, 384, 3)
    assert len(result.faces) == 5000


def test_lpips_without_a_backbone_warns_and_uses_aligned(client):
    run = client.run(refine_prompt(perceptual="lpips", steps=3))
    assert run.has_succeeded, run.error
    (text,) = client.history(run.prompt_id)["outputs"]["3"]["text"]
    assert "Put torchvision's vgg16-397923af.pth or alexnet-owt-7be5be79.pth into" in text
    assert "The loss is aligned instead." in text


def test_mesh_without_a_texture_is_an_error_that_says_what_to_do(client):
    prompt = load_prompt("views_to_mesh")
    (extract,) = (key for key, each in prompt.items() if each["class_type"] == "ExtractMesh")
    (fuse,) = (key for key, each in prompt.items() if each["class_type"] == "DeconflictFusion")
    kept = {key: prompt[key] for key in prompt if prompt[key]["class_type"] == "LoadViews"}
    kept |= {extract: prompt[extract], fuse: prompt[fuse]}
    settings = {"steps": 2, "perceptual": "none"}
    views = next(key for key, each in kept.items() if each["class_type"] == "LoadViews")
    kept["90"] = node("RefineTexture", mesh=[extract, 0], views=[views, 0], **settings)
    kept["91"] = node("PreviewImage", images=["90", 1])
    run = client.run(kept)
    assert not run.has_succeeded
    assert "the mesh has no texture to refine. Bake one from the views first." in str(run.error)
