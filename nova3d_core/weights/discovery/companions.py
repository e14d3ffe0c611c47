"""Finds the parts of a model that its file lacks: beside it, or in the folders of models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...progress import SILENT, Progress
from ..files.inspect import is_model_name
from .built_in import NAME, built_in_file
from .locate import FoundFile, default_folders, find_models, inspect_file
from .registry import IMAGE_ENCODER, UNET, VAE

PART_FOLDERS = {UNET: "unet", VAE: "vae", IMAGE_ENCODER: "image_encoder"}
"""The folders of a model in the diffusers layout."""

_WHERE_FROM = {
    VAE: "svd_xt.safetensors, or a folder 'vae' beside the folder 'unet'",
    IMAGE_ENCODER: "svd_xt.safetensors, or a folder 'image_encoder' beside the folder 'unet'",
}


def resolve_unet_file(path: Path | str) -> Path:
    """The file to load: the path itself, or the UNet inside a folder in the diffusers layout.

    `built_in.NAME` stands for the model that ships with the package, unless a file has that name.

    Raises:
        InputError: the folder holds no UNet, or the built-in model is meant and missing.
    """
    given, path = path, Path(path).expanduser()
    if str(given) == NAME and not path.exists():
        return built_in_file()
    if not path.is_dir():
        return path
    inside = path / PART_FOLDERS[UNET]
    files = _model_files(inside if inside.is_dir() else path)
    if not files:
        raise InputError(
            f"{path} is a folder without a UNet.",
            "Name a model's file, or a folder with the folders unet, vae and image_encoder.",
        )
    return files[0]


def find_companion(
    path: Path, part: str, folders: Sequence[Path | str] = (), progress: Progress = SILENT
) -> Path:
    """A file that holds a part which the model's own file lacks.

    Looked for, in this order: in the part's folder beside the model's folder (diffusers layout),
    among the files beside the model, below the folders.

    Args:
        path: the model's file.
        part: VAE or IMAGE_ENCODER.
        folders: where models lie; `locate.default_folders()` if empty.
        progress: reports each file looked at.

    Raises:
        InputError: there is none; says which file to put where.
        Cancelled: the user asked to stop.
    """
    siblings = _model_files(path.parent.parent / PART_FOLDERS[part])
    if siblings and path.parent.name == PART_FOLDERS[UNET]:
        return min(siblings, key=lambda file: _is_half(file) != _is_half(path))
    beside = [inspect_file(file) for file in _model_files(path.parent)]
    fitting = _fitting(path, beside, part)
    if fitting:
        return fitting[0].path
    places = default_folders(folders)
    fitting = _fitting(path, find_models(places, progress) if places else [], part)
    if fitting:
        return fitting[0].path
    name = part.replace("_", " ").replace("vae", "VAE")
    searched = "".join(f", nor below {place}" for place in places)
    raise InputError(
        f"{path} holds no {name}, and none lies beside it{searched}.",
        f"Put {_WHERE_FROM[part]}, into models/checkpoints or beside it "
        "(`python -m nova3d_core models` says where they are published).",
    )


def _fitting(path: Path, files: Sequence[FoundFile], part: str) -> list[FoundFile]:
    """The files with the part, the most alike first: same number format, then least to read."""
    holding = [
        file
        for file in files
        if file.identity
        and file.family != "unknown"
        and part in file.identity.parts
        and file.path != path
    ]

    def rank(file: FoundFile) -> tuple[bool, bool, int]:
        return (
            len(file.identity.parts) > 1,
            _is_half(file.path) != _is_half(path),
            file.bytes,
        )

    return sorted(holding, key=rank)


def _is_half(path: Path) -> bool:
    """True if diffusers' name says that the file is in float16."""
    return ".fp16." in path.name


def _model_files(folder: Path) -> list[Path]:
    """Files of a folder that are models by name, safetensors first, whole numbers before halves."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    files = [folder / name for name in names if is_model_name(name)]
    return sorted(
        (file for file in files if file.is_file()),
        key=lambda file: (file.suffix != ".safetensors", _is_half(file), file.name),
    )
