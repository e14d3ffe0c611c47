"""The statements of Wavefront OBJ: vertices, faces, and which material is used where."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....errors import InputError
from ...files.containment import quoted
from ...files.text_lines import JOINED_LINE, Lines, fraction_colours, parse_numbers

_SILENT = {"o", "g", "s", "mg", "lod", "bevel", "c_interp", "d_interp", "usemap", "maplib"}
_SILENT |= {"shadow_obj", "trace_obj"}
"""Statements that bear on no geometry or colour."""
_FREE_FORM = {"vp", "deg", "bmat", "step", "cstype", "curv", "curv2", "surf", "parm", "trim"}
_FREE_FORM |= {"hole", "scrv", "sp", "end", "con", "bsp", "bzp", "cdc", "cdp", "res"}
_LOST = {
    "l": "lines",
    "p": "points",
    "call": "other files that it calls",
    "csh": "commands that it runs",
    **dict.fromkeys(_FREE_FORM, "free-form curves and surfaces"),
}
_CUT_OFF = "The file is cut off or damaged: copy or export it again."
MAX_LOSSES = 100
"""Most kinds of unknown lines that are collected for the warning."""


def join_lines(content: bytes) -> bytes:
    """The text with lines that end in a backslash joined to the next, comments excepted."""
    if b"\\\n" not in content:
        return content
    text = np.frombuffer(content, dtype=np.uint8).copy()
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    joined = ends[(text[np.maximum(ends - 1, 0)] == ord("\\")) & (text[starts] != ord("#"))]
    text[joined - 1] = ord(" ")
    text[joined] = ord(JOINED_LINE)
    return text.tobytes()


@dataclass(frozen=True, eq=False)
class Geometry:
    """All numbers of an OBJ file."""

    vertices: np.ndarray
    """(N, 3) float64."""
    colours: np.ndarray | None
    """(N, 3) sRGB in 0..1."""
    uv: np.ndarray
    """(N uv, 2) float64, origin bottom left."""
    normals: np.ndarray
    """(N normals, 3) float64."""
    corners: np.ndarray
    """(C, 3) int64 indices of vertex, uv, normal, from 1 on; 0 where a corner has none."""
    counts: np.ndarray
    """(F,) corners of each face."""


@dataclass(eq=False)
class Statements:
    """The statements of an OBJ file, collected chunk by chunk."""

    losses: dict[str, None] = field(default_factory=dict)
    """What is not kept."""
    libraries: list[str] = field(default_factory=list)
    """What follows `mtllib`, line by line."""
    uses: list[tuple[int, str]] = field(default_factory=list)
    """Each `usemtl`: the number of faces before it, and the material's name."""
    totals: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=np.int64))
    """Vertices, texture coordinates and normals up to here."""
    face_count: int = 0
    last_line: int = 0
    """The number of the last line that is not empty."""
    rows: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {name: [] for name in ("v", "colour", "vt", "vn")}
    )
    """(chunk rows, 3 or 2) float64 each; colours are NaN where a vertex has none."""
    weighted: bool | None = None
    """Whether vertices with seven numbers are `x y z w r g b`; None until there are some."""
    polypaint: list[str] = field(default_factory=list)
    """What follows `#MRGB`, ZBrush's vertex colours: eight hexadecimal digits a vertex."""
    corners: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    face_lines: list[np.ndarray] = field(default_factory=list)

    def add(self, lines: Lines) -> None:
        """Collects the statements of some lines.

        Raises:
            InputError: a line is damaged, or a face has the index 0 or one before the first.
        """
        masks = [lines.starts_with(word) for word in (b"v", b"vt", b"vn")]
        faces = lines.starts_with(b"f")
        if masks[0].any():
            self._add_vertices(lines, masks[0])
        for name, mask, width in (("vt", masks[1], 2), ("vn", masks[2], 3)):
            if mask.any():
                least = 1 if name == "vt" else 3  # `vt u` alone is allowed
                numbers = lines.numbers(mask, 2)
                self.rows[name].append(_columns(lines, mask, numbers, width, least))
        before = np.cumsum(np.stack(masks, axis=1), axis=0) + self.totals  # (L, 3)
        if faces.any():
            self._add_faces(lines, faces, before)
        rest = ~(masks[0] | masks[1] | masks[2] | faces | lines.is_empty)
        for index in np.flatnonzero(lines.starts_with(b"#mrgb")).tolist():
            self.polypaint.append(lines.line(index).split(maxsplit=1)[-1])
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
        """`v x y z`, also with w, with r g b, with w r g b, or with r g b a."""
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
        """Whether vertices with seven numbers have `w r g b`; else `r g b a`.

        The first ones of a file decide: weights are 1 throughout, and so are most alphas.
        """
        if self.weighted is None:
            opaque = bool((seventh == seventh[0]).all()) and seventh[0] in (1.0, 255.0)
            self.weighted = bool((fourth == 1.0).all()) and not opaque
        return self.weighted

    def _add_faces(self, lines: Lines, mask: np.ndarray, before: np.ndarray) -> None:
        corners, counts = _face_corners(lines, mask)
        line_of = np.repeat(np.flatnonzero(mask), counts)
        backward = corners < 0  # counts back from the line that it stands on
        if backward.any():
            corners = np.where(backward, corners + before[line_of] + 1, corners)
            wrong = (backward & (corners < 1)).any(axis=1)
            if wrong.any():
                raise InputError(f"{lines.name(line_of[wrong][0])} refers to before the first one.")
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
        elif keyword in _LOST:
            self.losses[f"{_LOST[keyword]} are left out"] = None
        elif keyword not in _SILENT and len(self.losses) < MAX_LOSSES:
            self.losses[f"lines that start with {quoted(keyword[:20])} are left out"] = None

    def geometry(self) -> Geometry:
        """All numbers; corners that refer to uv or normals that are not there have none.

        Raises:
            InputError: a face refers to a vertex that is not there; its line is named.
        """
        vertices = _stacked(self.rows["v"], 3)
        corners = _stacked(self.corners, 3, np.int64)
        counts = np.concatenate([np.zeros(0, dtype=np.int64), *self.counts])
        beyond = corners > self.totals
        absent = beyond[:, 0] | (corners[:, 0] == 0)
        if absent.any():
            face_of = np.repeat(np.arange(len(counts)), counts)
            line = int(np.concatenate(self.face_lines)[face_of[absent][0]])
            raise InputError(
                f"line {line}: a face refers to vertex {int(corners[absent][0, 0])}, but there are "
                f"{len(vertices)} vertices.",
                _CUT_OFF,
            )
        for column, name in ((1, "texture coordinates"), (2, "normals")):
            if beyond[:, column].any():
                self.losses[f"some faces refer to {name} that are not there"] = None
                corners[beyond[:, column], column] = 0
        if (counts < 3).any():
            if counts[-1] < 3 and self.face_lines[-1][-1] == self.last_line:
                raise InputError(
                    f"line {self.last_line}: a face ends after {counts[-1]} corners.", _CUT_OFF
                )
            self.losses["faces with fewer than three corners are left out"] = None
        return Geometry(
            vertices,
            self._colours(len(vertices)),
            _stacked(self.rows["vt"], 2),
            _stacked(self.rows["vn"], 3),
            corners,
            counts,
        )

    def _colours(self, vertex_count: int) -> np.ndarray | None:
        """(N, 3) sRGB in 0..1 of the vertices, if any has a colour."""
        colours = _stacked(self.rows["colour"], 3)
        given = ~np.isnan(colours).all(axis=1)
        if given.any():
            known = fraction_colours(colours[given])
            colours = np.ones_like(colours)
            colours[given] = known
            return colours
        if not self.polypaint:
            return None
        try:
            table = np.frombuffer(bytes.fromhex("".join(self.polypaint)), dtype=np.uint8)
        except ValueError:
            table = np.zeros(0, dtype=np.uint8)
        if len(table) != 4 * vertex_count:
            self.losses["vertex colours (#MRGB) that do not fit the vertices are left out"] = None
            return None
        return table.reshape(-1, 4)[:, 1:] / 255.0


def _stacked(arrays: list[np.ndarray], width: int, dtype: type = np.float64) -> np.ndarray:
    return np.concatenate([np.zeros((0, width), dtype=dtype), *arrays])


def _columns(
    lines: Lines, mask: np.ndarray, numbers: tuple[np.ndarray, np.ndarray], width: int, least: int
) -> np.ndarray:
    """(lines, width) first numbers of each line; zeros where there are fewer.

    Raises:
        InputError: a line has fewer than `least` numbers.
    """
    values, counts = numbers
    if counts.min() < least:
        short = np.flatnonzero(mask)[counts.argmin()]
        raise InputError(f"{lines.name(short)} has fewer than {least} numbers.")
    if counts.min() == counts.max():
        table = values.reshape(len(counts), -1)[:, :width]
        if table.shape[1] == width:
            return table
    starts = np.cumsum(counts) - counts
    table = np.zeros((len(counts), width))
    for column in range(width):
        there = counts > column
        table[there, column] = values[starts[there] + column]
    return table


def _face_corners(lines: Lines, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners on face lines, in any mixture of `v`, `v/vt`, `v//vn` and `v/vt/vn`.

    Returns:
        (C, 3) int64 as the file gives them, 0 where there is nothing; and (lines,) corners of each.

    Raises:
        InputError: a line has something else, or the index 0.
    """
    content, counts = lines.select(mask, 1)
    text = np.frombuffer(content, dtype=np.uint8)
    slash = text == ord("/")
    blank = text <= ord(" ")
    is_word = ~blank
    is_word[1:] &= blank[:-1]
    is_number = ~(blank | slash)
    is_number[1:] &= (blank | slash)[:-1]
    places = np.flatnonzero(is_number)
    words = np.flatnonzero(is_word)
    word_of = np.cumsum(is_word, dtype=np.int32)[places] - 1
    slashes = np.cumsum(slash, dtype=np.int32)
    slot = slashes[places] - (slashes - slash)[words][word_of]
    line_of = np.repeat(np.flatnonzero(mask), counts)
    try:
        values = parse_numbers(content.replace(b"/", b" "), np.int64)
    except ValueError:
        values = None
    wrong = "has something else than corners such as 1, 1/2, 1//3 or 1/2/3."
    if values is None or len(values) != len(places):
        raise InputError(f"{_first_wrong(lines, mask, content)} {wrong}")
    if (slot > 2).any():
        raise InputError(f"{lines.name(line_of[word_of[slot > 2][0]])} {wrong}")
    if (values == 0).any():
        line = line_of[word_of[values == 0][0]]
        raise InputError(f"{lines.name(line)} has the index 0; OBJ counts from 1.")
    corners = np.zeros((len(words), 3), dtype=np.int64)
    corners[word_of, slot] = values
    if (corners[:, 0] == 0).any():
        raise InputError(f"{lines.name(line_of[corners[:, 0] == 0][0])} {wrong}")
    return corners, counts


def _first_wrong(lines: Lines, mask: np.ndarray, content: bytes) -> str:
    """The first face line that numpy cannot parse."""
    for index, line in zip(np.flatnonzero(mask).tolist(), content.split(b"\n"), strict=False):
        try:
            parse_numbers(line.replace(b"/", b" "), np.int64)
        except ValueError:
            return lines.name(index)
    return "a face line"
