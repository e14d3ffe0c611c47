"""Texture baking: projects views onto a mesh."""
