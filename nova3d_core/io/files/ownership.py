"""What an earlier run of ours wrote, and therefore may be replaced: nothing else ever is.

A folder of ours holds a manifest that lists its files; a file of ours names its generator.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Collection
from pathlib import Path

from ...errors import InputError

GENERATOR = "NOVA3D for ComfyUI"
"""Stands in every file of ours: as glTF's generator, as a comment of OBJ, MTL and PLY, in the
metadata of images and model files."""
MANIFEST = ".nova3d.json"
"""Lists the files of a folder of ours, so that whatever else comes to lie there is kept."""
_SEARCH_BYTES = 1 << 16
_HINT = "Choose another name, or move it away yourself."


def write_manifest(folder: Path) -> None:
    """Lists all files below a folder in its manifest."""
    document = {"generator": GENERATOR, "files": sorted(_files_below(folder) - {MANIFEST})}
    text = json.dumps(document, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def reject_foreign_content(folder: Path, kind: Collection[str] = ()) -> None:
    """Raises InputError if a folder holds anything that no earlier run of ours wrote.

    Args:
        folder: an existing folder.
        kind: the names that folders of this kind hold; a folder of another kind is kept too.
    """
    manifest = folder / MANIFEST
    listed = _read_manifest(manifest) if manifest.is_file() else None
    found = _files_below(folder) - {MANIFEST}
    foreign = sorted(found if listed is None else found - listed)
    if not foreign and kind:
        foreign = sorted(name for name in found if name.split("/")[0] not in kind)
    if foreign:
        raise InputError(
            f"{folder} is not replaced: it also holds {foreign[0]}, which is not from here.",
            "Choose another name, or empty it yourself.",
        )


def reject_foreign_file(path: Path) -> None:
    """Raises InputError if a file exists that no earlier run of ours wrote."""
    if os.path.lexists(path) and not has_generator_mark(path):
        raise InputError(f"{path} is not replaced: it is not from here.", _HINT)


def has_generator_mark(path: Path) -> bool:
    """Whether a file names our generator, near its beginning or its end."""
    marks = (GENERATOR.encode(), b'"nova3d":')  # the second is the metadata of model files
    try:
        with path.open("rb") as stream:
            head = stream.read(_SEARCH_BYTES)
            stream.seek(max(os.fstat(stream.fileno()).st_size - _SEARCH_BYTES, 0))
            content = head + stream.read(_SEARCH_BYTES)
    except OSError:
        return False
    return any(mark in content for mark in marks)


def reject_input_path(path: Path, inputs: Collection[Path | None]) -> None:
    """Raises InputError if an output is one of the inputs or holds one, however it is spelled.

    Args:
        path: a file or folder that shall be written.
        inputs: files and folders that the command reads; None is skipped.
    """
    if not path.exists():
        return
    for given in inputs:
        if given is None or not given.exists():
            continue
        place = given.resolve()
        if any(path.samefile(each) for each in (place, *place.parents)):
            relation = "is" if path.samefile(place) else "holds"
            raise InputError(
                f"{path} is not replaced: it {relation} the input {given}.", "Choose another name."
            )


def reject_overlapping_outputs(
    files: Collection[Path], folders: Collection[Path], option: str = ""
) -> None:
    """Raises InputError if two outputs of one command have one name, or one lies in another.

    A folder is replaced as a whole, so nothing else may be written into it.

    Args:
        files: outputs that are files; of several files of one output, all.
        folders: outputs that are folders.
        option: what names one of them, for the hint.
    """
    places = [(path, _casefolded(path)) for path in (*files, *folders)]
    for number, (path, place) in enumerate(places):
        for other, taken in places[:number]:
            if place == taken or taken in place.parents or place in taken.parents:
                relation = "are the same" if place == taken else "lie in one another"
                raise InputError(
                    f"{other} and {path} are both written, and {relation}.",
                    f"Choose another place for {option}." if option else "Choose two places.",
                )


def _casefolded(path: Path) -> Path:
    """A path as drives see it that ignore case; links are resolved."""
    return Path(unicodedata.normalize("NFC", str(path.resolve())).casefold())


def _read_manifest(manifest: Path) -> set[str] | None:
    """The names in a manifest; None if it is damaged or another program's."""
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        if document["generator"] != GENERATOR:
            return None
        return {str(name) for name in document["files"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _files_below(folder: Path) -> set[str]:
    """Paths of all files and links below a folder, relative to it, with slashes; and of folders
    without content."""
    found = set()
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        names = [*files, *links]
        relative = Path(place).relative_to(folder)
        found |= {(relative / name).as_posix() for name in names}
        if not names and not folders and place != str(folder):
            found.add(relative.as_posix())
    return found
