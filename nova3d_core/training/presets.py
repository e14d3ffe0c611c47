"""Training settings: shipped presets, or a JSON or TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError, MissingDependencyError
from ..io.files.containment import quote_value
from ..io.files.json_text import read_json
from ..io.settings import config_from_dict
from .config import TrainConfig

PRESET_DIR = Path(__file__).parent / "configs"


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.json"))


def read_train_config(name: str) -> TrainConfig:
    """Reads a shipped preset by name, or a file; omitted settings keep their defaults.

    Raises:
        InputError: neither a preset nor a file; invalid JSON or TOML; an unknown setting; a value
            out of range.
    """
    if name in preset_names():
        path = PRESET_DIR / f"{name}.json"
    else:
        path = Path(name)
        if path.suffix not in (".json", ".toml"):
            raise InputError(
                f"training settings '{name}' are unknown.",
                f"Use one of {', '.join(preset_names())}, or a .json or .toml file.",
            )
    return config_from_dict(_read_document(path), TrainConfig, "settings")


def _read_document(path: Path) -> Any:
    if path.suffix == ".json":
        return read_json(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"{path} cannot be read: {reason}.") from error
    try:
        return _parse_toml(text)
    except RecursionError as error:
        raise InputError(f"{path} is not valid TOML: it is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid TOML: {quote_value(str(error))}.") from error


def _parse_toml(text: str) -> Any:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingDependencyError("tomli", "a .toml file on Python 3.10") from error
    return tomllib.loads(text)
