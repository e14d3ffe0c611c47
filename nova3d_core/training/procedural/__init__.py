"""Procedural textured objects: seeded, watertight, unlimited in number."""

from __future__ import annotations

from .catalog import KINDS, grid_cells, procedural_object

__all__ = ["KINDS", "grid_cells", "procedural_object"]
