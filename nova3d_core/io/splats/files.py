"""Reads and writes files of Gaussian splats, by the suffix of the file name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...conventions import UpAxis
from ...errors import InputError
from ...splats import Splats
from ..files.atomic import OutputExistsError, atomic_file, check_can_write_file
from ..files.ownership import reject_foreign_file
from .axes import splats_from_y_up, splats_to_y_up
from .dot_splat import parse_dot_splat, splats_to_dot_splat
from .ply import parse_splat_ply, splats_to_ply

MAX_BYTES = 1 << 31
"""Largest file that is read: about 8 million splats with, 30 million without harmonics."""
_PARSERS: dict[str, Callable[[bytes], Splats]] = {
    ".ply": parse_splat_ply,
    ".splat": parse_dot_splat,
}
_ENCODERS: dict[str, Callable[[Splats], bytes]] = {
    ".ply": splats_to_ply,
    ".splat": splats_to_dot_splat,
}
SPLAT_SUFFIXES = tuple(_PARSERS)


def read_splats(path: Path | str, up_axis: UpAxis = "+Y") -> Splats:
    """Reads a file of Gaussian splats.

    Args:
        path: a .ply file with the properties of 3D Gaussian splatting, or a .splat file.
        up_axis: of the file; the result has +Y up. Viewers expect -Y.

    Raises:
        InputError: the file is missing, empty, too large, truncated or damaged, has an unknown
            suffix or NaN, or contains a mesh or a point cloud. The message names the file.
    """
    path = Path(path)
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise _unknown_suffix_error(path)
    with _named(path):
        if not path.is_file():
            raise InputError("it does not exist.")
        size = path.stat().st_size
        if size == 0:
            raise InputError("it is empty.")
        if size > MAX_BYTES:
            raise InputError(f"it has {size >> 20} MiB, more than {MAX_BYTES >> 20} MiB.")
        return splats_to_y_up(parse(path.read_bytes()), up_axis)


def write_splats(
    splats: Splats, path: Path | str, overwrite: bool = False, up_axis: UpAxis = "+Y"
) -> Path:
    """Writes splats as .ply or .splat, by the suffix of the file name.

    Args:
        splats: the splats. `.splat` stores colours, opacities and rotations in 8 bits.
        path: the file.
        overwrite: replace a .ply file that an earlier run wrote. A .splat file cannot store who
            wrote it, so it is never replaced.
        up_axis: of the file, for splats with +Y up. Viewers expect -Y.

    Raises:
        InputError: the suffix is unknown, the file exists, or the path cannot be written.
    """
    path = Path(path)
    encode = _ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise _unknown_suffix_error(path)
    is_marked = path.suffix.lower() == ".ply"
    if overwrite and not is_marked and path.exists():
        raise OutputExistsError(
            f"{path} exists, and .splat files are never replaced.", "Choose another name."
        )
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(encode(splats_from_y_up(splats, up_axis)))
        if is_marked:
            reject_foreign_file(path.resolve())
    return path


def check_can_write_splats(
    path: Path, overwrite: bool, inputs: Collection[Path | None] = ()
) -> None:
    """Raises InputError unless `write_splats` can write to a path; called before long work.

    Args:
        path: the file.
        overwrite: whether a .ply file of an earlier run may be replaced.
        inputs: files and folders that the command reads; they are never replaced.
    """
    if path.suffix.lower() not in _ENCODERS:
        raise _unknown_suffix_error(path)
    check_can_write_file(path, overwrite, inputs)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Prefixes errors with the file they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"splat file {path}: {error.message}", error.hint) from error
    except OSError as error:
        raise InputError(f"splat file {path} cannot be read: {error.strerror}.") from error


def _unknown_suffix_error(path: Path) -> InputError:
    return InputError(
        f"{path} has an unknown format of splats.", f"Use one of {', '.join(SPLAT_SUFFIXES)}."
    )
