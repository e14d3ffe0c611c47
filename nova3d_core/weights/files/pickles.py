"""Reads the header of PyTorch files from their pickle, without unpickling.

Unpickling runs any code that the file references. The opcodes are interpreted on a stack of inert
stubs instead: a call becomes a stub with the function's name. Only torch's functions that rebuild
tensors are known; they give dtype and shape, not a tensor.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ...errors import InputError
from ...io.files.containment import quote_value
from .header import ModelHeader, TensorInfo
from .pickle_interpreter import DTYPE_NAMES, MAX_STEPS, PickleInterpreter, PickleTooLongError, Stub

MAX_PICKLE_BYTES = 32_000_000
"""Bytes that are interpreted; a state dict needs about 0.5 MB."""
MAX_ZIP_READ = 8_000_000
"""Bytes that zipfile may read at once: it reads the central directory in one piece."""
_CHUNK_BYTES = 1_000_000

COMPRESSED = "Repacked with compression: torch cannot memory-map it, so save it again with torch."
"""Note on a zip file with compressed entries, which torch.save never writes."""
FOREIGN_CODE = "References code outside torch"
"""Start of the note on a pickle that would run other code than torch's."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""Magic number of torch.save's format before 1.6."""
_HARMLESS_NAMES = {"collections.OrderedDict", "_codecs.encode"}


def read_pickle_header(path: Path, stream: IO[bytes], size: int) -> ModelHeader:
    """Reads the header of a PyTorch file (zip or legacy) or of another pickle.

    Raises:
        InputError: a zip archive that is truncated, or that torch.save did not write.
    """
    stream.seek(0)
    start = stream.read(4)
    if start == b"PK\x03\x04":
        return _read_torch_zip(path, stream, size)
    stream.seek(0)
    return _read_legacy(path, stream.read(MAX_PICKLE_BYTES), size)


class _BoundedReads:
    """A file whose reads are limited to `MAX_ZIP_READ`, so that no archive exhausts memory."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable
        self.close = stream.close

    def read(self, count: int = -1) -> bytes:
        """Reads `count` bytes, all if negative; raises zipfile.BadZipFile beyond the limit."""
        data = (
            b""
            if count > MAX_ZIP_READ
            else self._stream.read(count if count >= 0 else MAX_ZIP_READ + 1)
        )
        if count > MAX_ZIP_READ or len(data) > MAX_ZIP_READ:
            raise zipfile.BadZipFile("the central directory or an entry is too large")
        return data


def _read_torch_zip(path: Path, stream: IO[bytes], size: int) -> ModelHeader:
    try:
        with zipfile.ZipFile(_BoundedReads(stream)) as archive:
            listed = archive.infolist()
            entries = [i for i in listed if i.filename.split("/")[-1] == "data.pkl"]
            if not entries:
                raise InputError(
                    f"{path} is a zip archive without a data.pkl: torch.save did not write it.",
                    "If it contains models, unpack it first.",
                )
            _check_sizes(path, listed, size)
            if entries[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("torch stores its pickle uncompressed")
            with archive.open(entries[0]) as member:
                text = b"".join(_read_chunks(member, MAX_PICKLE_BYTES))
    except InputError:
        raise
    except Exception as error:  # zipfile and zlib raise exceptions of any kind on damaged archives
        # the central directory is at the end, so a truncated download has none
        raise InputError(
            f"{path} is truncated or damaged: it starts like a PyTorch file (a zip archive) of "
            f"{size:,} bytes, but its central directory at the end cannot be read.",
            "Download it again.",
        ) from error
    plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in listed)
    notes = () if plain else (COMPRESSED,)
    return _parse_pickle(path, "torch_zip", io.BytesIO(text), size, *notes)


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raises InputError if the entries declare more bytes than the archive has."""
    packed = sum(entry.compress_size for entry in entries)
    plain = [entry for entry in entries if entry.compress_type == zipfile.ZIP_STORED]
    if packed > size or any(entry.file_size != entry.compress_size for entry in plain):
        raise InputError(
            f"{path} is damaged: the entries of this zip archive declare more bytes than its "
            f"{size:,}.",
            "Download it again.",
        )


def _read_chunks(member: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yields the first `max_bytes` bytes of a member in chunks."""
    while max_bytes > 0 and (chunk := member.read(min(max_bytes, _CHUNK_BYTES))):
        max_bytes -= len(chunk)
        yield chunk


def _read_legacy(path: Path, text: bytes, size: int) -> ModelHeader:
    """Reads torch.save's legacy format: magic number, version and system info, then the object."""
    stream = io.BytesIO(text)
    try:
        if PickleInterpreter().run(pickletools.genops(stream)) != LEGACY_MAGIC:
            return ModelHeader(
                "pickle",
                size,
                notes=("A Python pickle that torch.save did not write: not parsed.",),
            )
        for _ in range(2):
            PickleInterpreter().run(pickletools.genops(stream))
    except Exception as error:  # pickletools raises exceptions of any kind
        raise InputError(
            f"{path} is neither a safetensors file nor a PyTorch file, or it is damaged.",
            "Check the downloaded file, or download it again.",
        ) from error
    legacy = "Saved in torch.save's format before 1.6, which loads slowly: save it again."
    return _parse_pickle(path, "torch_legacy", stream, size, legacy)


def _parse_pickle(path: Path, kind: Any, stream: io.BytesIO, size: int, *notes: str) -> ModelHeader:
    """Parses the pickle at the stream's position; the header is empty if that fails.

    Raises InputError if its tensors declare more bytes than the file has.
    """
    interpreter = PickleInterpreter()
    unparsed = "A PyTorch pickle that could not be parsed: identified by name and size."
    try:
        root, tensors = find_tensors(interpreter.run(pickletools.genops(stream)))
    except Exception as error:  # pickletools raises exceptions of any kind
        root, tensors = "", {}
        if isinstance(error, PickleTooLongError):
            unparsed = (
                f"A pickle of more than {MAX_STEPS:,} steps, which no model needs: not parsed."
            )
    declared = sum(interpreter.storages.values())
    if tensors and declared > size and COMPRESSED not in notes:
        raise InputError(
            f"{path} is truncated or damaged: its tensors declare {declared:,} bytes, the file has "
            f"{size:,}.",
            "Download it again.",
        )
    foreign = sorted(
        n for n in interpreter.names if n not in _HARMLESS_NAMES and not _is_torch_global(n)
    )
    if foreign:
        listed = ", ".join(_printable_name(n) for n in foreign[:4]) + (
            ", ..." if len(foreign) > 4 else ""
        )
        notes += (
            f"{FOREIGN_CODE} ({listed}), which may run when it is unpickled: use it only if you "
            "trust its source.",
        )
    if not tensors:
        notes += (unparsed,)
    return ModelHeader(kind, size, tensors, root=root, notes=notes)


def _printable_name(name: str) -> str:
    """A name as it is shown in a note: printable and short."""
    return name if name.isprintable() and len(name) <= 80 else quote_value(name[:80])


def _is_torch_global(name: str) -> bool:
    """True for the functions and classes that torch.save itself references."""
    module, _, last = name.rpartition(".")
    if module in ("torch._utils", "torch._tensor"):
        return last.startswith("_rebuild_")
    if module in ("torch", "torch.storage"):
        return last.endswith("Storage") or last in ("Size", "device") or last in DTYPE_NAMES
    return False


def find_tensors(root: Any) -> tuple[str, dict[str, TensorInfo]]:
    """Finds the dict with the most tensors in an unpickled object: its key path and tensors.

    Searches three levels deep: {"state_dict": {...}} gives ("state_dict", {...}).
    """
    best: tuple[str, dict[str, TensorInfo]] = "", {}
    seen: set[int] = set()
    tables = [("", root)]
    for _ in range(4):
        deeper = []
        for path, table in tables:
            # modules and other objects keep their dicts in their state
            table = table.state if isinstance(table, Stub) else table
            if not isinstance(table, dict) or id(table) in seen:
                continue
            seen.add(id(table))
            texts = {key: value for key, value in table.items() if isinstance(key, str)}
            tensors = {k: v for k, v in texts.items() if isinstance(v, TensorInfo)}
            best = (path, tensors) if len(tensors) > len(best[1]) else best
            deeper += [(f"{path}.{k}".lstrip("."), v) for k, v in texts.items()]
        tables = deeper
    return best
