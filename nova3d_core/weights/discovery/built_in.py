"""The small model that ships inside this package, and files named as users name them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from .locate import default_folders
from .registry import KNOWN_FILES

NAME = "nova3d-mini"
"""What users call it; a key of `diffusion.families.FAMILIES`."""
FILE = Path(__file__).resolve().parents[2] / "assets" / f"{NAME}.safetensors"
"""Where it lies, in a complete package."""
RECOMMENDED = ("sv3d_p.safetensors", "V3D.ckpt")
"""Published files that know images of real things, the better one first."""


def is_shipped() -> bool:
    """Whether this copy of the package holds the model."""
    return FILE.is_file()


def built_in_file() -> Path:
    """The built-in model's file.

    Raises:
        InputError: this copy of the package lacks it.
    """
    if not is_shipped():
        raise InputError(
            f"the built-in model {NAME} is not in this copy of the package: {FILE} is missing.",
            "Install a release of the package, or name the file of another model; "
            "`python -m nova3d_core models` lists them.",
        )
    return FILE


def recommended_files() -> str:
    """What to take for images of real things, in one sentence."""
    named = [known for name in RECOMMENDED for known in KNOWN_FILES if known.name == name]
    offers = " or ".join(f"{each.name} ({each.gigabytes:g} GB, {each.source})" for each in named)
    return (
        f"For photographs take {offers}, or a NOVA3D that was trained at full size; "
        "`python -m nova3d_core models` says where files belong."
    )


def resolve_model_file(name: Path | str, folders: Sequence[Path | str] = ()) -> Path:
    """The file or folder that a user means.

    Args:
        name: a path, `NAME` for the built-in model, or a name to look for below the folders.
        folders: where models lie; `locate.default_folders()` if empty.

    Returns:
        What was found; the name itself if nothing was, which loading then explains.

    Raises:
        InputError: the built-in model is meant and missing, or a folder does not exist.
    """
    path = Path(name).expanduser()
    if path.exists() or path.is_absolute():
        return path
    if str(name) == NAME:
        return built_in_file()
    for place in default_folders(folders):
        found = sorted(place.rglob(path.name)) if place.is_dir() else []
        if found:
            return found[0]
    return path
