"""Parses JSON from untrusted files: strict, bounded, without Python's extensions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ...errors import InputError
from .containment import quote_value

MAX_INTEGER_DIGITS = 20
"""Enough for 64 bits; Python's integers are unbounded."""
MAX_FILE_BYTES = 64_000_000
"""Default size limit of a JSON file."""


def parse_json(text: str | bytes, source: str, strict: bool = True, hint: str = "") -> Any:
    """Parses a JSON document into plain containers.

    Stricter than `json.loads`: NaN and Infinity, numbers beyond a double's range, integers of more
    than 20 digits, duplicate names in one object, and nesting beyond Python's limit are errors.

    Args:
        text: the document; bytes are UTF-8, UTF-16 or UTF-32, as `json.loads` detects them.
        source: names the document in errors, for example "settings.json".
        strict: False accepts what `json.loads` accepts, except for deep nesting.
        hint: what to do about invalid JSON, for errors.

    Raises:
        InputError: the document is not valid JSON; the message names source, problem and line.
    """
    if isinstance(text, str):
        text = text.removeprefix("\ufeff")
    try:
        return json.loads(text, **(_STRICT if strict else {}))
    except RecursionError as error:
        raise InputError(f"{source} is not valid JSON: it is nested too deeply.", hint) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}.",
            hint,
        ) from error
    except ValueError as error:  # wrong encodings, and the hooks of strict parsing
        raise InputError(f"{source} is not valid JSON: {error}.", hint) from error


def read_json(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """Reads a JSON file; see `parse_json`.

    Raises:
        InputError: the file is missing, unreadable, too large, or not valid JSON.
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
    raise ValueError(f"it contains {name}, which is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        duplicate = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {quote_value(duplicate)} occurs twice in one object")
    return result


_STRICT = {
    "parse_int": _integer,
    "parse_float": _number,
    "parse_constant": _constant,
    "object_pairs_hook": _object,
}
"""Hooks of `json.loads` that reject what JSON does not allow."""
