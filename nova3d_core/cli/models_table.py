"""The report of the `models` command: installed files, what each contains, and missing ones."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..diffusion.families import FAMILIES
from ..progress import SILENT, Progress
from ..weights.discovery.built_in import BUILT_IN_NAME, built_in_file, is_shipped
from ..weights.discovery.locate import (
    FOLDERS_VARIABLE,
    FoundFile,
    default_folders,
    describe,
    find_models,
    inspect_file,
    missing_files,
)
from ..weights.discovery.registry import PublishedFile

_INDENT = "      "


def models_report(
    folders: Sequence[Path | str] = (), progress: Progress = SILENT
) -> dict[str, Any]:
    """Lists the installed and the missing published model files, as a JSON document.

    Args:
        folders: to search; `weights.discovery.locate.default_folders()` if empty.
        progress: reports each file whose header is read.

    Returns:
        {"built_in": file or None, "folders": [path], "installed": [file], "missing": [file]}. Sizes
        are in bytes; unknown values are None.

    Raises:
        InputError: a given folder does not exist.
    """
    searched = default_folders(folders)
    found = find_models(searched, progress) if searched else []
    return {
        "built_in": {**_installed_row(inspect_file(built_in_file())), "name": BUILT_IN_NAME}
        if is_shipped()
        else None,
        "folders": [str(folder) for folder in searched],
        "installed": [_installed_row(file) for file in found],
        "missing": [_missing_row(published) for published in missing_files(found)],
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
        "description": describe(identity) if identity else "unusable",
        "published_as": f"{file.published.source}: {file.published.file}"
        if file.published
        else None,
        "matched_by": file.matched_by,
        "licence": file.published.licence if file.published else None,
        "problem": file.problem,
        "notes": list(file.notes),
    }


def _missing_row(published: PublishedFile) -> dict[str, Any]:
    return {
        "file": published.file,
        "family": published.family,
        "bytes": published.bytes,
        "gigabytes": published.gigabytes,
        "dtype": published.dtype,
        "licence": published.licence,
        "gated": published.gated,
        "source": published.source,
        "install_path": published.install_path,
        "usage": published.usage,
    }


def models_text(report: dict[str, Any]) -> str:
    """Formats the report of `models_report` as plain text, without a final newline."""
    lines = _built_in_lines(report["built_in"])
    lines += ["", *_folder_lines(report["folders"])]
    lines += ["", f"Installed: {len(report['installed'])} files"]
    lines += _installed_lines(report["installed"])
    lines += ["", f"Not installed: {len(report['missing'])} published files"]
    lines += _missing_lines(report["missing"])
    return "\n".join(lines)


def _built_in_lines(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return [f"Built in: none; {BUILT_IN_NAME} is not in this copy of the package."]
    lines = [f"Built in: {row['name']}  {_size_text(row['bytes'])}  {row['description']}"]
    if row["problem"]:
        lines += _wrap("! ", row["problem"].removeprefix(row["path"]).lstrip())
    for note in (FAMILIES[BUILT_IN_NAME].caveats, *row["notes"]):
        lines += _wrap("- ", note)
    return lines


def _folder_lines(folders: list[str]) -> list[str]:
    if folders:
        return ["Searched folders:", *(f"  {folder}" for folder in folders)]
    return [
        "Searched folders: none, because this package is not inside ComfyUI/custom_nodes.",
        f"Pass a folder, or set {FOLDERS_VARIABLE}.",
    ]


def _installed_lines(rows: list[dict[str, Any]]) -> list[str]:
    width = max((len(row["file"]) for row in rows), default=0)
    lines = []
    for row in rows:
        size = _size_text(row["bytes"])
        lines.append(f"  {row['file']:<{width}}  {size:>8}  {row['description']}".rstrip())
        lines.append(f"{_INDENT}at {row['path']}")
        if row["published_as"]:
            lines.append(f"{_INDENT}{row['published_as']} (matched by {row['matched_by']})")
        if row["problem"]:
            lines += _wrap("! ", row["problem"].removeprefix(row["path"]).lstrip())
        for note in row["notes"]:
            lines += _wrap("- ", note)
    return lines


def _missing_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The missing files, grouped by repository and target folder."""
    width = max((len(row["file"]) for row in rows), default=0)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        target = row["install_path"].removesuffix(row["file"]).rstrip("/")
        groups.setdefault((row["source"], target, row["licence"], row["gated"]), []).append(row)
    lines = []
    for (source, target, licence, gated), members in groups.items():
        lines.append(f"  {source} -> models/{target}/")
        lines.append(f"{_INDENT}licence: {licence or 'unknown'}; {_gate_text(gated)}")
        for row in members:
            size = _size_text(row["bytes"], row["gigabytes"])
            usage = f"{row['family']}: {row['usage']}"
            lines.append(f"{_INDENT}{row['file']:<{width}}  {size:>8}  {usage}")
    return lines


def _wrap(bullet: str, text: str) -> list[str]:
    """Wraps the text at 100 characters; the first line starts with the bullet."""
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
        True: "gated: accept its terms there first",
        False: "not gated when last checked",
        None: "unknown whether it is gated",
    }[gated]


def _size_text(exact_bytes: int | None, gigabytes: float | None = None) -> str:
    """A size with three digits, "9.56 GB"; "?" if it is unknown."""
    size = exact_bytes if exact_bytes is not None else gigabytes and gigabytes * 1e9
    if size is None:
        return "?"
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= divisor:
            return f"{size / divisor:.3g} {unit}"
    return f"{size:.0f} B"
