"""Finds companion files with the VAE or image encoder that a model's file does not contain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ...progress import SILENT, Progress
from ..files.inspect import is_model_name
from .built_in import BUILT_IN_NAME, built_in_file
from .layouts_2d import FAMILY_BY_CLASS_DIM, STABLE_DIFFUSION
from .locate import FoundFile, default_folders, find_models, inspect_file
from .registry import IMAGE_ENCODER, UNET, VAE

UNET_FOLDERS = ("unet", "mvdiffusion")
"""Folders of the UNet in the diffusers layout; the second is Wonder3D++'s."""
PART_FOLDERS = {UNET: "unet", VAE: "vae", IMAGE_ENCODER: "image_encoder"}
"""Folder of each part in the diffusers layout."""

_PART_SOURCES = {
    VAE: "svd_xt.safetensors, or a folder 'vae' next to the folder 'unet'",
    IMAGE_ENCODER: "svd_xt.safetensors, or a folder 'image_encoder' next to the folder 'unet'",
}


def resolve_unet_file(path: Path | str) -> Path:
    """Resolves a path to the UNet's file: the path itself, or the UNet in a diffusers folder.

    `BUILT_IN_NAME` resolves to the model that ships with the package, unless a file has that
    name.

    Raises:
        InputError: the folder has no UNet, or the built-in model was named and is missing.
    """
    given, path = path, Path(path).expanduser()
    if str(given) == BUILT_IN_NAME and not path.exists():
        return built_in_file()
    if not path.is_dir():
        return path
    inside = (path / name for name in UNET_FOLDERS)
    folder = next((each for each in inside if each.is_dir()), path)
    files = _model_files(folder)
    if not files:
        raise InputError(
            f"{path} is a folder without a UNet: {folder} has no model file."
            if folder != path
            else f"{path} is a folder without a UNet.",
            "Pass a model's file, or a folder with the subfolders unet, vae and image_encoder.",
        )
    return files[0]


def find_companion(
    path: Path, part: str, folders: Sequence[Path | str] = (), progress: Progress = SILENT
) -> Path:
    """Finds a file with a part that the model's own file does not contain.

    Searches, in this order: the part's folder next to the model's folder (diffusers layout), the
    folder of the model's file, and the model folders.

    Args:
        path: of the model's file.
        part: VAE or IMAGE_ENCODER.
        folders: of models; `locate.default_folders()` if empty.
        progress: reports each inspected file.

    Raises:
        InputError: there is none; says which file to put where.
        Cancelled: the user cancelled.
    """
    siblings = _model_files(path.parent.parent / PART_FOLDERS[part])
    if siblings and path.parent.name == PART_FOLDERS[UNET]:
        return min(siblings, key=lambda file: _is_fp16(file) != _is_fp16(path))
    same_folder = [inspect_file(file) for file in _model_files(path.parent)]
    candidates = _rank_candidates(path, same_folder, part)
    if candidates:
        return candidates[0].path
    searched = default_folders(folders)
    candidates = _rank_candidates(path, find_models(searched, progress) if searched else [], part)
    if candidates:
        return candidates[0].path
    name = part.replace("_", " ").replace("vae", "VAE")
    elsewhere = "".join(f" or below {folder}" for folder in searched)
    raise InputError(
        f"{path} has no {name}, and none was found next to it{elsewhere}.",
        f"Put {_PART_SOURCES[part]}, into models/checkpoints or next to it "
        "(`python -m nova3d_core models` shows where they are published).",
    )


def find_folder_companion(path: Path, part: str) -> Path:
    """Finds a part of Wonder3D in the folder of the model.

    Only the folder shows that a VAE or image encoder belongs to the model: those of other Stable
    Diffusion models have the same keys.

    Args:
        path: of the UNet's file, MODEL/unet/FILE.
        part: VAE or IMAGE_ENCODER.

    Raises:
        InputError: it is missing; names the file.
    """
    name = PART_FOLDERS[part]
    model = path.parent.parent
    files = _model_files(model / name) or _model_files(path.parent / name)
    if files:
        return min(files, key=lambda file: _is_fp16(file) != _is_fp16(path))
    file = "pytorch_model.bin" if part == IMAGE_ENCODER else "diffusion_pytorch_model.bin"
    expected = model / name / file
    raise InputError(
        f"{path} needs the {part.replace('_', ' ').replace('vae', 'VAE')} of its model, but "
        f"{expected} (or .safetensors) is missing.",
        "Download the whole folder of the model: unet, vae and image_encoder.",
    )


def _rank_candidates(path: Path, files: Sequence[FoundFile], part: str) -> list[FoundFile]:
    """The files with the part, best first: the part alone, the same dtype, the smallest."""
    candidates = [
        file
        for file in files
        if file.identity
        and file.family not in ("unknown", STABLE_DIFFUSION, *FAMILY_BY_CLASS_DIM.values())
        and part in file.identity.parts
        and file.path != path
    ]

    def rank(file: FoundFile) -> tuple[bool, bool, int]:
        return (
            len(file.identity.parts) > 1,
            _is_fp16(file.path) != _is_fp16(path),
            file.bytes,
        )

    return sorted(candidates, key=rank)


def _is_fp16(path: Path) -> bool:
    """True if the file has the name of a diffusers fp16 variant."""
    return ".fp16." in path.name


def _model_files(folder: Path) -> list[Path]:
    """The model files of a folder by name: safetensors first, float32 before float16."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    files = [folder / name for name in names if is_model_name(name)]
    return sorted(
        (file for file in files if file.is_file()),
        key=lambda file: (file.suffix != ".safetensors", _is_fp16(file), file.name),
    )
