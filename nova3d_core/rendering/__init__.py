"""Rendering of meshes by ray casting."""
