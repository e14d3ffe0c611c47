"""What users name in the host's input and output folders; nothing outside them is ever touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

_COLMAP_FOLDERS = ("images", "masks", "sparse", "stereo")
"""What lies in a COLMAP workspace and needs no look: images, often thousands, and the model."""
_DEEPEST = 4
"""Folders below the input folder are looked through this deep."""
_ASSETS = Path(__file__).resolve().parents[1] / "nova3d_core" / "assets"
EXAMPLE_VIEWS = {
    "example: knight": _ASSETS / "knight" / "views",
    "example: one image": _ASSETS / "image",
}
"""What a newcomer can load before the input folder holds anything; saved workflows name them."""
EXAMPLE_MESHES = {
    "example: knight": _ASSETS / "character_knight.glb",
    "example: knight, fused": _ASSETS / "knight" / "fused.glb",
}
"""The same for meshes: the object, and what a fusion of its views gave."""


def view_folders() -> list[str]:
    """The examples, then folders under the input folder that hold views, "." for itself."""
    return [*EXAMPLE_VIEWS, *_found(lambda folder, found: [folder] if found.layout else [])]


def mesh_files() -> list[str]:
    """The examples, then mesh files under the input folder that the core can read."""
    readable = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")

    def meshes(folder: str, found: _Listing) -> list[str]:
        names = [name for name in found.files if name.lower().endswith(readable)]
        return [str(PurePosixPath(folder) / name) for name in names]

    return [*EXAMPLE_MESHES, *_found(meshes)]


@dataclass(frozen=True)
class _Listing:
    """What a folder holds."""

    folders: Collection[str]
    files: Collection[str]

    @property
    def layout(self) -> str | None:
        """Which folder of views it is; None if the core reads none in it."""
        from ..nova3d_core.io.views.layouts import READABLE, layout_of

        layout = layout_of(self.folders, self.files)
        return layout if layout in READABLE else None


def _found(choose: Callable[[str, _Listing], list[str]]) -> list[str]:
    import folder_paths

    root = Path(folder_paths.get_input_directory())
    found: list[str] = []
    for folder, below, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        listing = _Listing(tuple(below), files)
        if len(relative.parts) >= _DEEPEST or (listing.layout == "transforms" and relative.parts):
            below.clear()  # what lies below views is their images, often thousands
        if listing.layout == "colmap":  # its other folders may hold a dense model or meshes
            below[:] = [name for name in below if name not in _COLMAP_FOLDERS]
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += choose(relative.as_posix(), listing)
    return sorted(found)


def views_path(name: str) -> Path:
    """The place of an example or of a folder under the input folder; see `input_path`."""
    return EXAMPLE_VIEWS.get(name) or input_path(name)


def mesh_path(name: str) -> Path:
    """The place of an example or of a file under the input folder; see `input_path`."""
    return EXAMPLE_MESHES.get(name) or input_path(name)


def input_path(name: str) -> Path:
    """The place of a name under the input folder.

    Raises:
        InputError: an absolute path, one with "..", or nothing of that name.
    """
    import folder_paths

    from ..nova3d_core.errors import InputError

    refuse_outside("the name", name, "input")
    path = Path(folder_paths.get_input_directory()) / name
    if not path.exists():
        raise InputError(
            f"'{name}' is not in ComfyUI's input folder (any more).",
            "Put it there, then refresh the node definitions (key R) and choose it.",
        )
    return path


def problem_with(check: Callable[..., object], *given: str | None) -> bool | str:
    """What the host wants of a node's validation: True, or the error's line.

    A value that comes through a link is not known yet: None, and the node itself will say it.
    """
    from ..nova3d_core.errors import InputError

    if any(value is None for value in given):
        return True
    try:
        check(*given)
    except InputError as error:
        return str(error)
    return True


def state_of(path: Path) -> str:
    """A text that changes when a file, or anything in a folder, changes."""
    entries = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts = []
    for entry in entries:
        seen = entry.stat()
        parts.append(f"{entry.relative_to(path.parent)} {seen.st_mtime_ns} {seen.st_size}")
    return "\n".join(parts)


@dataclass(frozen=True)
class Place:
    """A new name in the output folder."""

    folder: Path
    """Where the file is to be; it exists."""
    subfolder: str
    """The same, relative to the output folder, as the page wants it."""
    stem: str
    """The user's prefix with a number that is not taken."""

    @property
    def is_taken(self) -> bool:
        """Whether a file or folder has this name by now."""
        return self.stem in {name.split(".")[0] for name in os.listdir(self.folder)}

    def relative(self, ending: str = "") -> str:
        """The path of a file or folder here, relative to the output folder."""
        return (PurePosixPath(self.subfolder) / f"{self.stem}{ending}").as_posix()

    def shown(self, ending: str) -> dict[str, str]:
        """How the page and the history name a file here."""
        return {
            "filename": f"{self.stem}{ending}",
            "subfolder": self.subfolder,
            "type": "output",
        }

    def inside(self, folder: str, name: str) -> dict[str, str]:
        """The same for a file in a folder that has this name."""
        subfolder = (PurePosixPath(self.subfolder) / self.stem / folder).as_posix()
        return {"filename": name, "subfolder": subfolder, "type": "output"}


def write_new(prefix: str, write: Callable[[Place], object]) -> Place:
    """Writes under a new name in the output folder; another one if somebody takes it meanwhile.

    Args:
        prefix: see `output_place`.
        write: writes to a place; fails with an ExistsError if that is taken.
    """
    from ..nova3d_core.io.files.atomic import ExistsError

    while True:
        place = output_place(prefix)
        try:
            write(place)
        except ExistsError:
            if not place.is_taken:
                raise
        else:
            return place


def output_place(prefix: str) -> Place:
    """A name under the output folder that nothing has yet.

    Args:
        prefix: folders and the beginning of the name, with the host's %date% words.

    Raises:
        InputError: an empty or absolute prefix, or one with "..".
    """
    import folder_paths

    from ..nova3d_core.io.files.atomic import explained_write_errors

    check_prefix(prefix)
    output = folder_paths.get_output_directory()
    with explained_write_errors(Path(prefix)):
        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
        taken = {name.split(".")[0] for name in os.listdir(folder)}
    while f"{stem}_{counter:05}_" in taken:
        counter += 1
    subfolder = PurePosixPath(subfolder.replace(os.sep, "/")).as_posix()
    return Place(Path(folder), "" if subfolder == "." else subfolder, f"{stem}_{counter:05}_")


def check_prefix(prefix: str) -> None:
    """Raises InputError unless a prefix names something inside the output folder."""
    from ..nova3d_core.errors import InputError

    refuse_outside("filename_prefix", prefix, "output")
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        raise InputError(f"filename_prefix is '{prefix}', which names no file.", "Add a name.")


def refuse_outside(what: str, name: str, folder: str) -> None:
    """Raises InputError for absolute paths and ".." in the notation of any system."""
    from ..nova3d_core.errors import InputError

    windows = PureWindowsPath(name)
    outside = windows.drive or windows.root or name.startswith(("/", "~")) or "\0" in name
    if outside or ".." in windows.parts:
        raise InputError(
            f"{what} is '{name}', which is not inside ComfyUI's {folder} folder.",
            f"Use a name relative to the {folder} folder, without '..'.",
        )
