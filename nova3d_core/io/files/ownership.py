"""Ownership: only output that an earlier run of NOVA3D wrote may be replaced.

Folders are recognised by a manifest that lists their files, files by the name of their generator.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Collection
from pathlib import Path

from ...errors import InputError

GENERATOR = "NOVA3D for ComfyUI"
"""Written to every output file: as glTF's generator, as a comment in OBJ, MTL and PLY, in the
metadata of images and model files."""
MANIFEST = ".nova3d.json"
"""Lists the files of an output folder, so that files added later are never deleted."""
_SEARCH_BYTES = 1 << 16
_HINT = "Choose another name, or move the file away."


def write_manifest(folder: Path) -> None:
    """Writes the manifest of a folder: all files below it."""
    document = {"generator": GENERATOR, "files": sorted(_files_below(folder) - {MANIFEST})}
    text = json.dumps(document, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def reject_foreign_content(folder: Path, expected: Collection[str] = ()) -> None:
    """Raises InputError if a folder contains anything that no earlier run wrote.

    Args:
        folder: an existing folder.
        expected: names of the entries of such a folder; folders with other entries are rejected.
    """
    manifest = folder / MANIFEST
    listed = _read_manifest(manifest) if manifest.is_file() else None
    found = _files_below(folder) - {MANIFEST}
    foreign = sorted(found if listed is None else found - listed)
    if not foreign and expected:
        foreign = sorted(name for name in found if name.split("/")[0] not in expected)
    if foreign:
        raise InputError(
            f"{folder} is not replaced: it contains {foreign[0]}, which NOVA3D did not write.",
            "Choose another name, or empty the folder.",
        )


def reject_foreign_file(path: Path) -> None:
    """Raises InputError if a file exists that no earlier run wrote."""
    if os.path.lexists(path) and not has_generator_mark(path):
        raise InputError(f"{path} is not replaced: NOVA3D did not write it.", _HINT)


def has_generator_mark(path: Path) -> bool:
    """Whether a file names NOVA3D as its generator, near its start or end."""
    marks = (GENERATOR.encode(), b'"nova3d":')  # the latter in the metadata of model files
    try:
        with path.open("rb") as stream:
            head = stream.read(_SEARCH_BYTES)
            stream.seek(max(os.fstat(stream.fileno()).st_size - _SEARCH_BYTES, 0))
            content = head + stream.read(_SEARCH_BYTES)
    except OSError:
        return False
    return any(mark in content for mark in marks)


def reject_input_path(path: Path, inputs: Collection[Path | None]) -> None:
    """Raises InputError if an output is an input or contains one, also through links.

    Args:
        path: the output file or folder.
        inputs: files and folders that the command reads; None is skipped.
    """
    if not path.exists():
        return
    for source in inputs:
        if source is None or not source.exists():
            continue
        resolved = source.resolve()
        if any(path.samefile(each) for each in (resolved, *resolved.parents)):
            relation = "is" if path.samefile(resolved) else "contains"
            raise InputError(
                f"{path} is not replaced: it {relation} the input {source}.", "Choose another name."
            )


def reject_overlapping_outputs(
    files: Collection[Path], folders: Collection[Path], option: str = ""
) -> None:
    """Raises InputError if two outputs of a command coincide, or one contains the other.

    A folder is replaced as a whole, so nothing else may be written into it.

    Args:
        files: all output files.
        folders: all output folders.
        option: the command-line option of one of them, for the hint.
    """
    outputs = [(path, _casefolded(path)) for path in (*files, *folders)]
    for number, (path, folded) in enumerate(outputs):
        for other, earlier in outputs[:number]:
            if folded == earlier or earlier in folded.parents or folded in earlier.parents:
                relation = "are the same path" if folded == earlier else "overlap"
                raise InputError(
                    f"the outputs {other} and {path} {relation}.",
                    f"Choose another path for {option}." if option else "Choose separate paths.",
                )


def _casefolded(path: Path) -> Path:
    """A path as case-insensitive drives compare it, with links resolved."""
    return Path(unicodedata.normalize("NFC", str(path.resolve())).casefold())


def _read_manifest(manifest: Path) -> set[str] | None:
    """The file names in a manifest; None if it is damaged or another program's."""
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        if document["generator"] != GENERATOR:
            return None
        return {str(name) for name in document["files"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _files_below(folder: Path) -> set[str]:
    """Relative POSIX paths of all files, links and empty folders below a folder."""
    found = set()
    for current, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(current, name))]
        names = [*files, *links]
        relative = Path(current).relative_to(folder)
        found |= {(relative / name).as_posix() for name in names}
        if not names and not folders and current != str(folder):
            found.add(relative.as_posix())
    return found
