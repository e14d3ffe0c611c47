"""The header of a model file: keys, dtypes and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FileFormat = Literal["safetensors", "torch_zip", "torch_legacy", "pickle"]

DTYPES: dict[str, tuple[str, int]] = {
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
    "C64": ("complex64", 64),
}
"""Dtype codes of safetensors: torch's name of each, and bits per value."""

MAX_NAME_LENGTH = 512
"""Characters of a key; the longest published one has 110."""
MAX_DIMENSIONS = 64
"""torch's own limit."""
MAX_DIMENSION = 2**63 - 1


@dataclass(frozen=True)
class TensorInfo:
    """Dtype and shape of a tensor."""

    dtype: str
    """torch's name of the dtype, e.g. "float16"."""
    shape: tuple[int, ...]
    """() for a scalar."""


@dataclass(frozen=True)
class ModelHeader:
    """The keys, dtypes and shapes in a model file, and its metadata."""

    format: FileFormat
    """The container; "pickle" is one that torch.save did not write."""
    bytes: int
    """Size of the file."""
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    """All tensors by key; empty if a pickle could not be parsed."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The entry `__metadata__` (safetensors only)."""
    root: str = ""
    """Dotted path to the state dict inside a pickle, e.g. "state_dict"."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""


def is_int64(value: Any) -> bool:
    """True for an integer that fits into 64 bits; False for booleans."""
    return type(value) is int and abs(value) <= MAX_DIMENSION
