"""Reads STL, binary and ASCII."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...mesh import Mesh
from ..files.text_lines import chunks_of_lines, clean_text, warn_of_losses
from .polygon_mesh import distinct_rows
from .primitives import Part, mesh_from_arrays

logger = logging.getLogger(__name__)

_HEADER_BYTES = 84
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_AGAIN = "Copy or export it again."


def read_stl(path: Path) -> list[Part]:
    """The faces of an STL file; corners at exactly the same place become one vertex.

    The colours that some programs keep in binary facets are not read, which a warning names.

    Raises:
        InputError: the file is neither kind of STL, or cut off.
    """
    content = path.read_bytes()
    declared = _declared_facets(content)
    fits = declared is not None and len(content) == _HEADER_BYTES + declared * _FACET.itemsize
    if not fits and _is_text(content):
        corners = _ascii_corners(clean_text(content))
    else:
        corners = _binary_corners(path, content)
    return [Part(_welded(corners))] if len(corners) else []


def _declared_facets(content: bytes) -> int | None:
    """How many facets the header of a binary STL declares."""
    if len(content) < _HEADER_BYTES:
        return None
    return int.from_bytes(content[_HEADER_BYTES - 4 : _HEADER_BYTES], "little")


def _is_text(content: bytes) -> bool:
    """Whether it is an ASCII STL; headers of binary ones may start with `solid` too."""
    text = clean_text(content[:100_000]).lstrip().lower()
    return text.startswith(b"solid") and (b"facet" in text or b"endsolid" in text)


def _binary_corners(path: Path, content: bytes) -> np.ndarray:
    """(F, 3, 3) corners of the facets of a binary STL; bytes after them are no matter."""
    declared = _declared_facets(content)
    held = (len(content) - _HEADER_BYTES) // _FACET.itemsize
    if declared is None or declared > held:
        promised = "no header" if declared is None else f"a header for {declared} triangles"
        raise InputError(
            f"{path} is no STL file, or cut off: it has {promised} and {len(content)} bytes.",
            _AGAIN,
        )
    facets = np.frombuffer(content, dtype=_FACET, count=declared, offset=_HEADER_BYTES)
    # VisCAM and SolidView set bit 15 of a coloured facet; Materialise names COLOR= in the header
    # and clears it for facets with a colour of their own
    in_header = b"COLOR=" in content[: _HEADER_BYTES - 4]
    if in_header or bool((facets["attribute"] & 0x8000).any()):
        warn_of_losses(logger, path, {"colours of facets are left out": None})
    return facets["corners"]


def _ascii_corners(content: bytes) -> np.ndarray:
    """(F, 3, 3) corners of the facets of all solids of an ASCII STL.

    Raises:
        InputError: a facet has not three vertices, or a facet or solid has no end.
    """
    corners = []
    facet_of, facet_count, ended, solids, closed = [], 0, 0, 0, 0
    for lines in chunks_of_lines(content):
        is_vertex = lines.starts_with(b"vertex")
        is_facet = lines.starts_with(b"facet")
        if is_vertex.any():
            values, counts = lines.numbers(is_vertex, len(b"vertex"))
            if (counts != 3).any():
                wrong = np.flatnonzero(is_vertex)[counts != 3][0]
                raise InputError(f"{lines.name(wrong)} has not three numbers.")
            corners.append(values.reshape(-1, 3))
        facet_of.append((np.cumsum(is_facet) + facet_count)[is_vertex])
        facet_count += int(is_facet.sum())
        ended += int(lines.starts_with(b"endfacet").sum())
        solids += int(lines.starts_with(b"solid").sum())
        closed += int(lines.starts_with(b"endsolid").sum())
        closed += int(lines.starts_with(b"end").sum())  # `end solid`, as some programs write
    if ended != facet_count or closed < solids:
        raise InputError(
            f"it is cut off: of {facet_count} facets {ended} have an end, and of {solids} solids "
            f"{closed}.",
            _AGAIN,
        )
    found = np.concatenate([np.zeros((0, 3)), *corners])
    per_facet = np.bincount(np.concatenate(facet_of), minlength=facet_count + 1)
    if per_facet[0] or (per_facet[1:] != 3).any():
        raise InputError("not every facet has three vertices.", _AGAIN)
    return found.reshape(-1, 3, 3)


def _welded(corners: np.ndarray) -> Mesh:
    """The mesh of (F, 3, 3) corners with equal ones merged, in the order in which they appear."""
    points = corners.reshape(-1, 3)
    first, kinds = distinct_rows(list(points.T))
    order = np.argsort(first)
    rank = np.zeros_like(order)
    rank[order] = np.arange(len(order))
    return mesh_from_arrays(points[first[order]], rank[kinds].reshape(-1, 3))
