"""Typed, bounds-checked access to the fields of untrusted JSON objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...errors import InputError
from .containment import quote_value
from .json_text import parse_json

MAX_INTEGER = 2**53
"""Largest integer that every JSON parser represents exactly."""
MAX_JSON_VALUES = 1_000_000
"""Limit of the values in one JSON text: Python objects take up to 50 times its size."""

_MAX_VALUE_CHARS = 100
_EXPORT_AGAIN = "Export it again: it is damaged or truncated."


def parse_json_object(text: bytes | memoryview, label: str) -> JsonObject:
    """Parses a JSON object in UTF-8; a byte order mark and NUL padding are allowed.

    Raises:
        InputError: it is not JSON, not an object, nested too deeply, or has too many values.
    """
    try:
        decoded = str(text, "utf-8-sig").rstrip("\0 \t\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{label} is not valid JSON: {error}.", _EXPORT_AGAIN) from error
    if sum(decoded.count(mark) for mark in ",[{") > MAX_JSON_VALUES:
        raise InputError(
            f"{label} has more than {MAX_JSON_VALUES} values.",
            "Remove everything but the geometry, and export it again.",
        )
    return JsonObject(parse_json(decoded, label, strict=False, hint=_EXPORT_AGAIN), label)


def describe_value(value: Any) -> str:
    """Describes a value in error messages: long strings shortened, containers by their type."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a JSON object"
    text = quote_value(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[: _MAX_VALUE_CHARS - 3]}..."


class JsonObject:
    """A JSON object whose fields are checked as they are read.

    Args:
        values: the parsed JSON value, which must be an object.
        where: names the object in errors, for example "accessor 3".

    Raises:
        InputError: from each method, naming the field, its value and the expected type.
    """

    __slots__ = ("_values", "where")

    def __init__(self, values: Any, where: str):
        if not isinstance(values, dict):
            raise InputError(f"{where} is {describe_value(values)}, expected a JSON object.")
        self._values: dict[str, Any] = values
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    @property
    def names(self) -> list[str]:
        """The names of all fields."""
        return list(self._values)

    def value(self, key: str, default: Any, expected: str) -> Any:
        """A field of any type; if it is missing and `default` is None, that is an error."""
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise InputError(f"{self.where} has no {key}, expected {expected}.")
        return value

    def _field_error(self, key: str, value: Any, expected: str) -> InputError:
        return InputError(f"{self.where}: {key} is {describe_value(value)}, expected {expected}.")

    def integer(
        self, key: str, default: int | None = None, low: int = 0, high: int = MAX_INTEGER
    ) -> int:
        """An integer in low..high; floats without a fraction are accepted."""
        expected = f"an integer from {low} to {high}" if high < MAX_INTEGER else "an integer"
        if low == 0 and high == MAX_INTEGER:
            expected += " of 0 or more"
        value = self.value(key, default, expected)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._field_error(key, value, expected)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.value(key, default, "a number")
        if not _is_finite_number(value):
            raise self._field_error(key, value, "a finite number")
        return float(value)

    def numbers(
        self, key: str, count: int | None, default: Sequence[float] | None = None
    ) -> list[float]:
        """A list of finite numbers, of length `count` or of any length."""
        expected = "a list of finite numbers" if count is None else f"{count} finite numbers"
        value = self.value(key, default, expected)
        if (
            not isinstance(value, list | tuple)
            or (count is not None and len(value) != count)
            or not all(_is_finite_number(each) for each in value)
        ):
            raise self._field_error(key, value, expected)
        return [float(each) for each in value]

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self.value(key, default, "a string")
        if not isinstance(value, str):
            raise self._field_error(key, value, "a string")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.value(key, default, "true or false")
        if not isinstance(value, bool):
            raise self._field_error(key, value, "true or false")
        return value

    def object(self, key: str) -> JsonObject:
        """A nested object; an empty one if the field is missing."""
        return JsonObject(self.value(key, {}, "an object"), f"{self.where}: {key}")

    def objects(self, key: str, name: str | None = None) -> list[JsonObject]:
        """A list of objects, empty if missing; `name` and the index name each in errors."""
        name = name or f"{self.where}: {key}"
        return [JsonObject(each, f"{name} {i}") for i, each in enumerate(self.list(key))]

    def integers(self, key: str, high: int) -> list[int]:
        """A list of integers in 0..high; empty if missing."""
        values = self.list(key)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
                raise self._field_error(key, value, f"integers from 0 to {high}")
        return values

    def strings(self, key: str) -> list[str]:
        """A list of strings; empty if missing."""
        values = self.list(key)
        for value in values:
            if not isinstance(value, str):
                raise self._field_error(key, value, "a list of strings")
        return values

    def list(self, key: str) -> list[Any]:
        """A list of any values; empty if missing."""
        value = self.value(key, [], "a list")
        if not isinstance(value, list):
            raise self._field_error(key, value, "a list")
        return value


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
