"""Procedural textured objects: endless, seeded, closed."""

from __future__ import annotations

from .catalog import KINDS, cells_for, procedural_object

__all__ = ["KINDS", "cells_for", "procedural_object"]
