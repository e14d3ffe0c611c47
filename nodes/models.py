"""Which multi-view models lie in the host's model folders, told from their headers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from ..nova3d_core.diffusion.families import FAMILIES
from ..nova3d_core.weights.discovery.built_in import NAME, built_in_file, is_shipped
from ..nova3d_core.weights.discovery.registry import KNOWN_FILES, UNET, KnownFile
from ..nova3d_core.weights.files.inspect import (
    MAX_HEADER_BYTES,
    MODEL_SUFFIXES,
    SAFETENSORS_SUFFIXES,
)

logger = logging.getLogger(__name__)

FOLDER = "nova3d"
"""Our own folder below the host's `models`."""
FOLDERS = (FOLDER, "checkpoints", "diffusion_models")
"""The host's kinds of folders that are looked through, in this order."""
LENDING = ("clip_vision", "vae")
"""Further ones that may lend an image encoder or a VAE to a model without its own."""
BUILT_IN = f"{NAME} (built in)"
"""What workflows call the model that ships with the pack."""
NONE_FOUND = "none found: see the node's help"
_MARKS = (b"time_stack.", b"temporal_res_block.")
"""One of these stands in every header of ours, and hardly in another."""

_told: dict[Path, tuple[tuple[int, int], bool]] = {}
"""By path: time and size of the file when its header was read, and whether it is ours."""


def register_folder() -> None:
    """Tells the host of our folder, beside places that extra_model_paths.yaml gives it."""
    import folder_paths

    known = folder_paths.folder_names_and_paths
    places, endings = known.get(FOLDER, ([], set()))
    own = os.path.join(folder_paths.models_dir, FOLDER)
    places = [*places, *([] if own in places else [own])]
    known[FOLDER] = (places, {*endings, *MODEL_SUFFIXES})


def places() -> list[Path]:
    """All folders in which parts of a model may lie; they exist."""
    import folder_paths

    known = folder_paths.folder_names_and_paths
    listed = [place for key in (*FOLDERS, *LENDING) if key in known for place in known[key][0]]
    return [Path(place) for place in dict.fromkeys(listed) if os.path.isdir(place)]


def model_names() -> list[str]:
    """The models that can paint views, by the names that workflows keep; never empty."""
    built_in = [BUILT_IN] if is_shipped() else []
    found = [name for name, path in _all_files() if _is_ours(path)]
    return [*built_in, *found] or [NONE_FOUND]


def model_path(name: str) -> Path:
    """The place of the built-in model, or of a file of the model folders, whatever it holds.

    Raises:
        InputError: there is none of that name; says what to download.
    """
    from ..nova3d_core.errors import InputError

    if name == BUILT_IN:
        return built_in_file()
    path = dict(_all_files()).get(PurePath(name).as_posix())
    if path is None:
        missing = "no multi-view model was chosen." if name == NONE_FOUND else (
            f"'{name}' is not in ComfyUI's model folders (any more)."
        )  # fmt: skip
        raise InputError(missing, what_to_do(name))
    return path


def what_to_do(name: str) -> str:
    """Where to get a model of that name, or any, and where to put it."""
    loadable = [each for each in KNOWN_FILES if each.family in FAMILIES and _is_whole(each)]
    wanted = PurePath(name).name.lower()
    named = [each for each in loadable if wanted in _names(each)]
    offers = "; ".join(map(_offer, named or loadable))
    return (
        f"Get {offers}. Put it there below ComfyUI's folder models, press R on the page, and "
        "choose it. NOVA3D has no public weights: files that were trained with this pack go into "
        f"models/{FOLDER}."
    )


def _names(known: KnownFile) -> set[str]:
    return {each.lower() for each in (known.name, *known.aliases)}


def _is_whole(known: KnownFile) -> bool:
    return UNET in known.parts and len(known.parts) > 1


def _offer(known: KnownFile) -> str:
    size = f"{known.gigabytes:g} GB, " if known.gigabytes else ""
    terms = ", agree to its terms there first" if known.gated else ""
    needs = "" if "image_encoder" in known.parts else " and svd_xt.safetensors into checkpoints"
    return f"{known.name} ({size}{known.source} on Hugging Face{terms}) into {known.folder}{needs}"


def _all_files() -> Iterator[tuple[str, Path]]:
    """Names and paths of all files in the model folders; a name that is taken gets its folder."""
    import folder_paths

    taken: set[str] = set()
    seen: set[str] = set()
    for key in FOLDERS:
        for name in folder_paths.get_filename_list(key):
            full = folder_paths.get_full_path(key, name)
            if full is None or full in seen or not name.lower().endswith(MODEL_SUFFIXES):
                continue
            seen.add(full)
            shown = PurePath(name).as_posix()
            shown = f"{key}/{shown}" if shown in taken else shown
            taken.add(shown)
            yield shown, Path(full)


def _is_ours(path: Path) -> bool:
    """Whether a file holds a model that can paint views; asked of its header once."""
    try:
        state = path.stat()
    except OSError:
        return False
    stamp = (state.st_mtime_ns, state.st_size)
    known = _told.get(path)
    if known is None or known[0] != stamp:
        known = _told[path] = (stamp, _paints_views(path))
    return known[1]


def _paints_views(path: Path) -> bool:
    from ..nova3d_core.weights.discovery.locate import look_at

    if not _may_be_ours(path):
        return False
    found = look_at(path)
    if found.problem:
        logger.info("NOVA3D: not offered: %s", found.problem)
    identity = found.identity
    return identity is not None and identity.family in FAMILIES and UNET in identity.parts


def _may_be_ours(path: Path) -> bool:
    """A quick look, as folders often hold hundreds of models of other kinds."""
    if path.suffix.lower() not in SAFETENSORS_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, MAX_HEADER_BYTES))
    except OSError:
        return False
    return any(mark in header for mark in _MARKS)
