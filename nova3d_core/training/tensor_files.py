"""Many tensors as one safetensors file; what the system refuses comes out as an OSError."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import InputError
from ..weights.files.write import safetensors_header
from .dtensor import is_sharded, whole


def write_tensors(path: Path | None, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors one after the other; nothing is held twice.

    Split tensors are put together one at a time, for which all processes call this, those that do
    not write with None. If writing fails, the others are not left waiting.

    Raises:
        OSError: as the system says it: a full disk, for example.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    failed: OSError | None = None
    with ExitStack() as opened:
        stream: BinaryIO | None = None
        if path is not None:
            try:
                stream = opened.enter_context(path.open("wb"))
                listed = [(name, tensor.dtype, tensor.shape) for name, tensor in ordered]
                stream.write(safetensors_header(listed))
            except OSError as error:
                failed = error
        for _, tensor in ordered:
            writes = stream is not None and failed is None
            if not writes and not is_sharded(tensor):
                continue
            flat = whole(tensor).cpu().contiguous().flatten()
            if writes:
                try:
                    stream.write(memoryview(flat.view(torch.uint8).numpy()))
                    stream.flush()
                except OSError as error:
                    failed = error
    if failed is not None:
        raise failed


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what `write_tensors` wrote; the tensors are mapped from the file.

    Raises:
        InputError: the file is not there or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there.") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read: {error}.",
            "Delete its folder to go on from the checkpoint before it.",
        ) from error
