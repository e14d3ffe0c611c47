"""Reads Wonder3D's output folders: six named orthographic views with normals.

Its cameras are fixed: azimuths of `orbits.ORBIT_PRESETS["wonder3d"]`, elevation 0, an image width
of 1.35 world units. Its normals are in the axes of the front view.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...cameras.cameras import orbit_pose
from ...cameras.orbits import ORBIT_PRESETS
from ..images.decode import open_image, printable_name
from .layouts import WONDER3D_IMAGE, WONDER3D_VIEWS
from .transforms_fields import ORTHOGRAPHIC_MODEL, ViewFrame, resolve_image_path, transform_matrix


def read_wonder3d_frames(
    folder: Path, files: Collection[str]
) -> tuple[Path, dict[str, Any], list[ViewFrame]]:
    """Reads the frames of a Wonder3D folder, with the keys of a transforms.json.

    Args:
        folder: contains `rgb_000_front.png` etc., `normals_000_front.png` with the background
            removed, and optionally the folders `normals` (with background) and `masked_colors`.
        files: the file names in it.

    Raises:
        InputError: an image is a link that points outside the folder.
    """
    found: dict[str, str] = {}  # view -> number
    for match in filter(None, map(WONDER3D_IMAGE.match, sorted(files))):
        found.setdefault(match[2], match[1])  # the smallest number; Wonder3D writes 000
    orbit = ORBIT_PRESETS["wonder3d"]
    azimuths, elevations = orbit.angles_deg()
    shared: dict[str, Any] = {
        "camera_model": ORTHOGRAPHIC_MODEL,
        "ortho_scale": orbit.rig.ortho_scale,
        "world_up": "+Y",
        "normal_frame": "front_view",
    }
    frames = []
    for view, azimuth, elevation in zip(WONDER3D_VIEWS, azimuths, elevations, strict=True):
        if view not in found:
            continue
        end = f"{found[view]}_{view}.png"
        where = f"{printable_name(folder, 120)}: view {view}"
        image = resolve_image_path(folder, f"rgb_{end}", where)
        pose = orbit_pose(azimuth, elevation, orbit.rig.radius)
        own = {
            "file_path": f"rgb_{end}",
            "transform_matrix": transform_matrix(pose[:3, :3], pose[:3, 3]),
        }
        # removing the background darkens the rim and distorts the normals: prefer the full image
        normals = _first_file(folder, (f"normals/normals_{end}", f"normals_{end}"), where)
        cut_out = (f"normals_{end}", f"masked_colors/rgb_{end}")
        mask = next(
            (
                resolve_image_path(folder, name, where)
                for name in cut_out
                if _has_transparency(folder / name)
            ),
            None,
        )
        frames.append(ViewFrame(where, own, shared, image, mask, normals))
    return folder, shared, frames


def _first_file(folder: Path, names: tuple[str, ...], where: str) -> Path | None:
    """The first existing file of these names."""
    for name in names:
        if (folder / name).is_file():
            return resolve_image_path(folder, name, where)
    return None


def _has_transparency(path: Path) -> bool:
    """Whether a PNG has transparent pixels."""
    if not path.is_file():
        return False
    with open_image(path, f"image {printable_name(path)}", ("PNG",)) as image:
        return "A" in image.getbands() and image.getchannel("A").getextrema()[0] < 255
