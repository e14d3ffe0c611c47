"""Config dataclasses as JSON: saved with a result, and read back to reproduce it."""

from __future__ import annotations

import json
import textwrap
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..checks import public_fields
from ..errors import InputError
from .files.containment import quote_value
from .files.json_text import read_json

T = TypeVar("T")


def settings_to_json(config: Any) -> str:
    """Serialises a config dataclass to JSON, without its internal fields."""
    return json.dumps(settings_dict(config), indent=2) + "\n"


def settings_dict(config: Any) -> Any:
    """Converts a config dataclass to plain containers, without its internal fields."""
    if is_dataclass(config):
        return {
            each.name: settings_dict(getattr(config, each.name)) for each in public_fields(config)
        }
    if isinstance(config, tuple | list):
        return [settings_dict(item) for item in config]
    return config


def read_settings(path: Path, config_type: type[T]) -> T:
    """Reads a config dataclass from JSON; missing fields keep their defaults.

    Raises:
        InputError: the file is missing or not valid JSON; a name is unknown or missing; a value
            has the wrong type or is out of range.
    """
    return config_from_dict(read_json(Path(path)), config_type, "settings")


def settings_or_options(path: Path | None, options: T) -> T:
    """The settings of a file, or those of the command line where no file is given.

    Args:
        path: a settings file, or None.
        options: the config dataclass of the command line.

    Raises:
        InputError: both are given; or as `read_settings`.
    """
    if path is None:
        return options
    if options != type(options)():
        raise InputError(
            "--settings gives all settings of the stages, but the command has options of the "
            "stages, too.",
            f"Put them into {quote_value(path.name)}, or omit --settings.",
        )
    return read_settings(path, type(options))


def config_from_dict(document: Any, config_type: type[T], where: str) -> T:
    """Builds a config dataclass from plain containers.

    Args:
        document: the parsed JSON or TOML document.
        config_type: the dataclass.
        where: prefix of field names in errors.

    Raises:
        InputError: naming the field by its dotted path.
    """
    if not isinstance(document, dict):
        raise InputError(f"{where} is {_type_name(document)}, expected an object.")
    hints = get_type_hints(config_type)
    field_names = [each.name for each in public_fields(config_type)]
    for name in document:
        if name not in field_names:
            raise InputError(
                f"{where}.{_format_key(name)} is unknown.",
                textwrap.shorten(f"Use one of {', '.join(field_names)}.", 300, placeholder=" ..."),
            )
    values = {
        name: _convert(value, hints[name], f"{where}.{name}") for name, value in document.items()
    }
    for each in public_fields(config_type):
        if each.default is MISSING and each.default_factory is MISSING and each.name not in values:
            raise InputError(f"{where}.{each.name} is missing.")
    return config_type(**values)


def _format_key(name: Any) -> str:
    return (
        name
        if isinstance(name, str) and name.isidentifier() and len(name) < 80
        else quote_value(name)
    )


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Converts a value to the type of an annotation; InputError if it has another type."""
    if is_dataclass(hint):
        return config_from_dict(value, hint, where)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # optional
        inner_type = next(each for each in inner if each is not NoneType)
        return None if value is None and NoneType in inner else _convert(value, inner_type, where)
    if origin is tuple:
        _check_type(value, list, where, "a list")
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise InputError(f"{where} has {len(value)} items, expected {len(inner)}.")
        items = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        each = zip(value, items, strict=True)
        return tuple(_convert(v, item, f"{where}.{index}") for index, (v, item) in enumerate(each))
    if origin is Literal:
        _check_type(value, str, where, "a string")
        return value
    if origin in (dict, list):
        _check_type(value, origin, where, "an object" if origin is dict else "a list")
        return value
    if hint in (bool, int, float, str):
        accepted = (int, float) if hint is float else hint
        is_wrong_bool = isinstance(value, bool) and hint is not bool
        if is_wrong_bool or not isinstance(value, accepted):
            raise InputError(f"{where} is {quote_value(value)}, expected {hint.__name__}.")
        try:
            return hint(value)
        except OverflowError as error:
            raise InputError(f"{where} is too large.") from error
    return value


def _check_type(value: Any, config_type: type, where: str, expected: str) -> None:
    if not isinstance(value, config_type):
        raise InputError(f"{where} is {_type_name(value)}, expected {expected}.")


def _type_name(value: Any) -> str:
    """The type of a JSON value, for errors."""
    return "null" if value is None else type(value).__name__
