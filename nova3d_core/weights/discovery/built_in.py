"""The small model that ships with this package, and the lookup of model files by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from .registry import PUBLISHED_FILES

BUILT_IN_NAME = "nova3d-mini"
"""Its name for users; a key of `diffusion.families.FAMILIES`."""
FILE = Path(__file__).resolve().parents[2] / "assets" / f"{BUILT_IN_NAME}.safetensors"
"""Its path in a complete package."""
RECOMMENDED = ("sv3d_p.safetensors", "V3D.ckpt")
"""Published models that were trained on realistic objects, the best first."""


def is_shipped() -> bool:
    """Whether this copy of the package contains the model."""
    return FILE.is_file()


def built_in_file() -> Path:
    """The built-in model's file.

    Raises:
        InputError: this copy of the package does not contain it.
    """
    if not is_shipped():
        raise InputError(
            f"the built-in model {BUILT_IN_NAME} is not in this copy of the package: {FILE} is "
            "missing.",
            "Install a release of the package, or choose another model; "
            "`python -m nova3d_core models` lists them.",
        )
    return FILE


def recommended_files() -> str:
    """A sentence that recommends models for photographs."""
    files = [
        published for name in RECOMMENDED for published in PUBLISHED_FILES if published.name == name
    ]
    offers = " or ".join(f"{each.name} ({each.gigabytes:g} GB, {each.source})" for each in files)
    return (
        f"For photographs use {offers}, or a full-size NOVA3D model; "
        "`python -m nova3d_core models` shows where to put the files."
    )


def resolve_model_file(name: Path | str, folders: Sequence[Path | str] = ()) -> Path:
    """Resolves a model's name to a file or folder.

    Args:
        name: a path, `BUILT_IN_NAME`, or a file name to search below the folders.
        folders: of models; `locate.default_folders()` if empty.

    Returns:
        The path; the name itself if nothing was found, so that loading reports it.

    Raises:
        InputError: the built-in model was named and is missing, or a folder does not exist.
    """
    from .locate import default_folders  # `--help` needs the names above only

    path = Path(name).expanduser()
    if path.exists() or path.is_absolute():
        return path
    if str(name) == BUILT_IN_NAME:
        return built_in_file()
    for folder in default_folders(folders):
        found = sorted(folder.rglob(path.name)) if folder.is_dir() else []
        if found:
            return found[0]
    return path
