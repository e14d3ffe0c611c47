"""Reads Wavefront OBJ with its materials (MTL) as parts."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..mesh import Mesh
from .mesh_parts import (
    Material,
    Part,
    fan_triangles,
    fraction_colours,
    loaded_pieces,
    mesh_from_arrays,
    texture_beside,
)
from .srgb import linear_from_srgb

logger = logging.getLogger(__name__)

_OPTION_ARGUMENTS = {"-mm": 2, "-o": 3, "-s": 3, "-t": 3}
"""Options of an MTL texture that take more than one argument, and at most how many."""


class _Entry(NamedTuple):
    """What an MTL file says about one material."""

    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """sRGB, Kd."""
    texture: str | None = None
    """File name, map_Kd."""
    clamped: bool = False
    library: Path = Path()


def read_obj(path: Path) -> list[Part]:
    """The faces of an OBJ file, a part for each material in order of first use.

    trimesh reads the geometry. Materials are read here, because trimesh passes over a missing
    texture in silence and knows one MTL file at most and no texture options. A texture takes the
    place of the colour Kd, as in most programs. Polygons are cut into triangles.

    Raises:
        InputError: a texture is missing; or the MTL is, and the faces have texture coordinates.
    """
    from trimesh.exchange.obj import load_obj

    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    text = _with_absolute_indices(text)
    entries = _read_libraries(path, text)
    used = list(dict.fromkeys(" ".join(name.split()) for name in _arguments("usemtl", text)))
    picture = cache(texture_beside)  # materials that name one file share one copy
    material = cache(lambda name: _material(entries.get(name, _Entry()), picture))

    # trimesh tells apart only materials that an MTL defines, and hands on whatever it says there
    numbers = "\n".join(f"newmtl {name}\nnumber {number}" for number, name in enumerate(used))
    text = "mtllib numbers\n" + re.sub(r"(?m)^[ \t]*mtllib\b.*$", "", text)
    loaded = load_obj(io.BytesIO(text.encode()), resolver={"numbers": numbers.encode()})
    found = []
    for piece in loaded_pieces(loaded):
        kept = getattr(getattr(piece.get("visual"), "material", None), "kwargs", {})
        number = int(kept["number"][0]) if "number" in kept else -1
        name = used[number] if number >= 0 else ""
        if entries and name and name not in entries:
            logger.warning("%s uses the material '%s', which no MTL defines", path, name)
        part = Part(_mesh(piece), material(name))
        if part.material.texture is not None and not part.is_textured:
            logger.warning("%s: faces of '%s' have no texture coordinates", path, name)
        found.append((number, part))
    return [part for _, part in sorted(found, key=lambda entry: entry[0])]


def _mesh(piece: dict[str, Any]) -> Mesh:
    """The mesh of what trimesh found for one material."""
    vertices = piece["vertices"]
    uv = getattr(piece.get("visual"), "uv", None)
    if uv is not None:
        uv = np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)  # OBJ counts v from the bottom
    colours = piece.get("vertex_colors")
    return mesh_from_arrays(
        vertices,
        fan_triangles(piece["faces"]),
        uv if uv is not None and len(uv) == len(vertices) else None,
        piece.get("vertex_normals"),
        None if colours is None else fraction_colours(colours),
    )


def _arguments(keyword: str, text: str) -> list[str]:
    """What follows a keyword, for each line that starts with it."""
    return re.findall(rf"(?m)^[ \t]*{keyword}[ \t]+(.*\S)", text)


def _with_absolute_indices(text: str) -> str:
    """The text with negative indices, which count back from the line they stand on, resolved."""
    if not re.search(r"(?m)^f\b[^\n]*-", text):
        return text
    counts = {"v": 0, "vt": 0, "vn": 0}
    lines = text.split("\n")
    for number, line in enumerate(lines):
        keyword = line[:2].strip()
        if keyword in counts:
            counts[keyword] += 1
        elif keyword == "f" and "-" in line:
            corners = []
            for corner in line.split()[1:]:
                indices = zip(corner.split("/"), counts.values(), strict=False)
                corners.append(
                    "/".join(
                        str(count + 1 + int(index)) if index.startswith("-") else index
                        for index, count in indices
                    )
                )
            lines[number] = "f " + " ".join(corners)
    return "\n".join(lines)


def _read_libraries(path: Path, text: str) -> dict[str, _Entry]:
    """The materials of all MTL files that an OBJ names, by name."""
    entries: dict[str, _Entry] = {}
    for named in _arguments("mtllib", text):
        # one line may name several files, but file names with blanks are more common
        names = [named] if (path.parent / named).is_file() else named.split()
        for name in names:
            library = path.parent / name.replace("\\", "/")
            if not library.is_file():
                library = path.parent / library.name
            if library.is_file():
                entries.update(_read_library(library))
            elif _arguments("vt", text):
                raise InputError(
                    f"material file {name} named by {path.name} is missing.",
                    f"Put it at {library} with its textures, or delete the line 'mtllib'.",
                )
            else:
                logger.warning("%s names %s, which is missing: colours are lost", path, name)
    return entries


def _read_library(library: Path) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    name = None
    for line in library.read_text("utf-8", "replace").splitlines():
        keyword, *arguments = line.split() or [""]
        if keyword == "newmtl":
            name = " ".join(arguments)
            entries[name] = _Entry(library=library)
        elif name is None:
            continue
        elif keyword == "Kd" and len(arguments) >= 3 and arguments[0] not in ("spectral", "xyz"):
            red, green, blue = (float(value) for value in arguments[:3])
            entries[name] = entries[name]._replace(colour=(red, green, blue))
        elif keyword.lower() == "map_kd":
            texture, clamped = _texture_and_clamp(arguments, library)
            entries[name] = entries[name]._replace(texture=texture, clamped=clamped)
    return entries


def _texture_and_clamp(arguments: list[str], library: Path) -> tuple[str, bool]:
    """The file name after the options of a texture line, and whether it shall not repeat."""
    clamped = False
    rest = list(arguments)
    while len(rest) > 1 and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "-clamp":
            clamped = rest[0] == "on"
        elif option in ("-o", "-s", "-t"):
            logger.warning("%s: the texture option %s is left out", library, option)
        most = _OPTION_ARGUMENTS.get(option, 1)
        while most > 0 and len(rest) > 1 and (most == 1 or _is_number(rest[0])):
            rest.pop(0)
            most -= 1
    return " ".join(rest), clamped


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[-+]?\d*\.?\d*(e[-+]?\d+)?", word, re.IGNORECASE) is not None


def _material(entry: _Entry, picture: Callable[[Path, str, str], np.ndarray]) -> Material:
    if entry.texture is not None:
        texture = picture(entry.library.parent, entry.texture, entry.library.name)
        wrap = ("clamp", "clamp") if entry.clamped else ("repeat", "repeat")
        return Material(texture, wrap=wrap)
    red, green, blue = linear_from_srgb(np.array(entry.colour)).tolist()
    return Material(tint_linear=(red, green, blue))
