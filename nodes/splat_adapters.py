"""Converters between ComfyUI's SPLAT, a padded batch, and the core's `Splats`.

SPLAT and the files of splats have the axes of 3D Gaussian splatting: +Y down, +Z forward. The core,
MESH and LOAD3D_CAMERA have +Y up: a rotation by 180 degrees about X lies between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import nova3d_core
from ..nova3d_core.conventions import SPLAT_UP_AXIS
from ..nova3d_core.errors import InputError
from ..nova3d_core.io.splats.axes import splats_from_y_up, splats_to_y_up
from ..nova3d_core.io.splats.ply import SH_C0, splats_to_ply
from ..nova3d_core.splats import Splats
from .adapters import single_mesh_from_socket, to_cpu_float32

if TYPE_CHECKING:
    from ..nova3d_core.mesh import Mesh

logger = logging.getLogger(nova3d_core.__name__).getChild("nodes")
"""Below the core's logger, whose warnings the node displays."""

TENSORS = ("positions", "scales", "rotations", "opacities", "sh")
MIN_SCALE = 1e-8
"""Scale of splats that are flat along an axis, as ComfyUI's writer of .ply files has it."""
OPACITY_MARGIN = 1e-3
"""Rounding errors of opacities beyond 0 and 1 that are clamped."""


@dataclass(eq=False)
class SplatBatch:
    """SPLAT of ComfyUI versions that lack it: the same attributes as `Types.SPLAT`."""

    positions: Tensor
    """(B, N, 3), +Y down, +Z forward."""
    scales: Tensor
    """(B, N, 3) standard deviations, not their logarithms."""
    rotations: Tensor
    """(B, N, 4) unit quaternions w, x, y, z."""
    opacities: Tensor
    """(B, N, 1) in 0..1."""
    sh: Tensor
    """(B, N, K, 3) spherical harmonics, the constant term first."""
    counts: Tensor | None = None
    """(B,) splats of each item, the rest is padding; None: no padding."""

    def _comfy_cache_tensors(self) -> list[Tensor]:
        return [getattr(self, name) for name in TENSORS]


def splats_from_batch(batch: Any, name: str = "splats") -> list[Splats]:
    """The items of a ComfyUI SPLAT in the core's frame, without padding.

    Colours do not depend on the viewing direction in the core: a warning says so where higher
    spherical harmonics are dropped.

    Args:
        batch: `Types.SPLAT`, or anything with its attributes. It is not modified.
        name: name of the node input, for messages.

    Raises:
        InputError: another type, wrong shapes, an empty batch or item, NaN, negative scales,
            opacities out of range.
    """
    if not all(hasattr(batch, each) for each in TENSORS):
        raise InputError(
            f"{name} is {type(batch).__name__}, expected ComfyUI's own SPLAT.",
            "Connect Fit Splats, or load a splat file with Load 3D and Get Splat.",
        )
    tensors = _tensors_of(batch, name)
    sizes = _item_sizes(batch, tensors["positions"], name)
    if tensors["sh"].shape[2] > 1 and bool((tensors["sh"][:, :, 1:] != 0).any()):
        logger.warning(
            "%s: spherical harmonics above degree 0 are dropped, colours do not depend on the "
            "viewing direction here",
            name,
        )
    items = []
    for index, size in enumerate(sizes):
        item = {each: value[index, :size] for each, value in tensors.items()}
        items.append(_splats_of_item(item, name if len(sizes) == 1 else f"{name}, item {index}"))
    return items


def single_splats_from_socket(value: Any, name: str = "splats") -> Splats:
    """The only item of a SPLAT, or the splats of a ComfyUI 3D file, in the core's frame.

    Raises:
        InputError: as `splats_from_batch` and `read_splats`, or a batch of several items.
    """
    if hasattr(value, "get_bytes"):
        return _splats_from_file3d(value, name)
    items = splats_from_batch(value, name)
    if len(items) != 1:
        raise InputError(
            f"{name} is a batch of {len(items)} items, expected one.",
            "Merge them with Merge Splats, or connect one of them.",
        )
    return items[0]


def mesh_or_splats_from_socket(value: Any, name: str = "mesh") -> Mesh | Splats:
    """The only mesh of a MESH or 3D file, or the only splats of a SPLAT or 3D file.

    Raises:
        InputError: as `single_mesh_from_socket` and `single_splats_from_socket`.
    """
    is_splats = hasattr(value, "sh")
    if hasattr(value, "get_bytes"):
        is_splats = _is_splat_file(value)
    return (single_splats_from_socket if is_splats else single_mesh_from_socket)(value, name)


def batch_from_splats(
    items: Sequence[Splats], splat_class: Callable[..., Any] | None = None
) -> Any:
    """Core splats as a ComfyUI SPLAT, padded with zeros to the longest item.

    Args:
        items: one or more, in the core's frame.
        splat_class: ComfyUI's class or another one with its arguments; None: that of the running
            ComfyUI, else `SplatBatch`.
    """
    splat_class = splat_class or _host_class() or SplatBatch
    rotated = [splats_from_y_up(item.to("cpu"), SPLAT_UP_AXIS) for item in items]
    sizes = [len(item) for item in rotated]
    columns = {
        "positions": [item.positions for item in rotated],
        "scales": [item.scales for item in rotated],
        "rotations": [item.rotations for item in rotated],
        "opacities": [item.opacities[:, None] for item in rotated],
        "sh": [((item.colours - 0.5) / SH_C0)[:, None] for item in rotated],
    }
    padded = {
        name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        for name, values in columns.items()
    }
    counts = torch.tensor(sizes) if len(set(sizes)) > 1 else None
    return splat_class(**padded, counts=counts)


def file3d_from_splats(splats: Splats, path: Path) -> Any:
    """Writes a .ply file and returns it as ComfyUI's FILE_3D; None where ComfyUI lacks this type.

    Args:
        splats: in the core's frame; the file has the axes of 3D Gaussian splatting.
        path: a new file in one of ComfyUI's folders.
    """
    from comfy_api.v0_0_2 import Types

    file_type = getattr(Types, "File3D", None)
    if file_type is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(splats_to_ply(splats_from_y_up(splats, SPLAT_UP_AXIS), comment=""))
    return file_type(str(path), file_format="ply")


def _host_class() -> Callable[..., Any] | None:
    """`Types.SPLAT` of the running ComfyUI; None in older versions and without ComfyUI."""
    try:
        from comfy_api.v0_0_2 import Types
    except ImportError:  # tests without ComfyUI
        return None
    return getattr(Types, "SPLAT", None)


def _tensors_of(batch: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a SPLAT with their batch axis, which some nodes omit, as float32."""
    axes = {"positions": 3, "scales": 3, "rotations": 3, "opacities": 3, "sh": 4}
    last = {"positions": 3, "scales": 3, "rotations": 4, "opacities": 1, "sh": 3}
    tensors = {}
    for each, count in axes.items():
        value = to_cpu_float32(torch.as_tensor(getattr(batch, each)))
        value = value[None] if value.ndim == count - 1 else value
        is_valid = value.ndim == count and value.shape[-1] == last[each]
        if not is_valid or value.shape[:2] != tensors.get("positions", value).shape[:2]:
            raise InputError(
                f"{each} of {name} have shape {tuple(value.shape)}, expected "
                f"(batch, splats, {'K, ' if each == 'sh' else ''}{last[each]}).",
                "Check the node that made this SPLAT.",
            )
        tensors[each] = value
    if tensors["positions"].shape[0] == 0 or tensors["sh"].shape[2] == 0:
        raise InputError(f"{name} is an empty batch.", "Check the node that made this SPLAT.")
    return tensors


def _item_sizes(batch: Any, positions: Tensor, name: str) -> list[int]:
    """Number of splats of each item, without padding."""
    counts = getattr(batch, "counts", None)
    if counts is None:
        return [positions.shape[1]] * len(positions)
    sizes = [int(count) for count in torch.as_tensor(counts).flatten()]
    if len(sizes) != len(positions) or not all(0 <= size <= positions.shape[1] for size in sizes):
        raise InputError(
            f"counts of {name} are {sizes[:8]} for {len(positions)} items of "
            f"{positions.shape[1]} splats.",
            "Check the node that made this SPLAT.",
        )
    return sizes


def _splats_of_item(item: dict[str, Tensor], name: str) -> Splats:
    """One item without padding as core splats."""
    opacities = item["opacities"][:, 0]
    is_rounding = (opacities > -OPACITY_MARGIN) & (opacities < 1.0 + OPACITY_MARGIN)
    scales = item["scales"]
    try:
        splats = Splats(
            positions=item["positions"],
            scales=torch.where(scales >= 0.0, scales.clamp_min(MIN_SCALE), scales),
            rotations=item["rotations"],
            opacities=torch.where(is_rounding, opacities.clamp(0.0, 1.0), opacities),
            colours=SH_C0 * item["sh"][:, 0] + 0.5,
        )
    except InputError as error:
        hint = error.hint or "Check the node or the file that these splats are from."
        raise InputError(f"{name}: {error.message}", hint) from error
    return splats_to_y_up(splats, SPLAT_UP_AXIS)


def _is_splat_file(file: Any) -> bool:
    """Whether a ComfyUI 3D file contains splats: by its format, .ply files by their header."""
    from ..nova3d_core.io.splats.files import contains_splats, is_splat_ply

    source = file.get_source()
    if isinstance(source, str):
        return contains_splats(source)
    suffix = str(file.format or "").lower()
    return suffix == "splat" or (suffix == "ply" and is_splat_ply(file.get_bytes()))


def _splats_from_file3d(file: Any, name: str) -> Splats:
    """The splats of a ComfyUI 3D file, on disk or in memory, with +Y up."""
    from tempfile import TemporaryDirectory

    from ..nova3d_core.io.splats.files import SPLAT_SUFFIXES, read_splats

    suffix = f".{str(file.format or '').lower()}"
    if suffix not in SPLAT_SUFFIXES:
        raise InputError(
            f"{name} is a file of format '{suffix[1:]}', expected {', '.join(SPLAT_SUFFIXES)}.",
            "Convert .spz and .ksplat files with Get Splat first.",
        )
    source = file.get_source()
    if isinstance(source, str):
        return read_splats(source, SPLAT_UP_AXIS)
    with TemporaryDirectory(prefix="nova3d-") as folder:
        path = Path(folder, f"{name}{suffix}")
        path.write_bytes(file.get_bytes())
        return read_splats(path, SPLAT_UP_AXIS)
