"""A package that cannot be imported is one line on the node of a real ComfyUI."""

from __future__ import annotations

import shutil

import pytest

from .client import Client
from .prompts import load_prompt
from .server import Server

pytestmark = pytest.mark.host


def test_broken_package_is_one_line_with_the_command(checkout, inputs, tmp_path):
    broken = tmp_path / "packages" / "skimage"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('DLL load failed')", encoding="utf-8")
    base = tmp_path / "base"
    shutil.copytree(inputs, base / "input")
    environment = {"PYTHONPATH": str(broken.parent)}
    with Server(checkout, base, environment=environment) as server:
        run = Client(server.url).run(load_prompt("views_to_mesh"))
    message = run.error["exception_message"].strip()
    assert message.startswith("a Python package cannot be imported: DLL load failed.")
    assert "-m pip install -r" in message
    assert "\n" not in message
