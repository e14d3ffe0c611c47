"""ComfyUI nodes: the only code of the pack that imports ComfyUI.

A node's `execute` converts its inputs, calls the core once, and converts the result. The core is
imported when a node runs, so that it adds nothing to ComfyUI's start-up time.
"""

from __future__ import annotations

import logging
from importlib import import_module

logger = logging.getLogger(__name__)

MODULES = (
    "prepare",
    "load_model",
    "sample",
    "sample_recursive",
    "sample_path",
    "cameras",
    "join",
    "views",
    "normals",
    "fuse",
    "mesh",
    "remove_light",
    "bake",
    "refine_texture",
    "complete_texture",
    "export",
    "splats",
    "splats_from_views",
    "evaluate",
)


def node_classes() -> list[type]:
    """All node classes, in menu order.

    A module that fails to import is logged; only its own nodes are missing then.
    """
    classes: list[type] = []
    for name in MODULES:
        try:
            module = import_module(f".{name}", __name__)
            for node in module.NODES:
                node.GET_SCHEMA()  # a schema that this ComfyUI rejects must not disable the others
                classes.append(node)
        except Exception:
            logger.exception("NOVA3D: the nodes in nodes/%s.py are not available", name)
    return classes
