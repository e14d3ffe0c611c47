"""Renders the images for the README and the registry from the included example.

The 16 views of the knight are fused with the default settings. `docs/result.webp` shows the front
view, some of the views with their normals, and the mesh from angles between the views;
`docs/banner.jpg` is the same image at 21:9 and full size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import nova3d_core as nova3d
from nova3d_core.fusion.config import preset_config
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.rendering.turntable import normal_images

ROOT = Path(__file__).resolve().parents[1]
VIEWS = ROOT / "nova3d_core" / "assets" / "knight" / "views"
SHOWN_VIEWS = (0, 2, 5, 8, 11, 14)
MESH_AZIMUTH_DEG = 33.0
"""Of the first of two opposite cameras; the views' azimuths are multiples of 22.5 degrees."""
MESH_ELEVATION_DEG = 18.0
BANNER_PX = (1680, 720)
CROP = 0.11
"""Fraction of a render's side that is cut off around the object."""


def tile(pixels: np.ndarray, side_px: int) -> Image.Image:
    """A square image (H, W, 3) in 0..1 without its border, at another size."""
    cut = round(len(pixels) * CROP)
    image = Image.fromarray((pixels.clip(0.0, 1.0) * 255.0).round().astype(np.uint8))
    image = image.crop((cut, cut, image.width - cut, image.height - cut))
    return image.resize((side_px, side_px), Image.Resampling.LANCZOS)


def mesh_views(mesh: nova3d.Mesh, side_px: int) -> nova3d.Views:
    """The mesh from angles that no input view has."""
    rig = nova3d.RigConfig(
        count=2,
        width_px=side_px,
        height_px=side_px,
        elevation_deg=MESH_ELEVATION_DEG,
        azimuth_start_deg=MESH_AZIMUTH_DEG,
    )
    return nova3d.render_views(mesh, nova3d.orbit_cameras(rig)).views


def composed(views: nova3d.Views, mesh: nova3d.Mesh, width_px: int, height_px: int) -> Image.Image:
    """Front view, views with normals, mesh with normals; left to right on white."""
    canvas = Image.new("RGB", (width_px, height_px), "white")
    unit = min(height_px // 2, width_px // 5)
    small = unit // 2
    top = (height_px - 2 * unit) // 2
    left = (width_px - 3 * unit - 3 * small) // 2
    colours, normals = views.colour.numpy(), normal_images(views).numpy()
    canvas.paste(tile(colours[0], unit), (left, top + small))
    for index, view in enumerate(SHOWN_VIEWS):
        row, column = divmod(index, 3)
        x, y = left + unit + column * small, top + row * unit
        canvas.paste(tile(colours[view], small), (x, y))
        canvas.paste(tile(normals[view], small), (x, y + small))
    seen = mesh_views(mesh, 640)
    for index, (colour, normal) in enumerate(zip(seen.colour, normal_images(seen), strict=True)):
        x = left + unit + 3 * small + index * unit
        canvas.paste(tile(colour.numpy(), unit), (x, top))
        canvas.paste(tile(normal.numpy(), unit), (x, top + unit))
    return canvas


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder to write to")
    parser.add_argument("--preset", default="fast", help="the fusion's preset")
    options = parser.parse_args()
    views = nova3d.read_views(VIEWS)
    fused = nova3d.fuse_views(views, FuseConfig(sdf=preset_config(options.preset)))
    options.output.mkdir(parents=True, exist_ok=True)
    image = composed(views, fused.mesh, *BANNER_PX)
    image.save(options.output / "banner.jpg", quality=90, optimize=True)
    image.resize((1050, 450), Image.Resampling.LANCZOS).save(
        options.output / "result.webp", quality=88
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
