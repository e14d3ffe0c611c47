"""Finds model files on disk, identifies each, and lists the published files that are missing."""

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
from .registry import PUBLISHED_FILES, PublishedFile

log = logging.getLogger(__name__)

FOLDERS_VARIABLE = "NOVA3D_MODELS"
"""Environment variable with model folders, separated as in PATH."""
COMFYUI_FOLDERS = (
    "nova3d",
    "checkpoints",
    "diffusion_models",
    "unet",
    "diffusers",
    "geometry_estimation",
)
"""Subfolders of ComfyUI's `models` that are searched."""
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
"""Suffixes of incomplete downloads of browsers and download tools."""

_RESAVE_SUFFIX = re.compile(
    r"([-_. ](fp\d+|f16|bf16|half|e4m3fn|e5m2|scaled|pruned|ema|no_?ema)| ?\(\d+\))$"
)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


@dataclass(frozen=True)
class FoundFile:
    """A file with a model's suffix, and what it contains."""

    path: Path
    """Its path."""
    bytes: int
    """Its size."""
    identity: Identity | None
    """Identified from its header; None if it could not be read, see `problem`."""
    published: PublishedFile | None = None
    """The published file that name, size and contents match."""
    matched_by: str | None = None
    """What matches: "name and content", "content", "name and size", "size" or "name"."""
    problem: str | None = None
    """Why the file cannot be used, and what to do."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""

    @property
    def family(self) -> str:
        """A key of FAMILY_DESCRIPTIONS, or "unknown"."""
        return self.identity.family if self.identity else "unknown"


def default_folders(
    given: Sequence[Path | str] = (),
    environment: Mapping[str, str] | None = None,
    package: Path | str | None = None,
) -> tuple[Path, ...]:
    """The model folders: the given ones, else NOVA3D_MODELS, else those of ComfyUI.

    Args:
        given: folders or single files; `~` is expanded.
        environment: os.environ if None.
        package: folder of this package (nova3d_core), its own if None. Inside
            ComfyUI/custom_nodes/PACK the `COMFYUI_FOLDERS` of ComfyUI/models are used.

    Returns:
        Existing paths; () if none are given and the package is outside ComfyUI.

    Raises:
        InputError: a given path, or one in NOVA3D_MODELS, does not exist.
    """
    variable = (os.environ if environment is None else environment).get(FOLDERS_VARIABLE, "")
    listed = [part for part in variable.split(os.pathsep) if part.strip()]
    for paths, origin in ((given, "the argument"), (listed, FOLDERS_VARIABLE)):
        if paths:
            return tuple(_check_exists(path, origin) for path in paths)
    # symlinks are kept: a pack linked into custom_nodes belongs to that ComfyUI
    package = Path(os.path.abspath(package or Path(__file__).parents[2]))
    if len(package.parents) < 3 or package.parents[1].name != "custom_nodes":
        return ()
    models = package.parents[2] / "models"
    return tuple(models / name for name in COMFYUI_FOLDERS if (models / name).is_dir())


def _check_exists(path: Path | str, origin: str) -> Path:
    expanded = Path(path).expanduser()
    if not expanded.exists():
        raise InputError(
            f"the model folder {expanded}, set by {origin}, does not exist.",
            "Correct the path or create the folder.",
        )
    return expanded


def find_models(folders: Sequence[Path | str] = (), progress: Progress = SILENT) -> list[FoundFile]:
    """Finds all files with a model's suffix below the folders and identifies each.

    Args:
        folders: folders, searched recursively, or single files; `default_folders()` if empty.
        progress: reports each file whose header is read.

    Returns:
        The files sorted by path. Unusable files have a `problem`; files without a model's suffix
        are left out.

    Raises:
        InputError: a given folder does not exist.
        Cancelled: the user cancelled.
    """
    paths = sorted(set(_iter_model_files(default_folders(folders))))
    return [
        inspect_file(path) for path in progress.track(paths, "reading model headers", len(paths))
    ]


def missing_files(found: Sequence[FoundFile]) -> list[PublishedFile]:
    """The published files that are not among the found ones, in the registry's order."""
    present = {file.published for file in found}
    return [published for published in PUBLISHED_FILES if published not in present]


def _iter_model_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Files with a model's suffix; follows linked folders, but visits each real folder once."""
    visited: set[str] = set()
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, subfolders, names in os.walk(path, followlinks=True, onerror=_log_unreadable):
            real = os.path.realpath(folder)
            if real in visited:
                subfolders.clear()
                continue
            visited.add(real)
            subfolders[:] = sorted(name for name in subfolders if name != ".git")
            yield from (Path(folder, n) for n in names if is_model_name(n) or _is_partial(n))


def _log_unreadable(error: OSError) -> None:
    log.warning("%s cannot be listed: %s", error.filename, error.strerror)


def _is_partial(name: str) -> bool:
    return name.lower().endswith(PARTIAL_SUFFIXES)


def inspect_file(path: Path | str) -> FoundFile:
    """Identifies one file; never raises for a bad file, but sets its `problem`."""
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        why = "a broken link" if path.is_symlink() else error.strerror
        return FoundFile(path, 0, None, problem=f"{path} cannot be read: {why}.")
    problem = _incomplete_download(path)
    if problem:
        return FoundFile(path, size, None, problem=problem)
    try:
        header = read_header(path)
        return _match(path, header, identify(header))
    except InputError as error:
        return FoundFile(path, size, None, problem=str(error))
    except Exception as error:  # one odd file must not abort the list
        log.debug("reading %s failed", path, exc_info=error)
        reason = f"{path} cannot be read: {type(error).__name__}: {quote_value(str(error))}."
        return FoundFile(path, size, None, problem=reason)


def _incomplete_download(path: Path) -> str | None:
    """The problem of a file whose name, or a file next to it, marks an incomplete download."""
    if _is_partial(path.name):
        return f"{path} is an incomplete download: let it finish, or delete it."
    # aria2 allocates the full size at the start, so only its control file shows the state
    if path.with_name(path.name + ".aria2").exists():
        return f"{path} is still being downloaded by aria2: let it finish."
    return None


def _match(path: Path, header: ModelHeader, identity: Identity) -> FoundFile:
    """Matches the file against the published ones, and collects notes."""
    by_name = [published for published in PUBLISHED_FILES if matches_name(path, published)]
    if not header.tensors:
        return _match_unparsed(path, header, identity, by_name)
    content = [published for published in PUBLISHED_FILES if _matches_content(identity, published)]
    by_name = [each for each in by_name if each in content or not each.has_generic_name]
    both = _filter_by_repository(path, [published for published in by_name if published in content])
    shard = _SHARD.search(path.name)
    notes = identity.notes
    if shard:
        notes += (f"Shard {int(shard[1])} of {int(shard[2])}: not usable on its own.",)
    if len(both) == 1:
        notes += _size_note(header, identity, both[0])
        return FoundFile(path, header.bytes, identity, both[0], "name and content", None, notes)
    if by_name and not both and not shard:
        notes += (_misnamed_note(identity, by_name[0]),)
        if by_name[0].family in identity.ambiguous_with:
            identity = replace(
                identity, family=by_name[0].family, ambiguous_with=(identity.family,)
            )
    sources = list(dict.fromkeys(published.source for published in both or content))
    if not identity.ambiguous_with and len({published.source for published in content}) == 1:
        same = [published for published in content if published.dtype == identity.dtype]
        if len(same) < 2:
            published = (same or content)[0]
            return FoundFile(path, header.bytes, identity, published, "content", None, notes)
        sources = [f"{published.source}: {published.file}" for published in same]
    if content and (both or not by_name):
        notes += (
            "Several published files have these keys; name and folder do not identify one: "
            f"{', '.join(sources)}.",
        )
    return FoundFile(path, header.bytes, identity, notes=notes)


def _misnamed_note(identity: Identity, named: PublishedFile) -> str:
    """The note on a file whose contents differ from the published file of its name."""
    if named.family in identity.ambiguous_with:
        parts = ", ".join(named.parts).replace("_", " ")
        return (
            f"Identified as {named.family} by its name, but differs from the published "
            f"{named.name}, which contains {parts}."
        )
    return (
        f"Has the name of {named.file} ({named.family}), but contains {describe(identity)}. "
        "Rename it, or download the correct file."
    )


def _match_unparsed(
    path: Path, header: ModelHeader, identity: Identity, by_name: list[PublishedFile]
) -> FoundFile:
    """Matches a pickle that could not be parsed by its name and size."""
    by_size = [published for published in PUBLISHED_FILES if published.bytes == header.bytes]
    both = [published for published in by_name if published in by_size]
    named = [published for published in by_name if published.bytes is None]
    for matched_by, candidates in (
        ("name and size", both),
        ("size", by_size),
        ("name", named),
    ):
        if len(candidates) == 1:
            published = candidates[0]
            identity = replace(identity, family=published.family, layout=published.layout)
            return FoundFile(
                path, header.bytes, identity, published, matched_by, None, identity.notes
            )
    notes = identity.notes
    if len(by_name) == 1:
        notes += _size_note(header, identity, by_name[0])
    return FoundFile(path, header.bytes, identity, notes=notes)


def matches_name(path: PurePath, published: PublishedFile) -> bool:
    """True if the file has the name of the published one, or of a re-saved copy.

    Copies add suffixes such as "-fp16" or " (1)", or have another file type. Files in the
    diffusers layout share their names, so their folder must match as well.
    """
    if "/" in published.file:
        return f"/{path.as_posix()}".lower().endswith(f"/{published.file}".lower())
    stem = _normalised_stem(path.name)
    return any(stem == _normalised_stem(name) for name in (published.name, *published.aliases))


def _normalised_stem(name: str) -> str:
    """The lower-case name without file type, dtype and copy number."""
    stem = os.path.splitext(name)[0].lower()
    while (shorter := _RESAVE_SUFFIX.sub("", stem)) != stem:
        stem = shorter
    return stem.replace("-", "_")


def _filter_by_repository(path: Path, candidates: list[PublishedFile]) -> list[PublishedFile]:
    """Of several candidates, those whose repository is the name of a parent folder."""
    if len(candidates) < 2:
        return candidates
    parents = {name.lower() for name in path.parts}

    def matches_folder(source: str) -> bool:
        name = source.lower()
        return name.rsplit("/", 1)[-1] in parents or f"models--{name.replace('/', '--')}" in parents

    return [published for published in candidates if matches_folder(published.source)] or candidates


def _matches_content(identity: Identity, published: PublishedFile) -> bool:
    return (
        published.family in (identity.family, *identity.ambiguous_with)
        and published.layout == identity.layout
        and set(published.parts) == set(identity.parts)
        and published.decoder == identity.decoder
    )


def _size_note(
    header: ModelHeader, identity: Identity, published: PublishedFile
) -> tuple[str, ...]:
    """The note on a dtype or size that differs from the published file."""
    if published.dtype and identity.dtype not in (published.dtype, "unknown"):
        return (f"Re-saved as {identity.dtype}; published as {published.dtype}.",)
    if published.bytes and header.bytes != published.bytes:
        return (f"Has {header.bytes:,} bytes; the published file has {published.bytes:,}.",)
    return ()


def describe(identity: Identity) -> str:
    """Describes an identity in a phrase: family, dtype and parts."""
    if identity.foreign is not None:
        return f"{identity.foreign.label}: belongs to {identity.foreign.owner}"
    if identity.family == "unknown":
        return "not a supported model"
    parts = " + ".join(part.replace("_", " ") for part in identity.parts)
    decoder = f" ({identity.decoder} decoder)" if identity.decoder else ""
    return f"{identity.family}, {identity.dtype}, {parts}{decoder}"
