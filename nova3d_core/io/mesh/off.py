"""Reads OFF and its variants with colours, normals and texture coordinates."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..files.containment import quote_value
from ..files.text_lines import (
    clean_text,
    colours_to_unit_range,
    parse_count,
    parse_leading_numbers,
    strip_comments,
    warn_dropped,
)
from .polygon_mesh import PolygonSoup
from .primitives import Primitive

logger = logging.getLogger(__name__)

_MAGIC = re.compile(rb"(ST)?(C)?(N)?(4)?OFF(?=\s|\d|\Z)([ \t]+BINARY)?", re.IGNORECASE)
"""Many ModelNet files have no separator between the keyword and the first count."""
_EXPORT_AGAIN = "The file is truncated or damaged: copy or export it again."


def read_off(path: Path) -> list[Primitive]:
    """Reads the faces of an OFF, COFF, NOFF or STOFF file (or any combination) with colours.

    Polygons are triangulated. Face colours, used only if vertices have none, split the vertices.
    One warning names what is dropped.

    Raises:
        InputError: it is binary or four-dimensional, or shorter than its counts declare.
    """
    content = strip_comments(clean_text(path.read_bytes())).lstrip()
    magic = _MAGIC.match(content[:100])
    if magic is None:
        raise InputError(f"{path} is not an OFF file: it does not start with OFF.")
    has_uv, has_colours, has_normals, *unsupported = (group is not None for group in magic.groups())
    if any(unsupported) or b"nOFF" in magic[0]:  # nOFF is n-dimensional; `noff` is read as NOFF
        raise InputError(
            f"{path} is {quote_value(magic[0].decode().strip())}, which is not supported.",
            "Save it as plain OFF or as PLY.",
        )
    numbers = _NumberTable(content[magic.end() :])
    dropped: dict[str, None] = {}
    base = 3 + 3 * has_normals + 2 * has_uv
    table, end = numbers.vertices(base, has_colours, dropped)
    corners, counts, face_colours = numbers.faces(end, dropped)
    first_colour = 6 if has_normals else 3
    last = table.shape[1] - 2 * has_uv
    colours = colours_to_unit_range(table[:, first_colour:last]) if last > first_colour else None
    if face_colours is not None and colours is not None:
        dropped["face colours are ignored: vertex colours take precedence"] = None
        face_colours = None
    if (counts < 3).any():
        dropped["faces with fewer than three corners are ignored"] = None
    mesh = PolygonSoup(
        table[:, :3],
        corners,
        counts,
        normals=table[:, 3:6] if has_normals else None,
        colours=colours,
        uv=table[:, -2:] if has_uv else None,
        face_colours=face_colours,
    ).mesh()
    warn_dropped(logger, path, dropped)
    return [] if mesh is None else [Primitive(mesh)]


class _NumberTable:
    """The numbers of an OFF file after its keyword, with their line ends.

    Raises:
        InputError: the counts are missing, or exceed the numbers in the file.
    """

    def __init__(self, content: bytes):
        head = content.split(maxsplit=2)[:2]
        if len(head) < 2:
            raise InputError("it has no counts of vertices and faces.", _EXPORT_AGAIN)
        self.vertex_count = parse_count(head[0], "the number of vertices")
        self.face_count = parse_count(head[1], "the number of faces")
        self.values = parse_leading_numbers(content)
        """(W,) float64, including the counts."""
        text = np.frombuffer(content, dtype=np.uint8)
        starts = text > ord(" ")
        starts[1:] &= text[:-1] <= ord(" ")
        lines = np.append(0, np.flatnonzero(text[:-1] == ord("\n")) + 1)
        per_line = np.add.reduceat(starts.view(np.uint8), lines, dtype=np.int64)
        ends = np.unique(np.minimum(np.cumsum(per_line), len(self.values)))
        self.line_ends = ends[ends > 0]
        """(L,) index of the first number after each non-blank line."""

    def vertices(
        self, base: int, has_colours: bool, dropped: dict[str, None]
    ) -> tuple[np.ndarray, int]:
        """(N, base + colours) vertex table, and the index of the first number after it.

        Colours may be present without the letter C, with three or four values.
        """
        count = self.vertex_count
        first = int(self.line_ends[0])
        start = first if first == 2 else 3  # the edge count may be missing
        if base * count > len(self.values) - start:
            raise self._too_few_values_error("vertices", count)
        width = base + 4 * has_colours
        if first == start:
            widths = np.diff(self.line_ends[: count + 1])
            if len(widths) == count > 0 and widths.min() == widths.max() >= base:
                width = int(widths[0])
        end = start + width * count
        if end > len(self.values):
            raise self._too_few_values_error("vertices", count)
        table = self.values[start:end].reshape(count, width)
        if width - base not in (0, 3, 4):
            dropped[f"{width - base} extra values per vertex are ignored"] = None
            uv = [] if base in (3, 6) else [-2, -1]
            table = table[:, [*range(base - len(uv)), *uv]]
        return table, end

    def faces(
        self, start: int, dropped: dict[str, None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(C,) corners, (F,) corner counts, and (F, 3) colours in 0..1 if any face has one."""
        if self.face_count > len(self.values) - start:
            raise self._too_few_values_error("faces", self.face_count)
        if self.face_count == 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), None
        starts, ends = self._face_spans(start)
        counts = self.values[starts].astype(np.int64)
        before = np.cumsum(counts) - counts
        within = np.arange(int(counts.sum())) - np.repeat(before, counts)
        corners = self.values[np.repeat(starts + 1, counts) + within]
        if not (np.abs(corners) < 2.0**53).all() or (corners % 1 != 0).any():
            raise InputError("a face has a fractional vertex index.", _EXPORT_AGAIN)
        rest = ends - starts - 1 - counts  # values of each face after its corners
        if not np.isin(rest, (0, 3, 4)).all():
            dropped["face colours other than RGB or RGBA are ignored"] = None
        coloured = (rest == 3) | (rest == 4)
        if not coloured.any():
            return corners.astype(np.int64), counts, None
        channels = (starts + 1 + counts)[coloured][:, None] + np.arange(3)
        colours = np.ones((len(counts), 3))
        colours[coloured] = colours_to_unit_range(self.values[channels])
        return corners.astype(np.int64), counts, colours

    def _face_spans(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """(F,) index of the first number of each face, and of the one after its last."""
        line = int(np.searchsorted(self.line_ends, start))
        if self.line_ends[line] == start:  # else faces start on the last vertex line
            ends = self.line_ends[line + 1 : line + 1 + self.face_count]
            starts = np.concatenate([[start], ends[:-1]])
            if len(ends) == self.face_count:
                counts = self.values[starts]
                if ((counts >= 0) & (counts % 1 == 0) & (starts + 1 + counts <= ends)).all():
                    return starts, ends
        for line_based in (False, True):
            starts = self._scan_faces(start, line_based)
            if starts is not None and (line_based or starts[-1] == len(self.values)):
                return starts[:-1], starts[1:]
        raise self._too_few_values_error("faces", self.face_count)

    def _scan_faces(self, start: int, line_based: bool) -> np.ndarray | None:
        """(F + 1,) starts of faces that are not one per line; None if there are fewer.

        Args:
            start: index of the first number.
            line_based: a face ends at the end of a line, after an optional colour; otherwise with
                its last corner.
        """
        starts = np.zeros(self.face_count + 1, dtype=np.int64)
        starts[0] = start
        for face in range(self.face_count):
            if start >= len(self.values):
                return None
            count = float(self.values[start])
            if not 0 <= count < len(self.values) - start or count % 1 != 0:
                return None
            start += 1 + int(count)
            if line_based:
                start = int(self.line_ends[np.searchsorted(self.line_ends, start)])
            starts[face + 1] = start
        return starts

    def _too_few_values_error(self, label: str, count: int) -> InputError:
        return InputError(f"it declares {count} {label} but has fewer.", _EXPORT_AGAIN)
