"""API prompts: the shipped ones made small, and how to make one in a test."""

from __future__ import annotations

import json
from typing import Any

from .server import PROJECT
from .workflow_check import Prompt

API = PROJECT / "workflows" / "api"
VIEWS = 8
PIXELS = 96
SMALL: dict[str, dict[str, Any]] = {
    "LoadViews": {"folder": "knight/views"},
    "DeconflictFusion": {"preset": "draft", "steps_scale": 0.1},
    "RefinePoses": {"preset": "draft"},
    "ExtractMesh": {"target_faces": 2000},
    "BakeTexture": {"texture_size": 256, "uv": "box"},
    "ExportMesh": {"target_faces": 2000, "texture_size": 256},
    "OrbitCameras": {"preset": "custom", "count": VIEWS, "width": PIXELS, "height": PIXELS},
    "RenderViews": {"width": PIXELS, "height": PIXELS, "supersample": 1},
    "SampleMultiviewNormals": {"steps": 1, "size": 64},
    "SampleOrbit": {"steps": 1, "size": 64},
    "EvaluateMesh": {"points": 2000, "image_size": 64},
}
"""Settings with which a prompt runs in seconds."""


def shipped(name: str) -> Prompt:
    """A prompt of workflows/api with small settings; its links and its other values stay."""
    prompt = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
    return prompt


def key_of(prompt: Prompt, kind: str) -> str:
    """The id of a prompt's only node of a class."""
    (key,) = [key for key, node in prompt.items() if node["class_type"] == kind]
    return key


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


def with_inputs(prompt: Prompt, kind: str, /, **inputs: Any) -> Prompt:
    """The prompt with other inputs at its only node of a class."""
    key = key_of(prompt, kind)
    changed = node(kind, **{**prompt[key]["inputs"], **inputs})
    return {**prompt, key: changed}
