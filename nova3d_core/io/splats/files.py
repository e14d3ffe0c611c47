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
from ..mesh.ply.elements import has_splat_properties, read_header
from .axes import splats_from_y_up, splats_to_y_up
from .dot_splat import RECORD_BYTES, parse_dot_splat, splats_to_dot_splat
from .memory import check_file_memory
from .ply import parse_splat_ply, splats_to_ply

MAX_EXTENT = 1e12
"""Limit of positions and scales. Values beyond come from damaged files, and overflow in float32."""
MAX_COLOUR = 1e3
"""Limit of colours, far beyond what spherical harmonics of other programs reach."""
_HEADER_BYTES = 1 << 18
"""Longest header of a PLY file that is searched for splats."""
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
        InputError: the file is missing, empty, truncated or damaged, does not fit into memory, has
            an unknown suffix, NaN or implausible values, or contains a mesh or a point cloud. The
            message names the file.
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
        check_file_memory(_splat_count(path, size), size)
        splats = parse(path.read_bytes())
        _check_plausible(splats)
        return splats_to_y_up(splats, up_axis)


def contains_splats(path: Path | str) -> bool:
    """Whether a file is read as splats: a .splat file, or a .ply file whose header names them.

    False for files that do not exist or are damaged, except .splat files.
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        return path.suffix.lower() in _PARSERS
    try:
        return is_splat_ply(_head(path))
    except OSError:
        return False


def is_splat_ply(content: bytes) -> bool:
    """Whether the header of a PLY file names the properties of splats; False if it is damaged."""
    try:
        header = read_header(content)
    except InputError:
        return False
    names = {each.name for element in header.elements for each in element.properties}
    return has_splat_properties(names)


def _splat_count(path: Path, size: int) -> int:
    """Number of splats that a file declares, at most what its size can hold; 0: unknown."""
    if path.suffix.lower() == ".splat":
        return size // RECORD_BYTES
    try:
        header = read_header(_head(path))
    except InputError:  # raised again by the parser
        return 0
    counts = [element.count for element in header.elements if element.name == "vertex"]
    return min(counts[0], size) if counts else 0


def _head(path: Path) -> bytes:
    """The beginning of a file, without a byte order mark."""
    with path.open("rb") as stream:
        return stream.read(_HEADER_BYTES).removeprefix(b"\xef\xbb\xbf")


def _check_plausible(splats: Splats) -> None:
    """Raises InputError for values that only damaged files have."""
    limits = {"positions": MAX_EXTENT, "scales": MAX_EXTENT, "colours": MAX_COLOUR}
    for name, limit in limits.items():
        largest = float(getattr(splats, name).abs().max())
        if largest > limit:
            raise InputError(
                f"its {name} reach {largest:.3g}, expected at most {limit:g}.",
                "It may be damaged: copy or export it again.",
            )


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
    _check_is_replaceable(path)
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(encode(splats_from_y_up(splats, up_axis)))
        if _is_marked(path):
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
    _check_is_replaceable(path)
    check_can_write_file(path, overwrite, inputs)


def _is_marked(path: Path) -> bool:
    """Whether files of this suffix store which program wrote them."""
    return path.suffix.lower() == ".ply"


def _check_is_replaceable(path: Path) -> None:
    """Raises OutputExistsError for an existing file that `overwrite` does not replace, either."""
    if not _is_marked(path) and path.is_file():
        raise OutputExistsError(
            f"{path} exists, and .splat files are never replaced: their writer is unknown.",
            "Choose another name, or remove the file.",
        )


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
