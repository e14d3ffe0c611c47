"""Normals for views that have none: added from images, or estimated from the colours."""
