"""What a model file says about itself: tensor names, number formats and shapes, never their values.

A safetensors file starts with its table of contents, and a PyTorch file keeps one in a pickle,
which `pickles` reads without running it. So ten gigabytes are told in milliseconds, without torch.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError
from ...io.files.containment import quote_value
from ...io.files.json_text import parse_json

FileFormat = Literal["safetensors", "torch_zip", "torch_legacy", "pickle"]

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
MODEL_SUFFIXES = SAFETENSORS_SUFFIXES + PICKLE_SUFFIXES

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
"""Number formats of safetensors: torch's name for each, and bits a number."""

MAX_HEADER_BYTES = 8_000_000
"""The largest header we know has half a megabyte; the safetensors library stops at 100."""
MAX_NAME_LENGTH = 512
"""Characters of a tensor's name; the longest we know has 110."""
MAX_DIMENSIONS = 64
"""What torch can index."""
MAX_DIMENSION = 2**63 - 1

_AGAIN = "Download it again."
_LONGEST_CODE = 32
_TEXT_BYTES = frozenset(b"\t\n\r" + bytes(range(32, 127)))


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its values."""

    dtype: str
    """torch's name of the number format, e.g. "float16"."""
    shape: tuple[int, ...]
    """Its shape, () for a single number."""


@dataclass(frozen=True)
class ModelHeader:
    """A model file's table of contents."""

    format: FileFormat
    """How the file is built; "pickle" is one that torch did not write."""
    bytes: int
    """Size of the whole file."""
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    """Every tensor by name; empty if a pickle could not be followed."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Free text that the file carries (safetensors only)."""
    root: str = ""
    """The key below which a pickle keeps its weights, e.g. "state_dict"."""
    notes: tuple[str, ...] = ()
    """What a user should know about the file, one sentence each."""


def read_header(path: Path | str) -> ModelHeader:
    """The table of contents of a .safetensors or PyTorch file.

    The file's first bytes decide what it is, not its name.

    Raises:
        InputError: the file cannot be read, is cut short or damaged, or is no model at all (a Git
            LFS pointer, a web page); says which, and what to do.
    """
    path = Path(path)
    try:
        status = path.stat()
        size = status.st_size
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise InputError(f"{path} is a pipe or a device, not a file.")  # could wait for ever
        with path.open("rb") as stream:
            start = stream.read(4096)
            _refuse_what_is_no_model(path, start, size)
            if _is_pickle(path, start):
                from .pickles import read_pickle_header

                return read_pickle_header(path, stream, size)
            stream.seek(0)
            return _read_safetensors(path, stream.read(8), stream, size)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check that it exists and that you may read it.",
        ) from error


def _is_pickle(path: Path, start: bytes) -> bool:
    """True for a zip archive, a binary pickle, or whatever else bears a pickle's name."""
    if start[8:9] == b"{":  # safetensors, whatever its eight bytes of length look like
        return False
    binary_pickle = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    by_name = path.suffix.lower() in PICKLE_SUFFIXES
    return start.startswith(b"PK\x03\x04") or binary_pickle or by_name


def _refuse_what_is_no_model(path: Path, start: bytes, size: int) -> None:
    """Raises InputError for an empty file, a Git LFS pointer, a web page or another text."""
    if size == 0:
        raise InputError(f"{path} is empty.", _AGAIN)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        fields = dict(line.split(b" ", 1) for line in text.splitlines() if b" " in line)
        real = fields.get(b"size", b"").strip()
        known = real.isdigit() and len(real) <= 20
        promise = f" to a file of {int(real):,} bytes" if known else ""
        raise InputError(
            f"{path} is a Git LFS pointer{promise}, not the model itself.",
            "Fetch the real file with: git lfs pull",
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")):
        raise InputError(
            f"{path} is a web page saved under the name of a model: the download was answered "
            "with a page, often a log-in or an error.",
            "Log in to the site, agree to the model's terms if it is gated, and download again.",
        )
    if all(byte in _TEXT_BYTES for byte in start[:64]):
        said = " ".join(start[:80].decode("ascii", "replace").split())
        raise InputError(
            f"{path} is a text, not a model: '{said}'.",
            "If it is a download's error message, log in to the site, agree to the model's terms "
            "if it is gated, and download again.",
        )


def _read_safetensors(path: Path, first: bytes, stream: Any, size: int) -> ModelHeader:
    """The header of a safetensors file: 8 bytes of length, then that many bytes of JSON."""
    if len(first) < 8:
        raise InputError(f"{path} is cut short: it has only {size} bytes.", _AGAIN)
    length = int.from_bytes(first, "little")
    if length == 0:
        raise InputError(f"{path} starts with zeros: its download never finished.", _AGAIN)
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise InputError(
            f"{path} is not a safetensors file: its first bytes give a header of {length:,} bytes.",
            "Look at what was downloaded; a model's header has less than a megabyte.",
        )
    if 8 + length > size:
        raise _cut_short(path, 8 + length, size)
    text = stream.read(length)
    if not text.startswith(b"{"):
        raise InputError(f"{path} is not a safetensors file: its header is not JSON.", _AGAIN)
    try:
        entries = parse_json(text, "its header")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error.message}", _AGAIN) from error
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(f"{path} is damaged: its __metadata__ is not a table of texts.", _AGAIN)
    tensors, data_bytes = _parse_entries(path, entries)
    promised = 8 + length + data_bytes
    if size < promised:
        raise _cut_short(path, promised, size)
    if size > promised:
        raise InputError(
            f"{path} has {size:,} bytes, {size - promised:,} more than its header describes.",
            f"Something was appended or two downloads were mixed. {_AGAIN}",
        )
    return ModelHeader("safetensors", size, tensors, metadata)


def _parse_entries(path: Path, entries: dict[str, Any]) -> tuple[dict[str, TensorInfo], int]:
    """The tensors of a safetensors header, and how many bytes of data they promise.

    Raises InputError on an entry that is malformed, and on tensors that overlap or leave gaps.
    """
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        code, shape, begin, end = _parse_entry(path, name, entry)
        dtype, bits = DTYPES.get(code, (code.lower(), None))
        fits = not bits or (end - begin) * 8 == math.prod(shape) * bits
        if not 0 <= begin <= end or min(shape, default=0) < 0 or not fits:
            raise InputError(
                f"{path} is damaged: tensor {quote_value(name)} has shape {quote_value(list(shape))} in "
                f"{code}, which does not fit its place in the file ({begin} to {end}).",
                _AGAIN,
            )
        tensors[name] = TensorInfo(dtype, shape)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise InputError(
                f"{path} is damaged: tensor {quote_value(name)} starts at {begin}, expected {position}.",
                _AGAIN,
            )
        position = end
    return tensors, position


def _parse_entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Number format, shape, and begin and end of the data of a tensor; all of the right types.

    Raises InputError on anything else, before a number is computed with.
    """
    entry = entry if isinstance(entry, dict) else {}
    code, shape, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        len(name) > MAX_NAME_LENGTH
        or not (isinstance(code, str) and 0 < len(code) <= _LONGEST_CODE)
        or not (isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS)
        or not (isinstance(span, list) and len(span) == 2)
        or not all(is_number(value) for value in (*shape, *span))
    ):
        raise InputError(
            f"{path} is damaged: tensor {quote_value(name)} is not described properly.", _AGAIN
        )
    return code, tuple(shape), span[0], span[1]


def is_number(value: Any) -> bool:
    """True for an integer of 64 bits, which True and False are not."""
    return type(value) is int and abs(value) <= MAX_DIMENSION


def _cut_short(path: Path, promised: int, size: int) -> InputError:
    return InputError(
        f"{path} is cut short: the header promises {promised:,} bytes, the file has {size:,}.",
        f"{_AGAIN} (An unfinished download often keeps the final name.)",
    )


def is_model_name(name: str) -> bool:
    """True if a file of this name is usually a model's weights."""
    return os.path.splitext(name)[1].lower() in MODEL_SUFFIXES
