"""A prompt that was saved before an input was renamed runs as before."""

from __future__ import annotations

import pytest

from .prompts import load_prompt, node, node_key

pytestmark = pytest.mark.host


@pytest.mark.parametrize("name", ["object_share", "foreground_ratio"])
def test_old_and_new_names_of_an_input_run(client, name):
    prompt = load_prompt("image_to_mesh")
    image, prepare = (prompt[node_key(prompt, kind)] for kind in ("LoadImage", "PrepareImage"))
    inputs = {key: value for key, value in prepare["inputs"].items() if key != "foreground_ratio"}
    inputs |= {"image": ["1", 0], "mask": ["1", 1], name: 0.6}
    run = client.run(
        {
            "1": image,
            "2": node("PrepareImage", **inputs),
            "3": node("PreviewImage", images=["2", 0]),
        }
    )
    assert run.has_succeeded, run.error
    assert len(run.outputs["3"]["images"]) == 1
