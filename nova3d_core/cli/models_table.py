"""The `models` command's answer: the files at hand, what each really is, and what is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..diffusion.families import FAMILIES
from ..progress import SILENT, Progress
from ..weights.discovery.built_in import NAME, built_in_file, is_shipped
from ..weights.discovery.locate import (
    FOLDERS_VARIABLE,
    FoundFile,
    default_folders,
    describe,
    find_models,
    inspect_file,
    missing_files,
)
from ..weights.discovery.registry import KnownFile

_INDENT = "      "


def models_report(
    folders: Sequence[Path | str] = (), progress: Progress = SILENT
) -> dict[str, Any]:
    """What is installed below the folders and which known files are missing, ready for JSON.

    Args:
        folders: where to look; `weights.locate.default_folders` says where without any.
        progress: reports each file whose header is read.

    Returns:
        {"built_in": file or None, "folders": [path], "installed": [file], "missing": [file]}. Sizes
        are in bytes; what is not known is None.

    Raises:
        InputError: a given folder does not exist.
    """
    places = default_folders(folders)
    found = find_models(places, progress) if places else []
    return {
        "built_in": {**_installed_row(inspect_file(built_in_file())), "name": NAME}
        if is_shipped()
        else None,
        "folders": [str(place) for place in places],
        "installed": [_installed_row(file) for file in found],
        "missing": [_missing_row(known) for known in missing_files(found)],
    }


def _installed_row(file: FoundFile) -> dict[str, Any]:
    identity = file.identity
    return {
        "path": str(file.path),
        "file": file.path.name,
        "bytes": file.bytes,
        "family": file.family,
        "layout": identity.layout if identity else "unknown",
        "dtype": identity.dtype if identity else "unknown",
        "parts": list(identity.parts) if identity else [],
        "decoder": identity.decoder if identity else None,
        "is": describe(identity) if identity else "cannot be used",
        "published_as": f"{file.known.source}: {file.known.file}" if file.known else None,
        "matched_by": file.matched_by,
        "licence": file.known.licence if file.known else None,
        "problem": file.problem,
        "notes": list(file.notes),
    }


def _missing_row(known: KnownFile) -> dict[str, Any]:
    return {
        "file": known.file,
        "family": known.family,
        "bytes": known.bytes,
        "gigabytes": known.gigabytes,
        "dtype": known.dtype,
        "licence": known.licence,
        "gated": known.gated,
        "source": known.source,
        "install_path": known.install_path,
        "usage": known.usage,
    }


def models_text(report: dict[str, Any]) -> str:
    """The report of `models_report` as a plain table to read, without a final newline."""
    lines = _built_in_lines(report["built_in"])
    lines += ["", *_folder_lines(report["folders"])]
    lines += ["", f"Installed: {len(report['installed'])} files"]
    lines += _installed_lines(report["installed"])
    lines += ["", f"Known, but not found: {len(report['missing'])} files"]
    lines += _missing_lines(report["missing"])
    return "\n".join(lines)


def _built_in_lines(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return [f"Built in: none; {NAME} is not in this copy of the package."]
    lines = [f"Built in: {row['name']}  {_size_text(row['bytes'])}  {row['is']}"]
    if row["problem"]:
        lines += _wrapped("! ", row["problem"].removeprefix(row["path"]).lstrip())
    for remark in (FAMILIES[NAME].caveats, *row["notes"]):
        lines += _wrapped("- ", remark)
    return lines


def _folder_lines(folders: list[str]) -> list[str]:
    if folders:
        return ["Looked in:", *(f"  {folder}" for folder in folders)]
    return [
        "Looked nowhere: this package does not lie inside ComfyUI/custom_nodes.",
        f"Name a folder, or set {FOLDERS_VARIABLE}.",
    ]


def _installed_lines(rows: list[dict[str, Any]]) -> list[str]:
    width = max((len(row["file"]) for row in rows), default=0)
    lines = []
    for row in rows:
        size = _size_text(row["bytes"])
        lines.append(f"  {row['file']:<{width}}  {size:>8}  {row['is']}".rstrip())
        lines.append(f"{_INDENT}at {row['path']}")
        if row["published_as"]:
            lines.append(f"{_INDENT}{row['published_as']} (told by {row['matched_by']})")
        if row["problem"]:
            lines += _wrapped("! ", row["problem"].removeprefix(row["path"]).lstrip())
        for remark in row["notes"]:
            lines += _wrapped("- ", remark)
    return lines


def _missing_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The missing files, grouped by where they are published and where they go."""
    width = max((len(row["file"]) for row in rows), default=0)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        below = row["install_path"].removesuffix(row["file"]).rstrip("/")
        groups.setdefault((row["source"], below, row["licence"], row["gated"]), []).append(row)
    lines = []
    for (source, below, licence, gated), members in groups.items():
        lines.append(f"  {source} -> models/{below}/")
        lines.append(f"{_INDENT}licence: {licence or 'not known'}; {_gate_text(gated)}")
        for row in members:
            size = _size_text(row["bytes"], row["gigabytes"])
            what = f"{row['family']}: {row['usage']}"
            lines.append(f"{_INDENT}{row['file']:<{width}}  {size:>8}  {what}")
    return lines


def _wrapped(bullet: str, text: str) -> list[str]:
    """The text in lines of at most 100 characters, the first with the bullet."""
    return textwrap.wrap(
        text,
        100,
        initial_indent=_INDENT + bullet,
        subsequent_indent=_INDENT + " " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _gate_text(gated: bool | None) -> str:
    return {
        True: "gated: agree to its terms there first",
        False: "not gated when last seen",
        None: "whether it is gated is not known",
    }[gated]


def _size_text(exact_bytes: int | None, gigabytes: float | None = None) -> str:
    """A size with three digits, "9.56 GB"; "?" where it is not known."""
    size = exact_bytes if exact_bytes is not None else gigabytes and gigabytes * 1e9
    if size is None:
        return "?"
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= divisor:
            return f"{size / divisor:.3g} {unit}"
    return f"{size:.0f} B"
