"""Multi-view and reconstruction models in ComfyUI's folders, detected from the file headers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ..nova3d_core.diffusion.families import FAMILIES, SCENE_FAMILY
from ..nova3d_core.weights.discovery.built_in import BUILT_IN_NAME, built_in_file, is_shipped
from ..nova3d_core.weights.discovery.layouts_2d import KEY_MARKERS
from ..nova3d_core.weights.discovery.registry import (
    PUBLISHED_FILES,
    RECONSTRUCTION,
    UNET,
    PublishedFile,
)
from ..nova3d_core.weights.files.inspect import (
    MAX_HEADER_BYTES,
    MODEL_SUFFIXES,
    SAFETENSORS_SUFFIXES,
)

if TYPE_CHECKING:
    from ..nova3d_core.weights.discovery.layouts import Identity

logger = logging.getLogger(__name__)

OWN_FOLDER = "nova3d"
"""The pack's own folder inside ComfyUI's `models`."""
MODEL_FOLDERS = (OWN_FOLDER, "checkpoints", "diffusion_models")
"""ComfyUI's folder types that are searched for models, in this order."""
COMPANION_FOLDERS = ("clip_vision", "vae")
"""Further folder types that may provide the image encoder or VAE of an incomplete checkpoint."""
BUILT_IN = f"{BUILT_IN_NAME} (built in)"
"""Name of the shipped model in workflows."""
NONE_FOUND = "none found: see the node's help"
_KEY_MARKERS = (
    b"time_stack.",
    b"temporal_res_block.",
    b"unet.mid_block.nets.",  # LGM
    *(marker.encode() for marker in KEY_MARKERS),
)
"""Every supported model contains one of these in its header; hardly any other does."""

_header_cache: dict[Path, tuple[tuple[int, int], Identity | None]] = {}
"""Path -> modification time and size when the header was read, and the model if supported."""


def register_folder() -> None:
    """Registers our folder with ComfyUI, in addition to paths of extra_model_paths.yaml."""
    import folder_paths

    registry = folder_paths.folder_names_and_paths
    folders, suffixes = registry.get(OWN_FOLDER, ([], set()))
    own = os.path.join(folder_paths.models_dir, OWN_FOLDER)
    folders = [*folders, *([] if own in folders else [own])]
    registry[OWN_FOLDER] = (folders, {*suffixes, *MODEL_SUFFIXES})


def model_search_folders() -> list[Path]:
    """All existing folders that may contain a model or its parts."""
    import folder_paths

    registry = folder_paths.folder_names_and_paths
    folder_types = [key for key in (*MODEL_FOLDERS, *COMPANION_FOLDERS) if key in registry]
    folders = dict.fromkeys(folder for key in folder_types for folder in registry[key][0])
    return [Path(folder) for folder in folders if os.path.isdir(folder)]


def own_model_folders() -> list[Path]:
    """The existing folders of the pack's own type, models/nova3d and those of extra paths."""
    import folder_paths

    folders = folder_paths.folder_names_and_paths.get(OWN_FOLDER, ([], set()))[0]
    return [Path(folder) for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def list_models() -> list[str]:
    """Names of the available multi-view and reconstruction models, as workflows store them.

    Never empty.
    """
    built_in = [BUILT_IN] if is_shipped() else []
    files = [name for name, path in _all_files() if supported_model(path) is not None]
    return [*built_in, *files] or [NONE_FOUND]


def model_path(name: str) -> Path:
    """Path of the built-in model or of any file in the model folders.

    Raises:
        InputError: no file has that name; the message says what to download.
    """
    from ..nova3d_core.errors import InputError

    if name == BUILT_IN:
        return built_in_file()
    path = dict(_all_files()).get(PurePath(name).as_posix())
    if path is None:
        problem = "no multi-view model is selected." if name == NONE_FOUND else (
            f"'{name}' is not in ComfyUI's model folders (any more)."
        )  # fmt: skip
        raise InputError(problem, download_hint(name))
    return path


def download_hint(name: str) -> str:
    """Where to download the model of that name, or any model, and where to put it."""
    available = [
        known
        for known in PUBLISHED_FILES
        if RECONSTRUCTION in known.parts
        or (
            known.family in FAMILIES
            and (_is_full_checkpoint(known) or _is_in_folder(known) or _is_pair(known))
        )
    ]
    file_name = PurePath(name).name.lower()
    of_that_name = [known for known in available if file_name in _lower_names(known)]
    # SV3D p can do what SV3D u does
    generators = [
        known for known in available if RECONSTRUCTION not in known.parts and not _is_pair(known)
    ]
    shown = of_that_name or [known for known in generators if known.family != "sv3d_u"]
    downloads = "; ".join(map(_download_text, shown))
    return (
        f"Download {downloads}. Put it there in ComfyUI's models folder, press R on the page, and "
        "select it. NOVA3D has no public weights: checkpoints trained with this pack go into "
        f"models/{OWN_FOLDER}."
    )


def _lower_names(known: PublishedFile) -> set[str]:
    return {name.lower() for name in (known.name, *known.aliases)}


def _is_full_checkpoint(known: PublishedFile) -> bool:
    return UNET in known.parts and len(known.parts) > 1


def _is_in_folder(known: PublishedFile) -> bool:
    """Whether the file is the UNet of a folder that holds a whole model: Wonder3D's."""
    return known.family == "wonder3d" and known.parts == (UNET,)


def _is_pair(known: PublishedFile) -> bool:
    """Whether the file needs a reconstruction model next to it: Ouroboros3D's UNet."""
    return known.family == "ouroboros3d" and known.parts == (UNET,)


def _download_text(known: PublishedFile) -> str:
    size = f"{known.gigabytes:g} GB, " if known.gigabytes else ""
    terms = ", accept its terms there first" if known.gated else ""
    if _is_in_folder(known):
        folder = known.source.rsplit("/", 1)[-1]
        return f"the folder {known.source} (Hugging Face) into {known.folder}/{folder}"
    is_complete = "image_encoder" in known.parts or RECONSTRUCTION in known.parts
    needs = "" if is_complete else " and svd_xt.safetensors into checkpoints"
    pair = " with recon_model.pth" if _is_pair(known) else ""
    return (
        f"{known.name} ({size}{known.source} on Hugging Face{terms}) into "
        f"{known.folder}{pair}{needs}"
    )


def _all_files() -> Iterator[tuple[str, Path]]:
    """Names and paths of all files in the model folders; duplicates get their folder as prefix."""
    import folder_paths

    names: set[str] = set()
    paths: set[str] = set()
    for folder_type in MODEL_FOLDERS:
        for relative in folder_paths.get_filename_list(folder_type):
            path = folder_paths.get_full_path(folder_type, relative)
            if path is None or path in paths or not relative.lower().endswith(MODEL_SUFFIXES):
                continue
            paths.add(path)
            name = PurePath(relative).as_posix()
            name = f"{folder_type}/{name}" if name in names else name
            names.add(name)
            yield name, Path(path)


def supported_model(path: Path) -> Identity | None:
    """The multi-view or reconstruction model in a file, or None; its header is read once."""
    try:
        status = path.stat()
    except OSError:
        return None
    stamp = (status.st_mtime_ns, status.st_size)
    cached = _header_cache.get(path)
    if cached is None or cached[0] != stamp:
        cached = _header_cache[path] = (stamp, _read_identity(path))
    return cached[1]


def _read_identity(path: Path) -> Identity | None:
    from ..nova3d_core.weights.discovery.locate import inspect_file

    if not _header_may_match(path):
        return None
    file = inspect_file(path)
    if file.problem:
        logger.info("NOVA3D: not listed: %s", file.problem)
    identity = file.identity
    if identity is None:
        return None
    families = (*FAMILIES, SCENE_FAMILY.name)
    generates_views = identity.family in families and UNET in identity.parts
    return identity if generates_views or RECONSTRUCTION in identity.parts else None


def _header_may_match(path: Path) -> bool:
    """Cheap test that rules out other models, of which there are often hundreds."""
    if path.suffix.lower() not in SAFETENSORS_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, MAX_HEADER_BYTES))
    except OSError:
        return False
    return any(marker in header for marker in _KEY_MARKERS)
