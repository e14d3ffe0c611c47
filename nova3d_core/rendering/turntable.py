"""Turntable animations of a mesh: colour and normals side by side."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import orbit_cameras
from ..cameras.rigs import RigConfig
from ..conventions import encode_normals
from ..errors import InputError
from ..io.files.atomic import atomic_file, check_can_write_file
from ..io.files.ownership import GENERATOR, reject_foreign_file
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..views import Views
from .config import RenderConfig
from .views import render_views

SECONDS_PER_TURN = 4.0
TURNTABLE_RIG = RigConfig(count=48, elevation_deg=15.0)
"""One camera per frame."""
_SOFTWARE_TAG = 0x0131
"""Exif tag 'Software'."""


def turntable(
    mesh: Mesh,
    rig: RigConfig | None = None,
    config: RenderConfig | None = None,
    progress: Progress = SILENT,
) -> Tensor:
    """Frames (V, H, 2 W, 3) in 0..1 of one orbit around a mesh: colour left, normals right.

    Args:
        mesh: any mesh; it is centred and scaled to fill the image.
        rig: one camera per frame; by default `TURNTABLE_RIG`.
        config: rays per pixel.
        progress: reports each frame.
    """
    cameras = orbit_cameras(rig or TURNTABLE_RIG)
    views = render_views(mesh.normalised(), cameras, config, progress).views
    return torch.cat([views.colour, normal_images(views)], dim=2)


def normal_images(views: Views) -> Tensor:
    """(V, H, W, 3) camera-space normals of masked views as colours on white."""
    # camera-space normals look as if the light stood still while the object rotates
    normals = encode_normals(views.with_normals_in("camera").normals)
    covered = views.masks[..., None]
    return normals * covered + (1.0 - covered)


def check_turntable_path(path: Path, overwrite: bool, inputs: Collection[Path | None] = ()) -> None:
    """Raises InputError unless `write_turntable` can write to the path; call before long work."""
    if path.suffix.lower() not in (".webp", ".gif"):
        raise InputError(f"{path} is not a supported animation format.", "Use .webp or .gif.")
    check_can_write_file(path, overwrite, inputs)


def write_turntable(frames: Tensor, path: Path | str, overwrite: bool = False) -> Path:
    """Writes frames (V, H, W, 3) in 0..1 as a looping animated WebP or GIF.

    Raises:
        InputError: the suffix is neither .webp nor .gif, or the file cannot be written.
    """
    path = Path(path)
    check_turntable_path(path, overwrite)
    content = _encoded(frames, path.suffix.lower()[1:])
    with atomic_file(path, overwrite) as part:
        part.write_bytes(content)
        reject_foreign_file(path.resolve())
    return path


def _encoded(frames: Tensor, kind: str) -> bytes:
    from PIL import Image

    images: Sequence[Image.Image] = [
        Image.fromarray((frame.clamp(0.0, 1.0) * 255.0).round().byte().cpu().numpy())
        for frame in frames
    ]
    buffer = io.BytesIO()
    about: dict[str, Any] = {"comment": GENERATOR}
    if kind == "webp":
        exif = Image.Exif()
        exif[_SOFTWARE_TAG] = GENERATOR
        about = {"exif": exif}
    images[0].save(
        buffer,
        kind,
        save_all=True,
        append_images=images[1:],
        duration=round(1000 * SECONDS_PER_TURN / len(images)),
        loop=0,
        lossless=True,
        **about,
    )
    return buffer.getvalue()
