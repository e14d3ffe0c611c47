"""Folders of views with cameras: transforms.json, COLMAP, Wonder3D."""
