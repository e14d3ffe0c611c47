"""Parses lines of numbers in text formats with numpy, chunk by chunk, in linear time."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError
from .containment import quote_value

CHUNK_BYTES = 1 << 20
"""Bytes per chunk of lines: the temporary arrays of a chunk fit into the cache."""
LINE_CONTINUATION = b"\v"
"""Replaces an escaped line end, so that lines can still be counted."""

_NEWLINE = ord("\n")
_IS_BLANK = np.zeros(256, dtype=bool)
_IS_BLANK[list(b" \t\n\v\f\r")] = True


def clean_text(content: bytes) -> bytes:
    """Normalises a text file to ASCII-compatible bytes with LF line ends, no BOM, no NUL."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\0")
    if b"\0" in content:
        content = content.replace(b"\0", b" ")
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content


def strip_comments(content: bytes) -> bytes:
    """Removes comments: everything after a `#` on each line."""
    return re.sub(rb"#[^\n]*", b"", content) if b"#" in content else content


def parse_numbers(text: bytes, dtype: type = np.float64) -> np.ndarray:
    """(N,) numbers separated by white space.

    Raises:
        ValueError: the text contains anything else.
    """
    if not text or text.isspace():
        return np.zeros(0, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy < 2.3 only warns
        try:
            return np.fromstring(text, dtype=dtype, sep=" ")
        except DeprecationWarning as error:
            raise ValueError("not a number") from error


def parse_leading_numbers(text: bytes) -> np.ndarray:
    """(N,) float64 numbers up to the first word that is not a number."""
    try:
        return parse_numbers(text)
    except ValueError:
        numbers = []
        for word in text.split():
            try:
                numbers.append(float(word))
            except ValueError:
                break
        return np.array(numbers, dtype=np.float64)


def parse_count(word: str | bytes, label: str) -> int:
    """Parses a count in a header.

    Raises:
        InputError: it is not an integer of at most 18 digits.
    """
    text = word.decode("utf-8", "replace") if isinstance(word, bytes) else word
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InputError(f"{label} is {quote_value(text[:80])}, expected an integer of 0 or more.")
    return int(text)


def colours_to_unit_range(colours: np.ndarray) -> np.ndarray:
    """Normalises colours (N, C) of a text or PLY file to float in 0..1.

    8-bit integers, and floats if any exceeds 1, are divided by 255; wider integers by 65535 or the
    maximum of their type only if any exceeds 255.
    """
    if colours.dtype == np.int8:
        colours = colours.view(np.uint8)
    largest = colours.max(initial=0)
    if colours.dtype.kind not in "iu":
        return colours / 255.0 if largest > 1.0 else colours
    if largest <= 255:
        return colours / 255.0
    return colours / (65535.0 if largest <= 65535 else np.iinfo(colours.dtype).max)


def warn_dropped(logger: logging.Logger, path: Any, dropped: dict[str, None]) -> None:
    """Logs one warning that lists what of a file was dropped."""
    if dropped:
        items = list(dropped)
        more = f"; and {len(items) - 20} more" if len(items) > 20 else ""
        logger.warning("%s: %s%s", path, "; ".join(items[:20]), more)


def iter_line_chunks(content: bytes, size: int = CHUNK_BYTES) -> Iterator[Lines]:
    """Splits a text into consecutive chunks of lines of about `size` bytes."""
    start, number = 0, 1
    while start < len(content):
        end = content.find(b"\n", start + size) + 1 or len(content)
        lines = Lines(content[start:end], number)
        yield lines
        start, number = end, number + len(lines) + lines.text.count(LINE_CONTINUATION)


class Lines:
    """Consecutive lines of a text, with the offset of the first word of each."""

    def __init__(self, text: bytes, first_number: int = 1):
        if not text.endswith(b"\n"):
            text += b"\n"
        self.text = text
        self.first_number = first_number
        """1-based number of the first line."""
        self.bytes = np.frombuffer(text + b"\n" * 16, dtype=np.uint8)  # padded for `starts_with`
        """(B + 16,) uint8."""
        self.ends = np.flatnonzero(self.bytes[: len(text)] == _NEWLINE)
        """(L,) offsets of the line ends."""
        self.starts = np.concatenate([[0], self.ends[:-1] + 1])
        """(L,) offsets of the line starts."""
        blank = _IS_BLANK[self.bytes[: len(text)]]
        words = np.flatnonzero(~blank & np.concatenate([[True], blank[:-1]]))
        heads = np.append(words, len(text))[np.searchsorted(words, self.starts)]
        self.heads = np.minimum(heads, self.ends)
        """(L,) offsets of the first words; the line's end for blank lines."""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def is_empty(self) -> np.ndarray:
        """(L,) whether a line is blank."""
        return self.heads == self.ends

    def starts_with(self, word: bytes, whole: bool = True) -> np.ndarray:
        """(L,) whether a line's first word equals `word`, or starts with it if not `whole`.

        Case-insensitive; `word` is lower-case and has at most 15 bytes.
        """
        found = ~self.is_empty
        for offset, letter in enumerate(word):
            char = self.bytes[self.heads + offset]
            same = char == letter
            found &= (same | (char == letter - 32)) if 97 <= letter <= 122 else same
        return found & _IS_BLANK[self.bytes[self.heads + len(word)]] if whole else found

    def line(self, index: int) -> str:
        """A line, stripped."""
        content = self.text[self.heads[index] : self.ends[index]]
        return content.decode("utf-8", "replace").strip()

    def name(self, index: int) -> str:
        """Describes a line in errors."""
        number = int(self.line_numbers(np.array([index]))[0])
        return f"line {number} ({quote_value(self.line(index)[:80])})"

    def line_numbers(self, indices: np.ndarray) -> np.ndarray:
        """1-based line numbers in the file, for indices of any shape."""
        joined = np.flatnonzero(self.bytes == LINE_CONTINUATION[0])
        return self.first_number + indices + np.searchsorted(joined, self.starts[indices])

    def select(self, mask: np.ndarray, skip: int) -> tuple[bytes, np.ndarray]:
        """The text of selected lines, without the first `skip` bytes of each and without comments.

        Returns:
            The text, and (number of lines,) the number of words per line.
        """
        # +1 at the start and -1 after the end of a line: the cumulative sum marks selected bytes
        steps = np.zeros(len(self.text) + 1, dtype=np.int8)
        steps[self.heads[mask] + skip] = 1
        steps[self.ends[mask] + 1] -= 1
        text = self.bytes[: len(self.text)][np.cumsum(steps[:-1], dtype=np.int8).view(bool)]
        content = strip_comments(text.tobytes())
        text = np.frombuffer(content, dtype=np.uint8)
        blank = _IS_BLANK[text]
        starts = ~blank
        starts[1:] &= blank[:-1]
        ends = np.flatnonzero(text == _NEWLINE)
        counts = np.diff(np.cumsum(starts, dtype=np.int32)[ends], prepend=0)
        return content, counts

    def numbers(self, mask: np.ndarray, skip: int) -> tuple[np.ndarray, np.ndarray]:
        """Parses the numbers of selected lines, after the first `skip` bytes of each.

        Returns:
            (N,) float64 numbers, and (number of lines,) the number of values per line.

        Raises:
            InputError: a line has anything else; the message names the first such line.
        """
        text, counts = self.select(mask, skip)
        try:
            values = parse_numbers(text)
        except ValueError:
            values = None
        if values is None or len(values) != counts.sum():
            raise self._not_a_number_error(text, np.flatnonzero(mask))
        return values, counts

    def _not_a_number_error(self, text: bytes, lines: np.ndarray) -> InputError:
        for index, line in zip(lines.tolist(), text.split(b"\n"), strict=False):
            try:
                parse_numbers(line)
            except ValueError:
                return InputError(f"{self.name(index)} has values that are not numbers.")
        return InputError("a line has values that are not numbers.")
