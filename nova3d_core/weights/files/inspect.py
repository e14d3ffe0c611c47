"""Reads the header of a model file: keys, dtypes and shapes of its tensors, but no values.

A safetensors file starts with its header; a PyTorch file contains a pickle, which `pickles` parses
without running it. Inspecting ten gigabytes takes milliseconds and imports neither torch nor
safetensors, whose `safe_open` also accepts headers beyond the limits below.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.files.containment import quote_value
from ...io.files.json_text import parse_json
from .header import DTYPES, MAX_DIMENSIONS, MAX_NAME_LENGTH, ModelHeader, TensorInfo, is_int64
from .pickles import read_pickle_header

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
MODEL_SUFFIXES = SAFETENSORS_SUFFIXES + PICKLE_SUFFIXES

MAX_HEADER_BYTES = 8_000_000
"""The largest published header has 0.5 MB; the safetensors library allows 100 MB."""

_DOWNLOAD_AGAIN = "Download it again."
_MAX_DTYPE_CODE = 32
_TEXT_BYTES = frozenset(b"\t\n\r" + bytes(range(32, 127)))


def read_header(path: Path | str) -> ModelHeader:
    """Reads the header of a .safetensors or PyTorch file.

    The first bytes determine the format, not the file's name.

    Raises:
        InputError: the file cannot be read, is truncated or damaged, or is not a model (a Git LFS
            pointer, a web page); says which, and what to do.
    """
    path = Path(path)
    try:
        status = path.stat()
        size = status.st_size
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise InputError(
                f"{path} is a pipe or a device, not a file."
            )  # reading it could block forever
        with path.open("rb") as stream:
            start = stream.read(4096)
            _check_is_model(path, start, size)
            if _is_pickle(path, start):
                return read_pickle_header(path, stream, size)
            stream.seek(0)
            return _read_safetensors(path, stream.read(8), stream, size)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check that it exists and that you have permission to read it.",
        ) from error


def _is_pickle(path: Path, start: bytes) -> bool:
    """True for a zip archive, a binary pickle, or any other file with a pickle's suffix."""
    if start[8:9] == b"{":  # safetensors, even if its length starts like a pickle
        return False
    binary_pickle = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    by_name = path.suffix.lower() in PICKLE_SUFFIXES
    return start.startswith(b"PK\x03\x04") or binary_pickle or by_name


def _check_is_model(path: Path, start: bytes, size: int) -> None:
    """Raises InputError for an empty file, a Git LFS pointer, a web page or other text."""
    if size == 0:
        raise InputError(f"{path} is empty.", _DOWNLOAD_AGAIN)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        fields = dict(line.split(b" ", 1) for line in text.splitlines() if b" " in line)
        size_text = fields.get(b"size", b"").strip()
        has_size = size_text.isdigit() and len(size_text) <= 20
        target = f" to a file of {int(size_text):,} bytes" if has_size else ""
        raise InputError(
            f"{path} is a Git LFS pointer{target}, not the model itself.",
            "Fetch the file with: git lfs pull",
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")):
        raise InputError(
            f"{path} is a web page saved under the name of a model, often a login or error page.",
            "Log in to the site, accept the model's terms if it is gated, and download it again.",
        )
    if all(byte in _TEXT_BYTES for byte in start[:64]):
        excerpt = " ".join(start[:80].decode("ascii", "replace").split())
        raise InputError(
            f"{path} is a text file, not a model: '{excerpt}'.",
            "If it is the error message of a download, log in to the site, accept the model's "
            "terms if it is gated, and download it again.",
        )


def _read_safetensors(path: Path, first: bytes, stream: Any, size: int) -> ModelHeader:
    """Reads a safetensors header: its length in 8 bytes, then JSON of that length."""
    if len(first) < 8:
        raise InputError(f"{path} is truncated: it has only {size} bytes.", _DOWNLOAD_AGAIN)
    length = int.from_bytes(first, "little")
    if length == 0:
        raise InputError(f"{path} starts with zeros: its download is incomplete.", _DOWNLOAD_AGAIN)
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise InputError(
            f"{path} is not a safetensors file: its first bytes declare a header of {length:,} "
            "bytes.",
            "Check the downloaded file; the header of a model has less than a megabyte.",
        )
    if 8 + length > size:
        raise _truncated_error(path, 8 + length, size)
    text = stream.read(length)
    if not text.startswith(b"{"):
        raise InputError(
            f"{path} is not a safetensors file: its header is not JSON.", _DOWNLOAD_AGAIN
        )
    try:
        entries = parse_json(text, "its header")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error.message}", _DOWNLOAD_AGAIN) from error
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(
            f"{path} is damaged: its __metadata__ is not an object of strings.", _DOWNLOAD_AGAIN
        )
    tensors, data_bytes = _parse_entries(path, entries)
    declared = 8 + length + data_bytes
    if size < declared:
        raise _truncated_error(path, declared, size)
    if size > declared:
        raise InputError(
            f"{path} has {size:,} bytes, {size - declared:,} more than its header declares.",
            f"Data were appended or two downloads were mixed. {_DOWNLOAD_AGAIN}",
        )
    return ModelHeader("safetensors", size, tensors, metadata)


def _parse_entries(path: Path, entries: dict[str, Any]) -> tuple[dict[str, TensorInfo], int]:
    """Parses the tensors of a safetensors header; also returns their total size in bytes.

    Raises InputError for malformed entries, and for tensors that overlap or leave gaps.
    """
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        code, shape, start, end = _parse_entry(path, name, entry)
        dtype, bits = DTYPES.get(code, (code.lower(), None))
        fits = not bits or (end - start) * 8 == math.prod(shape) * bits
        if not 0 <= start <= end or min(shape, default=0) < 0 or not fits:
            raise InputError(
                f"{path} is damaged: tensor {quote_value(name)} has shape "
                f"{quote_value(list(shape))} in {code}, which does not match its data offsets "
                f"({start} to {end}).",
                _DOWNLOAD_AGAIN,
            )
        tensors[name] = TensorInfo(dtype, shape)
        spans.append((start, end, name))
    position = 0
    for start, end, name in sorted(spans):
        if start != position:
            raise InputError(
                f"{path} is damaged: tensor {quote_value(name)} starts at {start}, expected "
                f"{position}.",
                _DOWNLOAD_AGAIN,
            )
        position = end
    return tensors, position


def _parse_entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Validates one entry; returns dtype code, shape, start and end of its data.

    Raises InputError for wrong types and absurd sizes, before any arithmetic with them.
    """
    entry = entry if isinstance(entry, dict) else {}
    code, shape, span = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        len(name) > MAX_NAME_LENGTH
        or not (isinstance(code, str) and 0 < len(code) <= _MAX_DTYPE_CODE)
        or not (isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS)
        or not (isinstance(span, list) and len(span) == 2)
        or not all(is_int64(value) for value in (*shape, *span))
    ):
        raise InputError(
            f"{path} is damaged: tensor {quote_value(name)} has an invalid entry.", _DOWNLOAD_AGAIN
        )
    return code, tuple(shape), span[0], span[1]


def _truncated_error(path: Path, declared: int, size: int) -> InputError:
    return InputError(
        f"{path} is truncated: its header declares {declared:,} bytes, the file has {size:,}.",
        f"{_DOWNLOAD_AGAIN} (An incomplete download often has the final name.)",
    )


def is_model_name(name: str) -> bool:
    """True if the name has a suffix of model weights."""
    return os.path.splitext(name)[1].lower() in MODEL_SUFFIXES
