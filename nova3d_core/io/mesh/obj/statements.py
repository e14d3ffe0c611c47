"""Parses the statements of Wavefront OBJ: vertices, faces, material assignments."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....errors import InputError
from ...files.containment import quote_value
from ...files.text_lines import LINE_CONTINUATION, Lines, colours_to_unit_range, parse_numbers

_IGNORED_STATEMENTS = {
    "o",
    "g",
    "s",
    "mg",
    "lod",
    "bevel",
    "c_interp",
    "d_interp",
    "usemap",
    "maplib",
}
_IGNORED_STATEMENTS |= {"shadow_obj", "trace_obj"}
"""Statements that affect neither geometry nor colour."""
_FREE_FORM = {"vp", "deg", "bmat", "step", "cstype", "curv", "curv2", "surf", "parm", "trim"}
_FREE_FORM |= {"hole", "scrv", "sp", "end", "con", "bsp", "bzp", "cdc", "cdp", "res"}
_UNSUPPORTED_STATEMENTS = {
    "l": "lines",
    "p": "points",
    "call": "included files (call)",
    "csh": "shell commands (csh)",
    **dict.fromkeys(_FREE_FORM, "free-form curves and surfaces"),
}
_EXPORT_AGAIN = "The file is truncated or damaged: copy or export it again."
MAX_DROPPED = 100
"""Limit of the kinds of unknown statements listed in the warning."""


def join_continued_lines(content: bytes) -> bytes:
    """Joins lines that end in a backslash to the next one, except for comments."""
    if b"\\\n" not in content:
        return content
    text = np.frombuffer(content, dtype=np.uint8).copy()
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    joined = ends[(text[np.maximum(ends - 1, 0)] == ord("\\")) & (text[starts] != ord("#"))]
    text[joined - 1] = ord(" ")
    text[joined] = ord(LINE_CONTINUATION)
    return text.tobytes()


@dataclass(frozen=True, eq=False)
class ObjGeometry:
    """The arrays of an OBJ file."""

    vertices: np.ndarray
    """(N, 3) float64."""
    colours: np.ndarray | None
    """(N, 3) sRGB in 0..1."""
    uv: np.ndarray
    """(N uv, 2) float64, origin bottom left."""
    normals: np.ndarray
    """(N normals, 3) float64."""
    corners: np.ndarray
    """(C, 3) int64 1-based indices of vertex, uv, normal; 0 where a corner has none."""
    counts: np.ndarray
    """(F,) corners of each face."""


@dataclass(eq=False)
class ObjStatements:
    """Collects the statements of an OBJ file, chunk by chunk."""

    dropped: dict[str, None] = field(default_factory=dict)
    """What is not supported, for the warning."""
    libraries: list[str] = field(default_factory=list)
    """The arguments of each `mtllib` line."""
    uses: list[tuple[int, str]] = field(default_factory=list)
    """For each `usemtl`, the number of faces before it and the material's name."""
    totals: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=np.int64))
    """Number of vertices, texture coordinates and normals so far."""
    face_count: int = 0
    last_line: int = 0
    """The number of the last non-blank line."""
    rows: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {name: [] for name in ("v", "colour", "vt", "vn")}
    )
    """(chunk rows, 3 or 2) float64 each; colours are NaN where a vertex has none."""
    weighted: bool | None = None
    """Whether vertices of seven values are `x y z w r g b`; None before the first one."""
    zbrush_colours: list[str] = field(default_factory=list)
    """Arguments of `#MRGB`, ZBrush's vertex colours: eight hexadecimal digits per vertex."""
    corners: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    face_lines: list[np.ndarray] = field(default_factory=list)

    def add(self, lines: Lines) -> None:
        """Adds the statements of consecutive lines.

        Raises:
            InputError: a line is damaged, or a face index is 0 or before the first element.
        """
        masks = [lines.starts_with(word) for word in (b"v", b"vt", b"vn")]
        faces = lines.starts_with(b"f")
        if masks[0].any():
            self._add_vertices(lines, masks[0])
        for name, mask, width in (("vt", masks[1], 2), ("vn", masks[2], 3)):
            if mask.any():
                min_count = 1 if name == "vt" else 3  # `vt u` alone is allowed
                numbers = lines.numbers(mask, 2)
                self.rows[name].append(_columns(lines, mask, numbers, width, min_count))
        before = np.cumsum(np.stack(masks, axis=1), axis=0) + self.totals  # (L, 3)
        if faces.any():
            self._add_faces(lines, faces, before)
        rest = ~(masks[0] | masks[1] | masks[2] | faces | lines.is_empty)
        for index in np.flatnonzero(lines.starts_with(b"#mrgb")).tolist():
            self.zbrush_colours.append(lines.line(index).split(maxsplit=1)[-1])
        rest &= ~lines.starts_with(b"#", whole=False)
        for word in (b"o", b"g", b"s"):
            rest &= ~lines.starts_with(word)
        faces_before = np.cumsum(faces) + self.face_count
        for index in np.flatnonzero(rest).tolist():
            self._add_other(lines.line(index), int(faces_before[index]))
        if not lines.is_empty.all():
            self.last_line = int(lines.line_numbers(np.flatnonzero(~lines.is_empty)[-1:])[0])
        self.totals = before[-1]
        self.face_count = int(faces_before[-1])

    def _add_vertices(self, lines: Lines, mask: np.ndarray) -> None:
        """Adds `v x y z`, optionally followed by w, r g b, w r g b, or r g b a."""
        values, counts = lines.numbers(mask, 1)
        self.rows["v"].append(_columns(lines, mask, (values, counts), 3, 3))
        colours = np.full((len(counts), 3), np.nan)
        last = np.cumsum(counts)
        coloured = counts >= 6
        if coloured.any():
            colours[coloured] = values[last[coloured][:, None] + np.array([-3, -2, -1])]
        seven = last[counts == 7]
        if len(seven) and not self._has_weights(values[seven - 4], values[seven - 1]):
            colours[counts == 7] = values[seven[:, None] + np.array([-4, -3, -2])]
        self.rows["colour"].append(colours)

    def _has_weights(self, fourth: np.ndarray, seventh: np.ndarray) -> bool:
        """Whether vertices of seven values end in `w r g b` rather than `r g b a`.

        Decided by the first chunk: weights are always 1, and so are most alphas.
        """
        if self.weighted is None:
            opaque = bool((seventh == seventh[0]).all()) and seventh[0] in (1.0, 255.0)
            self.weighted = bool((fourth == 1.0).all()) and not opaque
        return self.weighted

    def _add_faces(self, lines: Lines, mask: np.ndarray, before: np.ndarray) -> None:
        corners, counts = _face_corners(lines, mask)
        line_of = np.repeat(np.flatnonzero(mask), counts)
        backward = corners < 0  # negative indices count back from the current line
        if backward.any():
            corners = np.where(backward, corners + before[line_of] + 1, corners)
            invalid = (backward & (corners < 1)).any(axis=1)
            if invalid.any():
                raise InputError(
                    f"{lines.name(line_of[invalid][0])} has an index before the first element."
                )
        self.corners.append(corners)
        self.counts.append(counts)
        self.face_lines.append(lines.line_numbers(np.flatnonzero(mask)))

    def _add_other(self, line: str, faces_before: int) -> None:
        keyword, *rest = line.split(maxsplit=1) or [""]
        keyword = keyword.lower()
        argument = rest[0] if rest else ""
        if keyword == "usemtl":
            self.uses.append((faces_before, " ".join(argument.split())))
        elif keyword == "mtllib":
            if argument:
                self.libraries.append(argument)
        elif keyword in _UNSUPPORTED_STATEMENTS:
            self.dropped[f"{_UNSUPPORTED_STATEMENTS[keyword]} are ignored"] = None
        elif keyword not in _IGNORED_STATEMENTS and len(self.dropped) < MAX_DROPPED:
            self.dropped[f"lines that start with {quote_value(keyword[:20])} are ignored"] = None

    def geometry(self) -> ObjGeometry:
        """The arrays; references to missing texture coordinates or normals become 0.

        Raises:
            InputError: a face refers to a missing vertex; the message names its line.
        """
        vertices = _concatenate(self.rows["v"], 3)
        corners = _concatenate(self.corners, 3, np.int64)
        counts = np.concatenate([np.zeros(0, dtype=np.int64), *self.counts])
        beyond = corners > self.totals
        absent = beyond[:, 0] | (corners[:, 0] == 0)
        if absent.any():
            face_of = np.repeat(np.arange(len(counts)), counts)
            line = int(np.concatenate(self.face_lines)[face_of[absent][0]])
            raise InputError(
                f"line {line}: a face refers to vertex {int(corners[absent][0, 0])}, but there are "
                f"{len(vertices)} vertices.",
                _EXPORT_AGAIN,
            )
        for column, name in ((1, "texture coordinates"), (2, "normals")):
            if beyond[:, column].any():
                self.dropped[f"some faces refer to missing {name}"] = None
                corners[beyond[:, column], column] = 0
        if (counts < 3).any():
            if counts[-1] < 3 and self.face_lines[-1][-1] == self.last_line:
                raise InputError(
                    f"line {self.last_line}: a face ends after {counts[-1]} corners.", _EXPORT_AGAIN
                )
            self.dropped["faces with fewer than three corners are ignored"] = None
        return ObjGeometry(
            vertices,
            self._colours(len(vertices)),
            _concatenate(self.rows["vt"], 2),
            _concatenate(self.rows["vn"], 3),
            corners,
            counts,
        )

    def _colours(self, vertex_count: int) -> np.ndarray | None:
        """(N, 3) sRGB vertex colours in 0..1; None if no vertex has one."""
        colours = _concatenate(self.rows["colour"], 3)
        has_colour = ~np.isnan(colours).all(axis=1)
        if has_colour.any():
            unit_range = colours_to_unit_range(colours[has_colour])
            colours = np.ones_like(colours)
            colours[has_colour] = unit_range
            return colours
        if not self.zbrush_colours:
            return None
        try:
            table = np.frombuffer(bytes.fromhex("".join(self.zbrush_colours)), dtype=np.uint8)
        except ValueError:
            table = np.zeros(0, dtype=np.uint8)
        if len(table) != 4 * vertex_count:
            self.dropped["vertex colours (#MRGB) that do not match the vertices are ignored"] = None
            return None
        return table.reshape(-1, 4)[:, 1:] / 255.0


def _concatenate(arrays: list[np.ndarray], width: int, dtype: type = np.float64) -> np.ndarray:
    return np.concatenate([np.zeros((0, width), dtype=dtype), *arrays])


def _columns(
    lines: Lines,
    mask: np.ndarray,
    numbers: tuple[np.ndarray, np.ndarray],
    width: int,
    min_count: int,
) -> np.ndarray:
    """(lines, width) first values of each line, padded with zeros.

    Raises:
        InputError: a line has fewer than `min_count` values.
    """
    values, counts = numbers
    if counts.min() < min_count:
        short = np.flatnonzero(mask)[counts.argmin()]
        raise InputError(f"{lines.name(short)} has fewer than {min_count} numbers.")
    if counts.min() == counts.max():
        table = values.reshape(len(counts), -1)[:, :width]
        if table.shape[1] == width:
            return table
    starts = np.cumsum(counts) - counts
    table = np.zeros((len(counts), width))
    for column in range(width):
        present = counts > column
        table[present, column] = values[starts[present] + column]
    return table


def _face_corners(lines: Lines, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parses face lines with any mixture of `v`, `v/vt`, `v//vn` and `v/vt/vn`.

    Returns:
        (C, 3) int64 indices as in the file, 0 where absent; and (lines,) number of corners.

    Raises:
        InputError: a line is not of this form, or has the index 0.
    """
    content, counts = lines.select(mask, 1)
    text = np.frombuffer(content, dtype=np.uint8)
    slash = text == ord("/")
    blank = text <= ord(" ")
    is_word = ~blank
    is_word[1:] &= blank[:-1]
    is_number = ~(blank | slash)
    is_number[1:] &= (blank | slash)[:-1]
    starts = np.flatnonzero(is_number)
    words = np.flatnonzero(is_word)
    word_of = np.cumsum(is_word, dtype=np.int32)[starts] - 1
    slashes = np.cumsum(slash, dtype=np.int32)
    slot = slashes[starts] - (slashes - slash)[words][word_of]
    line_of = np.repeat(np.flatnonzero(mask), counts)
    try:
        values = parse_numbers(content.replace(b"/", b" "), np.int64)
    except ValueError:
        values = None
    problem = "has corners that are not of the form 1, 1/2, 1//3 or 1/2/3."
    if values is None or len(values) != len(starts):
        raise InputError(f"{_first_invalid(lines, mask, content)} {problem}")
    if (slot > 2).any():
        raise InputError(f"{lines.name(line_of[word_of[slot > 2][0]])} {problem}")
    if (values == 0).any():
        line = line_of[word_of[values == 0][0]]
        raise InputError(f"{lines.name(line)} has the index 0; OBJ counts from 1.")
    corners = np.zeros((len(words), 3), dtype=np.int64)
    corners[word_of, slot] = values
    if (corners[:, 0] == 0).any():
        raise InputError(f"{lines.name(line_of[corners[:, 0] == 0][0])} {problem}")
    return corners, counts


def _first_invalid(lines: Lines, mask: np.ndarray, content: bytes) -> str:
    """Describes the first face line that numpy cannot parse."""
    for index, line in zip(np.flatnonzero(mask).tolist(), content.split(b"\n"), strict=False):
        try:
            parse_numbers(line.replace(b"/", b" "), np.int64)
        except ValueError:
            return lines.name(index)
    return "a face line"
