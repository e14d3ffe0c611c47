"""The header of a safetensors file whose tensors are then written one at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ...errors import InputError
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
