"""The pack's nodes: the only code here that knows ComfyUI.

A node's `execute` is adapters, one call of the core, adapters. The core is imported when a node
runs, so that ComfyUI's start does not wait for it.
"""

from __future__ import annotations

import logging
from importlib import import_module

logger = logging.getLogger(__name__)

MODULES = (
    "prepare",
    "load",
    "generate",
    "cameras",
    "views",
    "fuse",
    "mesh",
    "texture",
    "export",
    "evaluate",
)


def node_classes() -> list[type]:
    """All node classes, in the order of the menu.

    A module that cannot be imported costs its own nodes and a line in the log, never the others.
    """
    found: list[type] = []
    for name in MODULES:
        try:
            module = import_module(f".{name}", __name__)
            for node in module.NODES:
                node.GET_SCHEMA()  # a schema this host refuses must not take the others along
                found.append(node)
        except Exception:
            logger.exception("NOVA3D: the nodes in nodes/%s.py are not available", name)
    return found
