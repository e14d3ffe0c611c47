"""Safetensors files of possibly sharded tensors. Operating system errors stay OSErrors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import InputError
from ..weights.files.write import safetensors_header
from .dtensor import full_tensor, is_sharded


def write_tensors(path: Path | None, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors one after the other, without a second copy of all of them.

    Sharded tensors are gathered one at a time. This is collective: all processes call it, those
    that do not write with None. If writing fails, the other processes are not left waiting.

    Raises:
        OSError: of the operating system, for example a full disk.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    failed: OSError | None = None
    with ExitStack() as stack:
        stream: BinaryIO | None = None
        if path is not None:
            try:
                stream = stack.enter_context(path.open("wb"))
                entries = [(name, tensor.dtype, tensor.shape) for name, tensor in ordered]
                stream.write(safetensors_header(entries))
            except OSError as error:
                failed = error
        for _, tensor in ordered:
            writes = stream is not None and failed is None
            if not writes and not is_sharded(tensor):
                continue
            flat = full_tensor(tensor).cpu().contiguous().flatten()
            if writes:
                try:
                    stream.write(memoryview(flat.view(torch.uint8).numpy()))
                    stream.flush()
                except OSError as error:
                    failed = error
    if failed is not None:
        raise failed


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a file of `write_tensors`; the tensors are memory-mapped.

    Raises:
        InputError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read: {error}.",
            "Delete its folder to resume from the previous checkpoint.",
        ) from error
