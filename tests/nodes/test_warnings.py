"""Core warnings in a node's UI output, which ComfyUI keeps in /history for API clients."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest


@pytest.fixture
def core_logger(pack) -> logging.Logger:
    return logging.getLogger(pack("nova3d_core").__name__)


@pytest.fixture
def ui_output(pack, core_logger):
    """Runs a decorated `execute` that returns `ui` and logs warnings; returns its UI output."""

    def run(ui: dict | None, *warnings: str) -> dict | None:
        def execute(cls, *, value):
            core_logger.getChild("io").info("not a warning")
            for warning in warnings:
                core_logger.getChild("io").warning("%s", warning)
            return SimpleNamespace(ui=ui, result=(cls, value))

        before = list(core_logger.handlers)
        output = pack("nodes.runtime").with_warnings(execute)(int, value=7)
        assert output.result == (int, 7)
        assert core_logger.handlers == before
        return output.ui

    return run


def test_warnings_are_listed_once_in_order(ui_output):
    assert ui_output(None, "second", "first", "second") == {"text": ["second", "first"]}


def test_existing_ui_output_is_kept(ui_output):
    shown = {"3d": [{"filename": "mesh.glb"}]}
    assert ui_output(shown, "lost") == {**shown, "text": ["lost"]}
    assert ui_output({"text": ["report"]}, "lost") == {"text": ["report", "lost"]}


def test_output_nodes_have_the_same_keys_with_and_without_warnings(ui_output):
    """ComfyUI merges the outputs of a node that runs once per list item, key by key."""
    shown = {"3d": [{"filename": "mesh.glb"}]}
    assert ui_output(shown).keys() == ui_output(shown, "lost").keys()


def test_no_ui_output_without_warnings(ui_output):
    assert ui_output(None) is None


def test_report_lists_the_warnings(pack, core_logger):
    """The output named "report", wherever it is; messages name inputs, not options."""
    setting = pack("nova3d_core.wording").setting

    class Node:
        @classmethod
        def define_schema(cls):
            outputs = [SimpleNamespace(display_name=name) for name in ("mesh", "report")]
            return SimpleNamespace(outputs=outputs)

        @classmethod
        @pack("nodes.runtime").with_warnings
        def execute(cls, warns: bool):
            if warns:
                core_logger.warning("choose %s", setting("align", "bbox"))
            return SimpleNamespace(ui=None, args=(3, "fused\n"))

    assert Node.execute(False).args == (3, "fused\n")
    output = Node.execute(True)
    assert output.args == (3, "fused\n\nWarning: choose the input align (bbox)\n")
    assert output.ui == {"text": ["choose the input align (bbox)"]}


def test_failed_node_leaves_no_handler(pack, core_logger):
    def execute(cls):
        raise ValueError("wrong")

    before = list(core_logger.handlers)
    with pytest.raises(ValueError, match="wrong"):
        pack("nodes.runtime").with_warnings(execute)(int)
    assert core_logger.handlers == before


def test_every_node_reports_its_warnings():
    """Every `execute` is decorated, right below `@classmethod`."""
    from .conftest import ROOT

    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py")]
    count = sum(source.count("(io.ComfyNode)") for source in sources)
    decorated = "    @classmethod\n    @with_warnings\n    def execute("
    assert 0 < count == sum(source.count(decorated) for source in sources)
