"""Prompts with old input names are answered as those with the current ones. Needs no ComfyUI."""

from __future__ import annotations

import copy
import json

import pytest

from ..host.server import PROJECT


@pytest.fixture(scope="module")
def replacements(pack):
    return pack("nodes.replacements")


def request(kind: str, **inputs) -> dict:
    return {"prompt": {"1": {"class_type": kind, "inputs": inputs}}, "client_id": "x"}


def test_renames_only_our_inputs(replacements):
    changed = replacements.replace_renamed_inputs(
        request("EvaluateMesh", picture_size=64, mesh=["2", 0])
    )
    assert changed == request("EvaluateMesh", image_size=64, mesh=["2", 0])
    other = request("SomebodysNode", picture_size=64)
    assert replacements.replace_renamed_inputs(copy.deepcopy(other)) == other


def test_a_current_name_wins(replacements):
    both = request("BakeTexture", agreement=False, consistency=True)
    inputs = replacements.replace_renamed_inputs(both)["prompt"]["1"]["inputs"]
    assert inputs["consistency"] is True


@pytest.mark.parametrize("malformed", [{}, {"prompt": []}, {"prompt": {"1": 3, "2": {}}}])
def test_malformed_requests_are_left_to_comfyui(replacements, malformed):
    assert replacements.replace_renamed_inputs(copy.deepcopy(malformed)) == malformed


def test_new_names_exist_and_old_ones_do_not(replacements):
    texts = json.loads((PROJECT / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
    for kind, names in replacements.RENAMED_INPUTS.items():
        assert set(names.values()) <= set(texts[kind]["inputs"])
        assert not set(names) & set(texts[kind]["inputs"])
