"""Many tensors as one safetensors file; what the system refuses comes out as an OSError."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..weights.headers import DTYPES

_CODES = {name: code for code, (name, _) in DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors one after the other; nothing is held twice.

    Raises:
        OSError: as the system says it: a full disk, for example.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    table, position = {}, 0
    for name, tensor in ordered:
        size = math.prod(tensor.shape) * tensor.dtype.itemsize
        code = _CODES[str(tensor.dtype).removeprefix("torch.")]
        span = [position, position + size]
        table[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": span}
        position += size
    text = json.dumps(table, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            flat = tensor.detach().cpu().contiguous().flatten()
            stream.write(memoryview(flat.view(torch.uint8).numpy()))


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
