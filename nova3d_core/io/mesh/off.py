"""Reads OFF with its variants for colours, normals and texture coordinates."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..files.containment import quoted
from ..files.text_lines import (
    clean_text,
    fraction_colours,
    parse_count,
    parse_leading_numbers,
    warn_of_losses,
    without_comments,
)
from .polygon_mesh import PolygonSoup
from .primitives import Part

logger = logging.getLogger(__name__)

_MAGIC = re.compile(rb"(ST)?(C)?(N)?(4)?OFF(?=\s|\d|\Z)([ \t]+BINARY)?", re.IGNORECASE)
"""ModelNet has many files without anything between the word and the first count."""
_CUT_OFF = "The file is cut off or damaged: copy or export it again."


def read_off(path: Path) -> list[Part]:
    """The faces of an OFF, COFF, NOFF or STOFF file (or any mixture) with their colours.

    Polygons are cut into triangles. Face colours, where vertices have none, split the vertices.
    What is not kept is named in one warning.

    Raises:
        InputError: it is binary or four-dimensional, or has not what its counts declare.
    """
    content = without_comments(clean_text(path.read_bytes())).lstrip()
    magic = _MAGIC.match(content[:100])
    if magic is None:
        raise InputError(f"{path} is no OFF file: it does not start with OFF.")
    has_uv, has_colours, has_normals, *refused = (group is not None for group in magic.groups())
    if any(refused) or b"nOFF" in magic[0]:  # nOFF: of any dimension; `noff` is taken as NOFF
        raise InputError(
            f"{path} is {quoted(magic[0].decode().strip())}, which is not supported.",
            "Save it as ordinary OFF or as PLY.",
        )
    numbers = _Numbers(content[magic.end() :])
    losses: dict[str, None] = {}
    base = 3 + 3 * has_normals + 2 * has_uv
    table, end = numbers.vertices(base, has_colours, losses)
    corners, counts, face_colours = numbers.faces(end, losses)
    first_colour = 6 if has_normals else 3
    last = table.shape[1] - 2 * has_uv
    colours = fraction_colours(table[:, first_colour:last]) if last > first_colour else None
    if face_colours is not None and colours is not None:
        losses["face colours are left out: the vertices have some"] = None
        face_colours = None
    if (counts < 3).any():
        losses["faces with fewer than three corners are left out"] = None
    mesh = PolygonSoup(
        table[:, :3],
        corners,
        counts,
        normals=table[:, 3:6] if has_normals else None,
        colours=colours,
        uv=table[:, -2:] if has_uv else None,
        face_colours=face_colours,
    ).mesh()
    warn_of_losses(logger, path, losses)
    return [] if mesh is None else [Part(mesh)]


class _Numbers:
    """The numbers of a file after its first word, and on which lines they are.

    Raises:
        InputError: counts are missing, or declare more than there is.
    """

    def __init__(self, content: bytes):
        head = content.split(maxsplit=2)[:2]
        if len(head) < 2:
            raise InputError("it has no counts of vertices and faces.", _CUT_OFF)
        self.vertex_count = parse_count(head[0], "the number of vertices")
        self.face_count = parse_count(head[1], "the number of faces")
        self.values = parse_leading_numbers(content)
        """(W,) float64, with the counts."""
        text = np.frombuffer(content, dtype=np.uint8)
        starts = text > ord(" ")
        starts[1:] &= text[:-1] <= ord(" ")
        lines = np.append(0, np.flatnonzero(text[:-1] == ord("\n")) + 1)
        per_line = np.add.reduceat(starts.view(np.uint8), lines, dtype=np.int64)
        ends = np.unique(np.minimum(np.cumsum(per_line), len(self.values)))
        self.line_ends = ends[ends > 0]
        """(L,) for each line that is not empty, the index of the first number after it."""

    def vertices(
        self, base: int, has_colours: bool, losses: dict[str, None]
    ) -> tuple[np.ndarray, int]:
        """(N, base + colours) numbers of the vertices, and the index of the first number after.

        Colours may be there without the letter C, and have three or four numbers.
        """
        count = self.vertex_count
        first = int(self.line_ends[0])
        start = first if first == 2 else 3  # the number of edges may be missing
        if base * count > len(self.values) - start:
            raise self._too_short("vertices", count)
        width = base + 4 * has_colours
        if first == start:
            widths = np.diff(self.line_ends[: count + 1])
            if len(widths) == count > 0 and widths.min() == widths.max() >= base:
                width = int(widths[0])
        end = start + width * count
        if end > len(self.values):
            raise self._too_short("vertices", count)
        table = self.values[start:end].reshape(count, width)
        if width - base not in (0, 3, 4):
            losses[f"{width - base} more numbers of each vertex are left out"] = None
            uv = [] if base in (3, 6) else [-2, -1]
            table = table[:, [*range(base - len(uv)), *uv]]
        return table, end

    def faces(
        self, start: int, losses: dict[str, None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(C,) corners and (F,) their counts, and (F, 3) colours in 0..1 if any face has one."""
        if self.face_count > len(self.values) - start:
            raise self._too_short("faces", self.face_count)
        if self.face_count == 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), None
        starts, ends = self._face_places(start)
        counts = self.values[starts].astype(np.int64)
        before = np.cumsum(counts) - counts
        within = np.arange(int(counts.sum())) - np.repeat(before, counts)
        corners = self.values[np.repeat(starts + 1, counts) + within]
        if not (np.abs(corners) < 2.0**53).all() or (corners % 1 != 0).any():
            raise InputError("a face refers to a vertex by a number that is not whole.", _CUT_OFF)
        rest = ends - starts - 1 - counts  # numbers of each face after its corners
        if not np.isin(rest, (0, 3, 4)).all():
            losses["colours of faces that are no RGB or RGBA are left out"] = None
        coloured = (rest == 3) | (rest == 4)
        if not coloured.any():
            return corners.astype(np.int64), counts, None
        places = (starts + 1 + counts)[coloured][:, None] + np.arange(3)
        colours = np.ones((len(counts), 3))
        colours[coloured] = fraction_colours(self.values[places])
        return corners.astype(np.int64), counts, colours

    def _face_places(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """(F,) the index of the first number of each face, and the one after its last."""
        line = int(np.searchsorted(self.line_ends, start))
        if self.line_ends[line] == start:  # else faces go on where the vertices end
            ends = self.line_ends[line + 1 : line + 1 + self.face_count]
            starts = np.concatenate([[start], ends[:-1]])
            if len(ends) == self.face_count:
                counts = self.values[starts]
                if ((counts >= 0) & (counts % 1 == 0) & (starts + 1 + counts <= ends)).all():
                    return starts, ends
        for by_lines in (False, True):
            places = self._walk_faces(start, by_lines)
            if places is not None and (by_lines or places[-1] == len(self.values)):
                return places[:-1], places[1:]
        raise self._too_short("faces", self.face_count)

    def _walk_faces(self, start: int, by_lines: bool) -> np.ndarray | None:
        """(F + 1,) where faces begin that do not have a line each; None if there are fewer.

        Args:
            start: index of the first number.
            by_lines: faces end with a line, perhaps with a colour; else with their last corner.
        """
        places = np.zeros(self.face_count + 1, dtype=np.int64)
        places[0] = start
        for face in range(self.face_count):
            if start >= len(self.values):
                return None
            count = float(self.values[start])
            if not 0 <= count < len(self.values) - start or count % 1 != 0:
                return None
            start += 1 + int(count)
            if by_lines:
                start = int(self.line_ends[np.searchsorted(self.line_ends, start)])
            places[face + 1] = start
        return places

    def _too_short(self, what: str, count: int) -> InputError:
        return InputError(f"it declares {count} {what}, but has fewer.", _CUT_OFF)
