"""The input folder of the workflows, for host tests and the soak benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import nova3d_core as nova3d
from nova3d_core.rendering.config import RenderConfig

from .prompts import PIXELS, VIEWS
from .server import PROJECT

KNIGHT = PROJECT / "nova3d_core" / "assets" / "character_knight.glb"


def write_inputs(folder: Path) -> None:
    """Writes the knight, its views and its normalised mesh."""
    knight = nova3d.read_mesh(KNIGHT).normalised()
    rig = nova3d.orbit_cameras(nova3d.RigConfig(count=VIEWS, width_px=PIXELS, height_px=PIXELS))
    views = nova3d.render_views(knight, rig, RenderConfig(supersample=2)).views
    nova3d.write_views(views, folder / "knight" / "views")
    nova3d.write_mesh(knight, folder / "knight" / "mesh.glb")
    shutil.copy2(KNIGHT, folder / KNIGHT.name)
