"""Prompts that were saved before an input was renamed.

ComfyUI's node replacement (`ComfyAPI().node_replacement`) applies only to node ids that no longer
exist. Our ids stay, so renamed inputs are replaced in the prompt before ComfyUI validates it. In
the page, widget values are restored by position and need no replacement.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

logger = logging.getLogger(__name__)

RENAMED_INPUTS: dict[str, dict[str, str]] = {
    "PrepareImage": {"object_share": "foreground_ratio"},
    "SampleMultiviewNormals": {"lowest": "min_guidance_scale", "highest": "max_guidance_scale"},
    "SampleOrbit": {"lowest": "min_guidance_scale", "highest": "max_guidance_scale"},
    "OrbitCameras": {"kind": "projection", "amplitude": "elevation_amplitude"},
    "ExtractMesh": {"min_part_share": "min_component_area_ratio"},
    "BakeTexture": {"agreement": "consistency"},
    "EvaluateMesh": {"picture_size": "image_size"},
}
"""Node id -> old input name -> new input name; add a line for each renamed input."""


def replace_renamed_inputs(request: dict[str, Any]) -> dict[str, Any]:
    """A request of POST /prompt, with the current names of our nodes' inputs.

    A value under the current name is kept; the old one is then left for ComfyUI to ignore.
    """
    prompt = request.get("prompt")
    for node in prompt.values() if isinstance(prompt, dict) else ():
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            continue
        inputs = node["inputs"]
        for old, new in RENAMED_INPUTS.get(node.get("class_type"), {}).items():
            if old in inputs and new not in inputs:
                inputs[new] = inputs.pop(old)
                logger.info("NOVA3D: the input %s of %s is now %s", old, node["class_type"], new)
    return request


def register_replacements() -> None:
    """Registers the replacement with ComfyUI's server; does nothing without a server."""
    module = sys.modules.get("server")  # importing it here would load all of ComfyUI
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if hasattr(server, "add_on_prompt_handler"):
        server.add_on_prompt_handler(replace_renamed_inputs)
