"""User-supplied names in ComfyUI's input and output folders; paths outside them are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from uuid import uuid4

_COLMAP_SUBFOLDERS = ("images", "masks", "sparse", "stereo")
"""Subfolders of a COLMAP workspace that are not searched: images, often thousands, and models."""
_MAX_SEARCH_DEPTH = 4
"""Depth to which the input folder is searched."""
_MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
_ASSETS = Path(__file__).resolve().parents[1] / "nova3d_core" / "assets"
EXAMPLE_VIEWS = {
    "example: knight": _ASSETS / "knight" / "views",
    "example: one image": _ASSETS / "image",
}
"""Shipped view folders, by the names that saved workflows use."""
EXAMPLE_MESHES = {
    "example: knight": _ASSETS / "character_knight.glb",
    "example: knight, fused": _ASSETS / "knight" / "fused.glb",
}
"""Shipped meshes: the original object, and the mesh fused from its views."""


def list_view_folders() -> list[str]:
    """The examples, then the view folders inside the input folder; "." is the input folder."""

    def select(folder: str, listing: _Listing) -> list[str]:
        return [folder] if listing.layout else []

    return [*EXAMPLE_VIEWS, *_search_input_folder(select)]


def list_mesh_files() -> list[str]:
    """The examples, then the mesh files inside the input folder that the core can read."""

    def select(folder: str, listing: _Listing) -> list[str]:
        names = [name for name in listing.files if name.lower().endswith(_MESH_SUFFIXES)]
        return [str(PurePosixPath(folder) / name) for name in names]

    return [*EXAMPLE_MESHES, *_search_input_folder(select)]


@dataclass(frozen=True)
class _Listing:
    """Contents of a folder."""

    subfolders: Collection[str]
    files: Collection[str]

    @property
    def layout(self) -> str | None:
        """Layout of a view folder; None if the core cannot read the folder as views."""
        from ..nova3d_core.io.views.layouts import READABLE_LAYOUTS, detect_layout

        layout = detect_layout(self.subfolders, self.files)
        return layout if layout in READABLE_LAYOUTS else None


def _search_input_folder(select: Callable[[str, _Listing], list[str]]) -> list[str]:
    """Sorted names that `select` picks from each folder (relative path, listing)."""
    import folder_paths

    root = Path(folder_paths.get_input_directory())
    names: list[str] = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        listing = _Listing(tuple(subfolders), files)
        is_views = listing.layout == "transforms" and relative.parts
        if len(relative.parts) >= _MAX_SEARCH_DEPTH or is_views:
            subfolders.clear()  # below views there are only their images, often thousands
        if listing.layout == "colmap":  # its other subfolders may hold a dense model or meshes
            subfolders[:] = [name for name in subfolders if name not in _COLMAP_SUBFOLDERS]
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        names += select(relative.as_posix(), listing)
    return sorted(names)


def views_path(name: str) -> Path:
    """Path of an example or of a folder inside the input folder; see `input_path`."""
    return EXAMPLE_VIEWS.get(name) or input_path(name)


def mesh_path(name: str) -> Path:
    """Path of an example or of a file inside the input folder; see `input_path`."""
    return EXAMPLE_MESHES.get(name) or input_path(name)


def input_path(name: str) -> Path:
    """Path of a file or folder inside the input folder.

    Raises:
        InputError: an absolute name, a name with "..", or no such file or folder.
    """
    import folder_paths

    from ..nova3d_core.errors import InputError

    check_inside("the name", name, "input")
    path = Path(folder_paths.get_input_directory()) / name
    if not path.exists():
        raise InputError(
            f"'{name}' is not in ComfyUI's input folder (any more).",
            "Put it there, refresh the node definitions (key R), then select it.",
        )
    return path


def validation_result(check: Callable[..., object], *values: str | None) -> bool | str:
    """Return value of a node's `validate_inputs`: True, or the message of the check's InputError.

    The value of a linked input is None at validation time: it passes, and the node checks it again
    when it runs.
    """
    from ..nova3d_core.errors import InputError

    if any(value is None for value in values):
        return True
    try:
        check(*values)
    except InputError as error:
        return str(error)
    return True


def file_fingerprint(path: Path) -> str:
    """Text that changes whenever a file, or any file in a folder, changes: times and sizes."""
    entries = sorted(path.rglob("*")) if path.is_dir() else [path]
    lines = []
    for entry in entries:
        status = entry.stat()
        lines.append(f"{entry.relative_to(path.parent)} {status.st_mtime_ns} {status.st_size}")
    return "\n".join(lines)


@dataclass(frozen=True)
class OutputPath:
    """A new, numbered name in the output folder."""

    folder: Path
    """Existing parent folder."""
    subfolder: str
    """The parent folder relative to the output folder, as ComfyUI's page expects it."""
    stem: str
    """The user's prefix with an unused number."""

    @property
    def is_taken(self) -> bool:
        """Whether a file or folder of this name exists by now."""
        return self.stem in {name.split(".")[0] for name in os.listdir(self.folder)}

    def path(self, suffix: str = "") -> Path:
        """Path of a file or folder of this name."""
        return self.folder / f"{self.stem}{suffix}"

    def relative(self, suffix: str = "") -> str:
        """Path of a file or folder of this name, relative to the output folder."""
        return (PurePosixPath(self.subfolder) / f"{self.stem}{suffix}").as_posix()

    def ui_entry(self, suffix: str) -> dict[str, str]:
        """Entry for a file of this name in a node's UI output."""
        return {
            "filename": f"{self.stem}{suffix}",
            "subfolder": self.subfolder,
            "type": "output",
        }

    def ui_entry_inside(self, folder: str, name: str) -> dict[str, str]:
        """Entry for a file in a subfolder of the folder of this name."""
        subfolder = (PurePosixPath(self.subfolder) / self.stem / folder).as_posix()
        return {"filename": name, "subfolder": subfolder, "type": "output"}


def write_new_output(prefix: str, write: Callable[[OutputPath], object]) -> OutputPath:
    """Writes under a new name in the output folder; retries if the name is taken meanwhile.

    Args:
        prefix: see `new_output_path`.
        write: writes to the path; raises OutputExistsError if it exists.
    """
    from ..nova3d_core.io.files.atomic import OutputExistsError

    while True:
        path = new_output_path(prefix)
        try:
            write(path)
        except OutputExistsError:
            if not path.is_taken:
                raise
        else:
            return path


def new_output_path(prefix: str) -> OutputPath:
    """An unused name inside the output folder.

    Args:
        prefix: folders and start of the name; may contain ComfyUI's %date% placeholders.

    Raises:
        InputError: an empty or absolute prefix, or one with "..".
    """
    import folder_paths

    from ..nova3d_core.io.files.atomic import translate_os_errors

    check_prefix(prefix)
    output = folder_paths.get_output_directory()
    with translate_os_errors(Path(prefix)):
        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output)
        taken = {name.split(".")[0] for name in os.listdir(folder)}
    while f"{stem}_{counter:05}_" in taken:
        counter += 1
    subfolder = PurePosixPath(subfolder.replace(os.sep, "/")).as_posix()
    return OutputPath(Path(folder), "" if subfolder == "." else subfolder, f"{stem}_{counter:05}_")


def temporary_path(stem: str, suffix: str) -> Path:
    """A new name in ComfyUI's folder of temporary files, which it empties at start-up."""
    import folder_paths

    return Path(folder_paths.get_temp_directory()) / f"{stem}_{uuid4().hex}{suffix}"


def check_prefix(prefix: str) -> None:
    """Raises InputError unless a prefix names a file inside the output folder."""
    from ..nova3d_core.errors import InputError

    check_inside("filename_prefix", prefix, "output")
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        raise InputError(f"filename_prefix is '{prefix}', which contains no file name.", "Add one.")


def check_inside(label: str, name: str, folder: str) -> None:
    """Raises InputError for absolute paths and "..", in the notation of any operating system."""
    from ..nova3d_core.errors import InputError

    windows = PureWindowsPath(name)
    is_absolute = windows.drive or windows.root or name.startswith(("/", "~")) or "\0" in name
    if is_absolute or ".." in windows.parts:
        raise InputError(
            f"{label} is '{name}', which is not inside ComfyUI's {folder} folder.",
            f"Use a name relative to the {folder} folder, without '..'.",
        )
