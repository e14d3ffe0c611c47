"""Settings as JSON files: written beside a result, read back to repeat it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import InputError

T = TypeVar("T")


def settings_text(config: Any) -> str:
    """A config dataclass as JSON."""
    return json.dumps(asdict(config), indent=2) + "\n"


def read_settings(path: Path, kind: type[T]) -> T:
    """Reads a config dataclass; what a file leaves out keeps its default.

    Raises:
        InputError: no such file, no JSON, an unknown name, or a value out of its range.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}.") from error
    return config_from(document, kind, "settings")


def config_from(document: Any, kind: type[T], where: str) -> T:
    """A config dataclass from plain containers; errors name the place by dots."""
    if not isinstance(document, dict):
        raise InputError(f"{where} is {type(document).__name__}, expected names and values.")
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    for name in document:
        if name not in known:
            raise InputError(f"{where}.{name} is unknown.", f"Known are {', '.join(known)}.")
    values = {
        name: _value(value, hints[name], f"{where}.{name}") for name, value in document.items()
    }
    return kind(**values)


def _value(value: Any, hint: Any, where: str) -> Any:
    if is_dataclass(hint):
        return config_from(value, hint, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} is {type(value).__name__}, expected a list.")
        item = get_args(hint)[0]
        return tuple(_value(each, item, f"{where}.{index}") for index, each in enumerate(value))
    if hint in (bool, int, float, str):
        accepted = (int, float) if hint is float else hint
        wrong_bool = isinstance(value, bool) and hint is not bool
        if wrong_bool or not isinstance(value, accepted):
            raise InputError(f"{where} is {value!r}, expected {hint.__name__}.")
        return hint(value)
    return value
