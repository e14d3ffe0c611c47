"""The core's warnings in a node's UI output, which the host keeps for clients of its API."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest


@pytest.fixture
def core(pack) -> logging.Logger:
    return logging.getLogger(pack("nova3d_core").__name__)


@pytest.fixture
def executed(pack, core):
    """Runs a decorated `execute` that gives `ui` and warns of each line; gives its UI output."""

    def run(ui: dict | None, *lines: str) -> dict | None:
        def execute(cls, *, given):
            core.getChild("io").info("not a warning")
            for line in lines:
                core.getChild("io").warning("%s", line)
            return SimpleNamespace(ui=ui, result=(cls, given))

        before = list(core.handlers)
        output = pack("nodes.runtime").with_warnings(execute)(int, given=7)
        assert output.result == (int, 7)
        assert core.handlers == before
        return output.ui

    return run


def test_warnings_become_text_each_once_and_in_their_order(executed):
    assert executed(None, "second", "first", "second") == {"text": ["second", "first"]}


def test_what_the_node_shows_stays(executed):
    shown = {"3d": [{"filename": "mesh.glb"}]}
    assert executed(shown, "lost") == {**shown, "text": ["lost"]}
    assert executed({"text": ["report"]}, "lost") == {"text": ["report", "lost"]}


def test_output_nodes_have_the_same_keys_with_and_without_warnings(executed):
    """The host joins the outputs of a node that runs once for each item of a list, key by key."""
    shown = {"3d": [{"filename": "mesh.glb"}]}
    assert executed(shown).keys() == executed(shown, "lost").keys()


def test_nodes_without_warnings_show_nothing(executed):
    assert executed(None) is None


def test_a_failed_node_leaves_no_handler(pack, core):
    def execute(cls):
        raise ValueError("wrong")

    before = list(core.handlers)
    with pytest.raises(ValueError, match="wrong"):
        pack("nodes.runtime").with_warnings(execute)(int)
    assert core.handlers == before


def test_every_node_collects_its_warnings():
    """`execute` of all nodes is decorated, right below `@classmethod`."""
    from .conftest import ROOT

    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py")]
    count = sum(text.count("(io.ComfyNode)") for text in texts)
    decorated = "    @classmethod\n    @with_warnings\n    def execute("
    assert 0 < count == sum(text.count(decorated) for text in texts)
