"""Detects the layout of a folder of views from file names. Imports the standard library only."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

TRANSFORMS = "transforms.json"
"""Written by NOVA3D, nerfstudio and instant-ngp."""
WONDER3D_VIEWS = ("front", "front_right", "right", "back", "left", "front_left")
"""In the order of `orbits.ORBIT_PRESETS["wonder3d"]`: at azimuths 0, 45, 90, 180, 270, 315."""
WONDER3D_IMAGE = re.compile(rf"^rgb_(\d+)_({'|'.join(WONDER3D_VIEWS)})\.png$")
COLMAP_MODELS = (("cameras.bin", "images.bin"), ("cameras.txt", "images.txt"))
"""The files of a COLMAP model, the preferred format first."""

Layout = Literal["transforms", "colmap", "wonder3d", "polycam", "record3d"]
READABLE_LAYOUTS: tuple[Layout, ...] = ("transforms", "colmap", "wonder3d")


def detect_layout(folders: Collection[str], files: Collection[str]) -> Layout | None:
    """The layout of a folder with these subfolders and files; None if unknown."""
    if TRANSFORMS in files:
        return "transforms"
    if "sparse" in folders or any(set(names) <= set(files) for names in COLMAP_MODELS):
        return "colmap"
    if any(WONDER3D_IMAGE.match(name) for name in files):
        return "wonder3d"
    if "keyframes" in folders or "corrected_cameras" in folders:
        return "polycam"
    if "metadata" in files and ("rgbd" in folders or "EXR_RGBD" in folders):
        return "record3d"
    return None
