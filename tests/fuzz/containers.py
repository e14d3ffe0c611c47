"""Containers of files: change what is inside, with lengths and checksums that fit."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable

Inner = Callable[[bytes], bytes]
"""Changes the content of a container."""
Wrapped = Callable[[bytes, Inner], bytes]
"""Takes a container and a change of what is inside; gives the container, whole again."""


def glb(document: bytes, blob: bytes) -> bytes:
    """A GLB of a JSON text and a buffer."""
    document += b" " * (-len(document) % 4)
    chunks = struct.pack("<I4s", len(document), b"JSON") + document
    chunks += struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def wrap_glb(content: bytes, change: Inner) -> bytes:
    """The GLB with changed JSON."""
    length = struct.unpack_from("<I", content, 12)[0]
    return glb(change(content[20 : 20 + length]), content[28 + length :])


def wrap_safetensors(content: bytes, change: Inner) -> bytes:
    """The file with a changed header."""
    length = struct.unpack_from("<Q", content)[0]
    header = change(content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def wrap_zip(content: bytes, change: Inner) -> bytes:
    """The archive with changed pickles."""
    archive = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(archive, "w") as new:
        for info in old.infolist():
            inside = old.read(info)
            new.writestr(
                info.filename, change(inside) if info.filename.endswith(".pkl") else inside
            )
    return archive.getvalue()


def wrap_tar(content: bytes, change: Inner) -> bytes:
    """The archive with changed members."""
    archive = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as old,
        tarfile.open(fileobj=archive, mode="w") as new,
    ):
        for member in old.getmembers():
            inside = change(old.extractfile(member).read())
            member.size = len(inside)
            new.addfile(member, io.BytesIO(inside))
    return archive.getvalue()
