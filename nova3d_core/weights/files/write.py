"""Safetensors files whose tensors are written one at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...io.files.atomic import atomic_file
from ...io.files.ownership import reject_foreign_file
from ...progress import Progress
from .header import DTYPES

_CODES = {name: code for code, (name, _) in DTYPES.items()}
_ALIGNMENT = 8


def safetensors_header(
    entries: Iterable[tuple[str, torch.dtype, Sequence[int]]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Encodes the header: its length, then its JSON; the data follow in the order of the entries.

    Args:
        entries: name, dtype and shape of each tensor.
        metadata: strings for the entry `__metadata__`.

    Raises:
        InputError: safetensors has no code for a dtype.
    """
    table: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape in entries:
        code = _CODES.get(str(dtype).removeprefix("torch."))
        if code is None:
            raise InputError(f"'{name}' is {dtype}, which cannot be saved.")
        span = [offset, offset + math.prod(shape) * dtype.itemsize]
        table[name] = {"dtype": code, "shape": list(shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(table, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the file, created right before it is written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def write_model_file(
    path: Path,
    entries: Iterable[TensorEntry],
    metadata: Mapping[str, str],
    *,
    overwrite: bool,
    stage: str,
    progress: Progress,
) -> None:
    """Writes a .safetensors file atomically, one tensor in memory at a time.

    Args:
        path: of the file.
        entries: are written in the order of falling size of their elements.
        metadata: strings for the entry `__metadata__`.
        overwrite: replace an existing file.
        stage: name of the stage for `progress`.
        progress: reports each tensor; a cancellation takes effect at the next one.

    Raises:
        InputError: the file exists, cannot be written, the disk is full, or the name does not
            end in .safetensors.
        Cancelled: the user cancelled; no file is left behind.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors to be saved as a model.")
    ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))
    listed = [(entry.name, entry.dtype, entry.shape) for entry in ordered]
    header = safetensors_header(listed, {**metadata, "format": "pt"})
    with atomic_file(path, overwrite) as part:
        with part.open("wb") as stream:
            stream.write(header)
            for entry in progress.track(ordered, stage, len(ordered)):
                flat = entry.make().detach().cpu().contiguous().flatten()
                stream.write(memoryview(flat.view(torch.uint8).numpy()))
        reject_foreign_file(path.resolve())
