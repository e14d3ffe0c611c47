"""Reads STL, binary and ASCII."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...mesh import Mesh
from ..files.text_lines import clean_text, iter_line_chunks, warn_dropped
from .polygon_mesh import unique_rows
from .primitives import Primitive, mesh_from_arrays

logger = logging.getLogger(__name__)

_HEADER_BYTES = 84
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_EXPORT_AGAIN = "Copy or export it again."


def read_stl(path: Path) -> list[Primitive]:
    """Reads the faces of an STL file; corners at identical positions become one vertex.

    The facet colours that some programs store in binary files are ignored with a warning.

    Raises:
        InputError: the file is neither binary nor ASCII STL, or truncated.
    """
    content = path.read_bytes()
    declared = _declared_facets(content)
    fits = declared is not None and len(content) == _HEADER_BYTES + declared * _FACET.itemsize
    if not fits and _is_text(content):
        corners = _ascii_corners(clean_text(content))
    else:
        corners = _binary_corners(path, content)
    return [Primitive(_weld(corners))] if len(corners) else []


def _declared_facets(content: bytes) -> int | None:
    """The facet count in the header of a binary STL."""
    if len(content) < _HEADER_BYTES:
        return None
    return int.from_bytes(content[_HEADER_BYTES - 4 : _HEADER_BYTES], "little")


def _is_text(content: bytes) -> bool:
    """Whether it is an ASCII STL; binary headers may start with `solid` too."""
    text = clean_text(content[:100_000]).lstrip().lower()
    return text.startswith(b"solid") and (b"facet" in text or b"endsolid" in text)


def _binary_corners(path: Path, content: bytes) -> np.ndarray:
    """(F, 3, 3) facet corners of a binary STL; trailing bytes are ignored."""
    declared = _declared_facets(content)
    available = (len(content) - _HEADER_BYTES) // _FACET.itemsize
    if declared is None or declared > available:
        header = "no header" if declared is None else f"a header for {declared} triangles"
        raise InputError(
            f"{path} is not an STL file, or truncated: it has {header} and {len(content)} bytes.",
            _EXPORT_AGAIN,
        )
    facets = np.frombuffer(content, dtype=_FACET, count=declared, offset=_HEADER_BYTES)
    # VisCAM and SolidView set bit 15 of coloured facets; Materialise writes COLOR= in the header
    # and clears the bit of facets with a colour of their own
    in_header = b"COLOR=" in content[: _HEADER_BYTES - 4]
    if in_header or bool((facets["attribute"] & 0x8000).any()):
        warn_dropped(logger, path, {"facet colours are ignored": None})
    return facets["corners"]


def _ascii_corners(content: bytes) -> np.ndarray:
    """(F, 3, 3) facet corners of all solids of an ASCII STL.

    Raises:
        InputError: a facet does not have three vertices, or a facet or solid is not closed.
    """
    corners = []
    facet_of, facet_count, ended, solids, closed = [], 0, 0, 0, 0
    for lines in iter_line_chunks(content):
        is_vertex = lines.starts_with(b"vertex")
        is_facet = lines.starts_with(b"facet")
        if is_vertex.any():
            values, counts = lines.numbers(is_vertex, len(b"vertex"))
            if (counts != 3).any():
                invalid = np.flatnonzero(is_vertex)[counts != 3][0]
                raise InputError(f"{lines.name(invalid)} does not have three values.")
            corners.append(values.reshape(-1, 3))
        facet_of.append((np.cumsum(is_facet) + facet_count)[is_vertex])
        facet_count += int(is_facet.sum())
        ended += int(lines.starts_with(b"endfacet").sum())
        solids += int(lines.starts_with(b"solid").sum())
        closed += int(lines.starts_with(b"endsolid").sum())
        closed += int(lines.starts_with(b"end").sum())  # some programs write `end solid`
    if ended != facet_count or closed < solids:
        raise InputError(
            f"it is truncated: only {ended} of {facet_count} facets and {closed} of {solids} "
            "solids are closed.",
            _EXPORT_AGAIN,
        )
    found = np.concatenate([np.zeros((0, 3)), *corners])
    per_facet = np.bincount(np.concatenate(facet_of), minlength=facet_count + 1)
    if per_facet[0] or (per_facet[1:] != 3).any():
        raise InputError("a facet does not have three vertices.", _EXPORT_AGAIN)
    return found.reshape(-1, 3, 3)


def _weld(corners: np.ndarray) -> Mesh:
    """Merges identical corners (F, 3, 3) into vertices, in order of first appearance."""
    points = corners.reshape(-1, 3)
    first, inverse = unique_rows(list(points.T))
    order = np.argsort(first)
    rank = np.zeros_like(order)
    rank[order] = np.arange(len(order))
    return mesh_from_arrays(points[first[order]], rank[inverse].reshape(-1, 3))
