"""A short film of a mesh turning once, colour beside normals."""

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
from .config import RenderConfig
from .views import render_views

SECONDS_PER_TURN = 4.0
_SOFTWARE_TAG = 0x0131
"""Exif's."""


def turntable(
    mesh: Mesh,
    rig: RigConfig | None = None,
    config: RenderConfig | None = None,
    progress: Progress = SILENT,
) -> Tensor:
    """Frames (V, H, 2 W, 3) in 0..1 of a mesh that turns once: colour left, normals right.

    Args:
        mesh: any mesh; it is centred and scaled to fill the image.
        rig: one camera a frame; 48 frames from 15 degrees above by default.
        config: rays a pixel.
        progress: told about each frame.
    """
    rig = rig or RigConfig(count=48, elevation_deg=15.0)
    views = render_views(mesh.normalised(), orbit_cameras(rig), config, progress).views
    # the camera goes round, which looks like the object turning; its own axes keep the light still
    normals = encode_normals(views.with_normals_in("camera").normals)
    covered = views.masks[..., None]
    return torch.cat([views.colour, normals * covered + (1.0 - covered)], dim=2)


def check_turntable_path(
    path: Path, overwrite: bool, inputs: Collection[Path | None] = ()
) -> None:
    """Raises InputError unless `write_turntable` may write there; asked before long work."""
    if path.suffix.lower() not in (".webp", ".gif"):
        raise InputError(f"{path} is no animation that can be written.", "Use .webp or .gif.")
    check_can_write_file(path, overwrite, inputs)


def write_turntable(frames: Tensor, path: Path | str, overwrite: bool = False) -> Path:
    """Writes frames (V, H, W, 3) in 0..1 as an animated WebP or GIF that loops.

    Raises:
        InputError: another ending than .webp or .gif, or the file cannot be written.
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
