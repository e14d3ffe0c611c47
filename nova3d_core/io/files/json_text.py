"""JSON from files that nobody vouches for: strict, bounded, and without Python's extensions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ...errors import InputError
from .containment import quote_value

MAX_INTEGER_DIGITS = 20
"""Enough for 64 bits; Python's own integers have no end."""
MAX_FILE_BYTES = 64_000_000
"""Larger files are not read as JSON."""


def parse_json(text: str | bytes, source: str) -> Any:
    """A JSON document as plain containers.

    Stricter than `json.loads`: NaN and Infinity, numbers beyond a double's range, integers of more
    than 20 digits, a name that occurs twice in one object, and nesting that Python cannot follow
    are errors.

    Args:
        text: the document; bytes are UTF-8, UTF-16 or UTF-32, as `json.loads` detects them.
        source: what it is, for errors: "settings.json".

    Raises:
        InputError: naming the source and what is wrong with it.
    """
    if isinstance(text, str):
        text = text.removeprefix("\ufeff")
    try:
        return json.loads(
            text,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except RecursionError as error:
        raise InputError(f"{source} is not valid JSON: it is nested too deeply.") from error
    except ValueError as error:  # also of encodings
        raise InputError(f"{source} is not valid JSON: {error}.") from error


def read_json(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """The JSON document in a file; see `parse_json`.

    Raises:
        InputError: the file is missing, unreadable, too large, or no valid JSON.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(text) > max_bytes:
        raise InputError(f"{path} has more than {max_bytes:,} bytes, too many for JSON.")
    return parse_json(text, str(path))


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise ValueError(f"the number {quote_value(digits[:40])} has {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {quote_value(digits[:40])} is too large")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {quote_value(twice)} occurs twice in one object")
    return made
