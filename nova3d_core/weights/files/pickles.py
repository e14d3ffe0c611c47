"""The table of contents of PyTorch files, read from their pickle without running it.

Unpickling runs whatever the file asks for, so nothing here unpickles. The opcodes are followed one
by one on a stack of inert notes: a function that the file wants to call becomes a note of its name.
Only torch's own ways to rebuild a tensor are understood, and they give a shape, not a tensor.
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
from .inspect import ModelHeader, TensorInfo
from .pickle_machine import DTYPE_NAMES, MAX_STEPS, Note, PickleInterpreter, PickleTooLongError

MAX_PICKLE_BYTES = 32_000_000
"""Longer ones are not followed: weights alone have about half a megabyte."""
MAX_ZIP_READ = 8_000_000
"""Bytes that zipfile may ask for at once: its table of contents is read in one piece."""
_MEMBER_PIECE = 1_000_000

COMPRESSED = "Packed again by a zip program: torch cannot map it, unpack it or save it again."
"""The remark on a zip file whose entries are compressed, which torch.save never does."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that starts a file of torch.save before its zip format."""
_PLAIN_NAMES = {"collections.OrderedDict", "_codecs.encode"}


def read_pickle_header(path: Path, stream: IO[bytes], size: int) -> ModelHeader:
    """The table of contents of a PyTorch file (zip or legacy) or of another pickle.

    Raises:
        InputError: a zip archive that is cut short, or one that torch did not write.
    """
    stream.seek(0)
    start = stream.read(4)
    if start == b"PK\x03\x04":
        return _read_torch_zip(path, stream, size)
    stream.seek(0)
    return _read_legacy(path, stream.read(MAX_PICKLE_BYTES), size)


class _BoundedReads:
    """A file that refuses to be read in larger pieces than any honest archive asks for."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable
        self.close = stream.close

    def read(self, count: int = -1) -> bytes:
        """At most so many bytes, all if negative; zipfile.BadZipFile for too many."""
        data = (
            b""
            if count > MAX_ZIP_READ
            else self._stream.read(count if count >= 0 else MAX_ZIP_READ + 1)
        )
        if count > MAX_ZIP_READ or len(data) > MAX_ZIP_READ:
            raise zipfile.BadZipFile("a table of contents or an entry is too large")
        return data


def _read_torch_zip(path: Path, stream: IO[bytes], size: int) -> ModelHeader:
    try:
        with zipfile.ZipFile(_BoundedReads(stream)) as archive:
            listed = archive.infolist()
            entries = [i for i in listed if i.filename.split("/")[-1] == "data.pkl"]
            if not entries:
                raise InputError(
                    f"{path} is a zip archive without a data.pkl: torch did not write it.",
                    "If models were packed into it, unpack it first.",
                )
            _check_sizes(path, listed, size)
            if entries[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("torch stores its pickle plainly")
            with archive.open(entries[0]) as member:
                text = b"".join(_pieces(member, MAX_PICKLE_BYTES))
    except InputError:
        raise
    except Exception as error:  # on a damaged archive, zipfile and zlib raise whatever comes up
        # A zip file has its table at the end, so a download that stopped early has none.
        raise InputError(
            f"{path} is cut short or damaged: it starts as a PyTorch file (a zip archive) of "
            f"{size:,} bytes, but its table of contents at the end cannot be read.",
            "Download it again.",
        ) from error
    plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in listed)
    notes = () if plain else (COMPRESSED,)
    return _header_of(path, "torch_zip", io.BytesIO(text), size, *notes)


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raises InputError if entries claim more bytes than the archive has."""
    packed = sum(entry.compress_size for entry in entries)
    plain = [entry for entry in entries if entry.compress_type == zipfile.ZIP_STORED]
    if packed > size or any(entry.file_size != entry.compress_size for entry in plain):
        raise InputError(
            f"{path} is damaged: the entries of this zip archive claim more bytes than the "
            f"{size:,} that it has.",
            "Download it again.",
        )


def _pieces(member: IO[bytes], most: int) -> Iterator[bytes]:
    """The first `most` bytes of a member, a piece at a time."""
    while most > 0 and (piece := member.read(min(most, _MEMBER_PIECE))):
        most -= len(piece)
        yield piece


def _read_legacy(path: Path, text: bytes, size: int) -> ModelHeader:
    """A file of old torch: a magic number, a version and system facts before the object itself."""
    stream = io.BytesIO(text)
    try:
        if PickleInterpreter().follow(pickletools.genops(stream)) != LEGACY_MAGIC:
            return ModelHeader(
                "pickle",
                size,
                notes=("A Python pickle that torch.save did not write: not read.",),
            )
        for _ in range(2):
            PickleInterpreter().follow(pickletools.genops(stream))
    except Exception as error:  # pickletools raises whatever comes up
        raise InputError(
            f"{path} is neither a safetensors file nor a PyTorch file, or it is damaged.",
            "Look at what was downloaded, or download it again.",
        ) from error
    legacy = "Written in torch.save's old format (before 1.6): slow to load; save it again."
    return _header_of(path, "torch_legacy", stream, size, legacy)


def _header_of(path: Path, kind: Any, stream: io.BytesIO, size: int, *notes: str) -> ModelHeader:
    """The header for the pickle at the stream's position; empty if it cannot be followed.

    Raises InputError if its tensors claim more bytes than the file has.
    """
    follower = PickleInterpreter()
    unread = "A PyTorch pickle whose contents could not be read: told by name and size."
    try:
        made = follower.follow(pickletools.genops(stream))
        root, tensors = find_tensors(made)
    except Exception as error:  # pickletools raises whatever comes up
        root, tensors = "", {}
        if isinstance(error, PickleTooLongError):
            unread = f"A pickle of more than {MAX_STEPS:,} steps, which no model needs: not read."
    claimed = sum(follower.storages.values())
    if tensors and claimed > size and COMPRESSED not in notes:
        raise InputError(
            f"{path} is cut short or damaged: its tensors claim {claimed:,} bytes, the file has "
            f"{size:,}.",
            "Download it again.",
        )
    foreign = sorted(n for n in follower.names if n not in _PLAIN_NAMES and not _is_torch(n))
    if foreign:
        listed = ", ".join(_shown(n) for n in foreign[:4]) + (", ..." if len(foreign) > 4 else "")
        notes += (
            f"Names code outside torch ({listed}), which may run when it is unpickled: use it only "
            "if you trust where it comes from.",
        )
    if not tensors:
        notes += (unread,)
    return ModelHeader(kind, size, tensors, root=root, notes=notes)


def _shown(name: str) -> str:
    """A name for a remark: printable, and not long."""
    return name if name.isprintable() and len(name) <= 80 else quote_value(name[:80])


def _is_torch(name: str) -> bool:
    """True for the names that torch.save itself writes for tensors."""
    module, _, last = name.rpartition(".")
    if module in ("torch._utils", "torch._tensor"):
        return last.startswith("_rebuild_")
    if module in ("torch", "torch.storage"):
        return last.endswith("Storage") or last in ("Size", "device") or last in DTYPE_NAMES
    return False


def find_tensors(made: Any) -> tuple[str, dict[str, TensorInfo]]:
    """The table with the most tensors in what a pickle describes: its key path and its tensors.

    Looks three tables deep: {"state_dict": {...}} gives ("state_dict", {...}).
    """
    best: tuple[str, dict[str, TensorInfo]] = "", {}
    seen: set[int] = set()
    tables = [("", made)]
    for _ in range(4):
        deeper = []
        for path, table in tables:
            # A module or another object keeps its tables in its state.
            table = table.state if isinstance(table, Note) else table
            if not isinstance(table, dict) or id(table) in seen:
                continue
            seen.add(id(table))
            texts = {key: value for key, value in table.items() if isinstance(key, str)}
            tensors = {k: v for k, v in texts.items() if isinstance(v, TensorInfo)}
            best = (path, tensors) if len(tensors) > len(best[1]) else best
            deeper += [(f"{path}.{k}".lstrip("."), v) for k, v in texts.items()]
        tables = deeper
    return best
