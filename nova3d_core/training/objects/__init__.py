"""Procedural textured objects: endless, seeded, closed."""

from __future__ import annotations

from .catalogue import KINDS, procedural_object

__all__ = ["KINDS", "procedural_object"]
