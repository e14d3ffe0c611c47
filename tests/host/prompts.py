"""API prompts: the shipped ones with settings for a fast run, and helpers to build others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .server import PROJECT
from .workflow_check import Prompt

API = PROJECT / "workflows" / "api"
TEMPLATES = sorted(path.stem for path in API.glob("*.json") if (API.parent / path.name).is_file())
"""Prompts that are also templates; there is none for models that cannot be downloaded."""
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


def fast_settings(kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`FAST_SETTINGS` of a workflow's node classes; a model keeps the number of its cameras."""
    present = set(kinds) & set(FAST_SETTINGS)
    if "SampleOrbit" in present:
        present.discard("OrbitCameras")
    return {kind: FAST_SETTINGS[kind] for kind in present}


def load_prompt(name: str) -> Prompt:
    """A prompt of workflows/api with `fast_settings`; links and other values are unchanged."""
    prompt = json.loads((API / f"{name}.json").read_text(encoding="utf-8"))
    settings = fast_settings(node["class_type"] for node in prompt.values())
    for node in prompt.values():
        node["inputs"] |= settings.get(node["class_type"], {})
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
