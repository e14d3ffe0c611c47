"""Memory that fitting and rendering splats need, checked before the work."""

from __future__ import annotations

import torch

from ..cameras.cameras import Cameras
from ..compute.host_memory import available_bytes
from ..errors import InputError
from ..views import Views
from ..wording import counted

BYTES_PER_SPLAT = 1800
"""Parameters, moments, snapshots, projection, and slots of gradients in tiles."""
BYTES_PER_PIXEL = 600
"""Buffers of one rendered view and its loss."""
BYTES_PER_VIEW_PIXEL = 32
"""The views in their working copies."""
BASE_BYTES = 200 * 2**20
"""Kernels and the visual hull."""
RENDER_BYTES_PER_SPLAT = 160
"""Projection, order and tiles of splats in one view, without gradients."""
RENDER_BYTES_PER_PIXEL = 40
"""Colour, opacity and depth of all views, twice while they are stacked."""
PAIR_BYTES = 16
"""A splat in a tile."""
MAX_PAIRS = 2**31 - 1
"""Limit of the tiles' indices."""
_UNCHECKED_PAIRS = 10_000_000
"""So few fit anywhere; asking for the free memory takes time."""
_GPU_USABLE = 0.9
"""Fraction of a GPU's free memory that the fit may use."""


def splat_memory_bytes(count: int, views: Views) -> int:
    """Peak bytes of fitting `count` splats to views."""
    cameras = views.cameras
    pixels = cameras.width * cameras.height
    fixed = BASE_BYTES + pixels * (BYTES_PER_PIXEL + BYTES_PER_VIEW_PIXEL * len(cameras))
    return fixed + count * BYTES_PER_SPLAT


def check_splat_memory(count: int, views: Views, limit_gib: float, device: torch.device) -> None:
    """Raises InputError if more memory is needed than free, or than the limit.

    Args:
        count: number of splats.
        views: V views.
        limit_gib: limit in GiB; 0: what is free.
        device: of the optimisation.
    """
    available = _available(limit_gib, device)
    if available is None:
        return
    _check_fits(
        f"{count:,} splats for {_size_of(views.cameras)} need",
        (splat_memory_bytes(0, views), count * BYTES_PER_SPLAT, BYTES_PER_SPLAT),
        available,
        device,
    )


def check_render_memory(count: int, cameras: Cameras, device: torch.device) -> None:
    """Raises InputError if rendering `count` splats in V cameras needs more memory than is free."""
    available = _available(0.0, device)
    if available is None:
        return
    pixels = len(cameras) * cameras.width * cameras.height
    _check_fits(
        f"rendering {count:,} splats in {_size_of(cameras)} needs",
        (pixels * RENDER_BYTES_PER_PIXEL, count * RENDER_BYTES_PER_SPLAT, RENDER_BYTES_PER_SPLAT),
        available,
        device,
    )


def check_pairs(pairs: int, device: torch.device) -> None:
    """Raises InputError if the tiles of an image contain more splats than can be listed.

    Args:
        pairs: sum over the splats of the tiles that each touches.
        device: of the rendering.
    """
    if pairs <= _UNCHECKED_PAIRS:
        return
    available = _available(0.0, device)
    limit = MAX_PAIRS if available is None else min(MAX_PAIRS, available // PAIR_BYTES)
    if pairs > limit:
        raise InputError(
            f"the splats are too large for the image: they touch {pairs:,} tiles, at most "
            f"{limit:,} fit into memory.",
            "Use smaller images, or splats of a plausible scale: some may be damaged.",
        )


def _size_of(cameras: Cameras) -> str:
    return f"{counted(len(cameras), 'view')} of {cameras.width} x {cameras.height} px"


def _check_fits(
    subject: str, parts: tuple[int, int, int], available: int, device: torch.device
) -> None:
    """Raises InputError if fixed bytes and those of the splats exceed the available ones.

    Args:
        subject: start of the message, up to its verb.
        parts: fixed bytes, those of all splats, and those of one.
        available: bytes.
        device: on which they are needed.
    """
    fixed, of_splats, per_splat = parts
    needed = fixed + of_splats
    if needed <= available:
        return
    fitting = max(available - fixed, 0) // per_splat // 1000 * 1000
    raise InputError(
        f"{subject} {needed / 2**30:.1f} GiB of memory on {device.type}, but only "
        f"{available / 2**30:.1f} GiB are available.",
        f"{fitting:,} splats fit." if fitting else "Use fewer or smaller views.",
    )


def _available(limit_gib: float, device: torch.device) -> int | None:
    if limit_gib > 0.0:
        return int(limit_gib * 2**30)
    if device.type == "cuda":
        return int(_GPU_USABLE * torch.cuda.mem_get_info(device)[0])
    return available_bytes()
