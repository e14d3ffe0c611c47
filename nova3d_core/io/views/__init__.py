"""Folders of views: transforms.json, COLMAP, Wonder3D."""
