"""Finds model files on disk, says what each one really is, and which known ones are missing."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ...errors import InputError
from ...io.files.containment import quote_value
from ...progress import SILENT, Progress
from ..files.inspect import is_model_name
from .layouts import Identity, ModelHeader, identify, read_header
from .registry import KNOWN_FILES, KnownFile

log = logging.getLogger(__name__)

FOLDERS_VARIABLE = "NOVA3D_MODELS"
"""Environment variable with model folders, separated as in PATH."""
COMFYUI_FOLDERS = ("nova3d", "checkpoints", "diffusion_models", "unet", "diffusers")
"""The folders of ComfyUI's `models` that may hold files of ours."""
PARTIAL_SUFFIXES = (
    ".part",
    ".partial",
    ".crdownload",
    ".incomplete",
    ".download",
    ".opdownload",
    ".aria2",
    ".!qb",
)
"""Endings that browsers and download tools give to what is not finished."""

_RESAVED = re.compile(
    r"([-_. ](fp\d+|f16|bf16|half|e4m3fn|e5m2|scaled|pruned|ema|no_?ema)| ?\(\d+\))$"
)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


@dataclass(frozen=True)
class FoundFile:
    """One file that looks like a model, and what it really is."""

    path: Path
    """Where it is."""
    bytes: int
    """Its size."""
    identity: Identity | None
    """What its header tells; None if `problem` says why it could not be read."""
    known: KnownFile | None = None
    """The published file it is, as far as name, size and contents can tell."""
    matched_by: str | None = None
    """What agrees with `known`: "name and content", "content", "name and size", "size", "name"."""
    problem: str | None = None
    """Why the file cannot be used, and what to do about it."""
    notes: tuple[str, ...] = ()
    """What a user should know about the file, one sentence each."""

    @property
    def family(self) -> str:
        """A key of FAMILIES, or "unknown"."""
        return self.identity.family if self.identity else "unknown"


def default_folders(
    given: Sequence[Path | str] = (),
    environment: Mapping[str, str] | None = None,
    package: Path | str | None = None,
) -> tuple[Path, ...]:
    """Where to look for models: the given folders, else NOVA3D_MODELS, else ComfyUI's `models`.

    Args:
        given: folders or single files; a `~` stands for the home folder.
        environment: os.environ if None.
        package: the folder of this package (nova3d_core); found by itself if None. Inside
            ComfyUI/custom_nodes/PACK the folders of ComfyUI/models that concern us are used.

    Returns:
        The places, which exist; () if nothing is given and the package lies outside ComfyUI.

    Raises:
        InputError: a given place, or one that NOVA3D_MODELS names, does not exist.
    """
    variable = (os.environ if environment is None else environment).get(FOLDERS_VARIABLE, "")
    listed = [part for part in variable.split(os.pathsep) if part.strip()]
    for places, named_by in ((given, "the argument"), (listed, FOLDERS_VARIABLE)):
        if places:
            return tuple(_existing(place, named_by) for place in places)
    # Not resolved: a pack linked into custom_nodes belongs to that ComfyUI.
    package = Path(os.path.abspath(package or Path(__file__).parents[2]))
    if len(package.parents) < 3 or package.parents[1].name != "custom_nodes":
        return ()
    models = package.parents[2] / "models"
    return tuple(models / name for name in COMFYUI_FOLDERS if (models / name).is_dir())


def _existing(place: Path | str, named_by: str) -> Path:
    path = Path(place).expanduser()
    if not path.exists():
        raise InputError(
            f"{path}, given by {named_by} as a place for models, does not exist.",
            "Correct the path or make the folder.",
        )
    return path


def find_models(folders: Sequence[Path | str] = (), progress: Progress = SILENT) -> list[FoundFile]:
    """Every model-like file below the folders, each with what it really is.

    Args:
        folders: folders, walked to the bottom, or single files; `default_folders()` if empty.
        progress: reports each file whose header is read.

    Returns:
        The files sorted by path. A file that cannot be used is listed with its `problem`; files
        that are no model by name are left out.

    Raises:
        InputError: a given folder does not exist.
        Cancelled: the user asked to stop.
    """
    paths = sorted(set(_walk(default_folders(folders))))
    return [
        inspect_file(path) for path in progress.track(paths, "reading model headers", len(paths))
    ]


def missing_files(found: Sequence[FoundFile]) -> list[KnownFile]:
    """The known files that none of the found ones is, in the registry's order."""
    present = {file.known for file in found}
    return [known for known in KNOWN_FILES if known not in present]


def _walk(places: Sequence[Path]) -> Iterator[Path]:
    """Model-like files below the places; linked folders are followed, each real folder once."""
    seen: set[str] = set()
    for place in places:
        if not place.is_dir():
            yield place
            continue
        for folder, inner, names in os.walk(place, followlinks=True, onerror=_log_unreadable):
            real = os.path.realpath(folder)
            if real in seen:
                inner.clear()
                continue
            seen.add(real)
            inner[:] = sorted(name for name in inner if name != ".git")
            yield from (Path(folder, n) for n in names if is_model_name(n) or _is_partial(n))


def _log_unreadable(error: OSError) -> None:
    log.warning("%s cannot be listed: %s", error.filename, error.strerror)


def _is_partial(name: str) -> bool:
    return name.lower().endswith(PARTIAL_SUFFIXES)


def inspect_file(path: Path | str) -> FoundFile:
    """What one file really is; never raises for a bad file, but says its `problem`."""
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        why = "a link to a file that is gone" if path.is_symlink() else error.strerror
        return FoundFile(path, 0, None, problem=f"{path} cannot be read: {why}.")
    unfinished = _unfinished(path)
    if unfinished:
        return FoundFile(path, size, None, problem=unfinished)
    try:
        header = read_header(path)
        return _match(path, header, identify(header))
    except InputError as error:
        return FoundFile(path, size, None, problem=str(error))
    except Exception as error:  # one strange file must not end the list of all
        log.debug("reading %s failed", path, exc_info=error)
        reason = f"{path} cannot be read: {type(error).__name__}: {quote_value(str(error))}."
        return FoundFile(path, size, None, problem=reason)


def _unfinished(path: Path) -> str | None:
    """Says so if the file is, or has beside it, the sign of an unfinished download."""
    if _is_partial(path.name):
        return f"{path} is an unfinished download: let it finish, or delete it."
    # aria2 gives the file its full size at once, so only this neighbour tells.
    if path.with_name(path.name + ".aria2").exists():
        return f"{path} is still being downloaded by aria2: let it finish."
    return None


def _match(path: Path, header: ModelHeader, identity: Identity) -> FoundFile:
    """The found file with the published file it is, if one can be told, and remarks."""
    by_name = [known for known in KNOWN_FILES if matches_name(path, known)]
    if not header.tensors:
        return _match_unread(path, header, identity, by_name)
    content = [known for known in KNOWN_FILES if _has_content_of(identity, known)]
    both = _of_same_repository(path, [known for known in by_name if known in content])
    shard = _SHARD.search(path.name)
    notes = identity.notes
    if shard:
        notes += (f"Shard {int(shard[1])} of {int(shard[2])}: of no use alone.",)
    if len(both) == 1:
        notes += _size_remark(header, identity, both[0])
        return FoundFile(path, header.bytes, identity, both[0], "name and content", None, notes)
    if by_name and not both and not shard:
        notes += (_on_wrong_name(identity, by_name[0]),)
        if by_name[0].family in identity.ambiguous_with:
            identity = replace(
                identity, family=by_name[0].family, ambiguous_with=(identity.family,)
            )
    if not identity.ambiguous_with and len({known.source for known in content}) == 1:
        known = next((k for k in content if k.dtype == identity.dtype), content[0])
        return FoundFile(path, header.bytes, identity, known, "content", None, notes)
    if content and (both or not by_name):
        sources = ", ".join(dict.fromkeys(known.source for known in both or content))
        notes += (f"Only name and folder could tell which it is; its like is in {sources}.",)
    return FoundFile(path, header.bytes, identity, notes=notes)


def _on_wrong_name(identity: Identity, named: KnownFile) -> str:
    """The remark on a file whose contents are not those of the published file of its name."""
    if named.family in identity.ambiguous_with:
        parts = ", ".join(named.parts).replace("_", " ")
        return (
            f"Taken for {named.family} by its name, but differs from the published {named.name}, "
            f"which holds {parts}."
        )
    return (
        f"Named as {named.file} ({named.family}), but holds something else: "
        f"{describe(identity)}. Rename it, or download the right file."
    )


def _match_unread(
    path: Path, header: ModelHeader, identity: Identity, by_name: list[KnownFile]
) -> FoundFile:
    """Matches a pickle whose contents could not be read by its name and its size."""
    by_size = [known for known in KNOWN_FILES if known.bytes == header.bytes]
    both = [known for known in by_name if known in by_size]
    named = [known for known in by_name if known.bytes is None]
    for matched_by, candidates in (
        ("name and size", both),
        ("size", by_size),
        ("name", named),
    ):
        if len(candidates) == 1:
            known = candidates[0]
            identity = replace(identity, family=known.family, layout=known.layout)
            return FoundFile(path, header.bytes, identity, known, matched_by, None, identity.notes)
    notes = identity.notes
    if len(by_name) == 1:
        notes += _size_remark(header, identity, by_name[0])
    return FoundFile(path, header.bytes, identity, notes=notes)


def matches_name(path: PurePath, known: KnownFile) -> bool:
    """True if the file is named as the known one, or as a re-save of it.

    A re-save adds endings such as "-fp16" or " (1)" or changes the file type. Files in the
    diffusers layout share their names, so theirs must lie in the folder of the same part.
    """
    if "/" in known.file:
        return f"/{path.as_posix()}".lower().endswith(f"/{known.file}".lower())
    stem = _plain_stem(path.name)
    return any(stem == _plain_stem(name) for name in (known.name, *known.aliases))


def _plain_stem(name: str) -> str:
    """The name without its type, number format and copy number, in lower case."""
    stem = os.path.splitext(name)[0].lower()
    while (shorter := _RESAVED.sub("", stem)) != stem:
        stem = shorter
    return stem.replace("-", "_")


def _of_same_repository(path: Path, candidates: list[KnownFile]) -> list[KnownFile]:
    """Of several candidates, those whose repository's name is among the folders above the file."""
    if len(candidates) < 2:
        return candidates
    above = {name.lower() for name in path.parts}

    def lies_in(source: str) -> bool:
        name = source.lower()
        return name.rsplit("/", 1)[-1] in above or f"models--{name.replace('/', '--')}" in above

    return [known for known in candidates if lies_in(known.source)] or candidates


def _has_content_of(identity: Identity, known: KnownFile) -> bool:
    return (
        known.family in (identity.family, *identity.ambiguous_with)
        and known.layout == identity.layout
        and set(known.parts) == set(identity.parts)
        and known.decoder == identity.decoder
    )


def _size_remark(header: ModelHeader, identity: Identity, known: KnownFile) -> tuple[str, ...]:
    """Says if number format or size differ from the published file."""
    if known.dtype and identity.dtype not in (known.dtype, "unknown"):
        return (f"Saved again in {identity.dtype}; published in {known.dtype}.",)
    if known.bytes and header.bytes != known.bytes:
        return (f"Has {header.bytes:,} bytes; the published file has {known.bytes:,}.",)
    return ()


def describe(identity: Identity) -> str:
    """One phrase for an identity: family, number format and parts."""
    if identity.family == "unknown":
        return "no model known here"
    parts = " + ".join(part.replace("_", " ") for part in identity.parts)
    decoder = f" ({identity.decoder} decoder)" if identity.decoder else ""
    return f"{identity.family}, {identity.dtype}, {parts}{decoder}"
