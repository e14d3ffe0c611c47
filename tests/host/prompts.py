"""API prompts: the shipped ones with settings for a fast run, and helpers to build others."""

from __future__ import annotations

import json
from typing import Any

from .server import PROJECT
from .workflow_check import Prompt

API = PROJECT / "workflows" / "api"
VIEWS = 8
PIXELS = 96
FAST_SETTINGS: dict[str, dict[str, Any]] = {
    "LoadViews": {"folder": "knight/views"},
    "DeconflictFusion": {"preset": "draft", "steps_scale": 0.1},
    "RefinePoses": {"preset": "draft"},
    "ExtractMesh": {"target_faces": 2000},
    "BakeTexture": {"texture_size": 256, "uv": "box"},
    "RefineTexture": {"steps": 4},
    "CompleteTexture": {"steps": 2, "size": 64},
    "ExportMesh": {"target_faces": 2000, "texture_size": 256},
    "OrbitCameras": {"preset": "custom", "count": VIEWS, "width": PIXELS, "height": PIXELS},
    "RenderViews": {"width": PIXELS, "height": PIXELS, "supersample": 1},
    "SampleMultiviewNormals": {"steps": 1, "size": 64},
    "SampleOrbit": {"steps": 1, "size": 64},
    "SampleRecursive": {"steps": 1, "size": 64},
    "MoGeInference": {"resolution_level": 0},
    "FitSplats": {"init": "hull", "splats": 1500, "steps": 30},
    "RenderSplatViews": {"width": PIXELS, "height": PIXELS},
    "EvaluateMesh": {"points": 2000, "image_size": 64},
}
"""Settings with which a workflow runs in seconds."""


def load_prompt(name: str) -> Prompt:
    """A prompt of workflows/api with `FAST_SETTINGS`; links and other values are unchanged."""
    prompt = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        node["inputs"] |= FAST_SETTINGS.get(node["class_type"], {})
    return prompt


def node_key(prompt: Prompt, kind: str) -> str:
    """Id of the only node of a class."""
    (key,) = [key for key, node in prompt.items() if node["class_type"] == kind]
    return key


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A node in API format."""
    return {"class_type": kind, "inputs": inputs}


def with_inputs(prompt: Prompt, kind: str, /, **inputs: Any) -> Prompt:
    """A copy of the prompt with changed inputs of its only node of a class."""
    key = node_key(prompt, kind)
    return {**prompt, key: node(kind, **{**prompt[key]["inputs"], **inputs})}
