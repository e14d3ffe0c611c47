"""Reads Wavefront MTL, the material libraries of OBJ files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....errors import InputError
from ...files.containment import quote_value
from ...files.text_lines import clean_text
from ...images.srgb import linear_from_srgb
from ..primitives import Material, find_file_inside

MAX_LIBRARIES = 100
"""Limit of the material libraries that one OBJ may refer to."""

_OPTION_ARGUMENTS = {"-mm": 2, "-o": 3, "-s": 3, "-t": 3}
"""Texture options with more than one argument, and their maximum number of arguments."""
_NAME = re.compile(r"\"([^\"]*)\"|'([^']*)'|(\S+)")
_OTHER_MAPS = {
    "map_d": "opacity maps",
    "map_bump": "bump maps",
    "bump": "bump maps",
    "norm": "normal maps",
    "disp": "displacement maps",
}
_STATEMENTS = {"kd", "map_kd", *_OTHER_MAPS}


class MtlMaterial(NamedTuple):
    """A material of an MTL file."""

    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """sRGB diffuse colour (Kd)."""
    texture: str | None = None
    """File name (map_Kd)."""
    clamped: bool = False
    library: Path = Path()
    dropped: tuple[str, ...] = ()
    """What is not supported."""

    def material(self, load_texture: Callable[[Path, str, str], np.ndarray]) -> Material:
        """Converts it to a `Material`; a texture replaces the colour, as in most programs.

        Args:
            load_texture: `load_relative_texture`, perhaps cached.
        """
        if self.texture is not None:
            name = _strip_comment(self.library.parent, self.texture)
            texture = load_texture(self.library.parent, name, self.library.name)
            wrap = ("clamp", "clamp") if self.clamped else ("repeat", "repeat")
            return Material(texture, wrap=wrap)
        red, green, blue = linear_from_srgb(np.array(self.colour)).tolist()
        return Material(tint_linear=(red, green, blue))


def read_libraries(
    path: Path, lines: list[str], dropped: dict[str, None]
) -> dict[str, MtlMaterial]:
    """Reads the materials of all MTL files that an OBJ refers to, by name.

    Args:
        path: the OBJ file.
        lines: the arguments of each `mtllib` line.
        dropped: receives an entry for each file that is missing or outside the OBJ's folder.

    Raises:
        InputError: there are more than `MAX_LIBRARIES` files.
    """
    materials: dict[str, MtlMaterial] = {}
    seen: set[str] = set()
    lines = list(dict.fromkeys(lines))
    if len(lines) > MAX_LIBRARIES:
        raise InputError(f"{path} refers to more than {MAX_LIBRARIES} material files.")
    for line in lines:
        library = _find(path, line)
        names = [line] if library is not None else list(_split_names(line))
        for name in names:
            if name in seen:
                continue
            seen.add(name)
            if len(seen) > MAX_LIBRARIES:
                raise InputError(f"{path} refers to more than {MAX_LIBRARIES} material files.")
            library = _find(path, name)
            if library is None:
                loss = f"material file {quote_value(name)} is not in the folder of the OBJ"
                dropped[f"{loss}: its colours are lost"] = None
            else:
                materials.update(_read_library(library))
    return materials


def _split_names(line: str) -> Iterator[str]:
    """The file names on a line, quoted or separated by blanks, up to a comment."""
    for word in _NAME.finditer(line):
        if word[0].startswith("#"):
            return
        name = next(group for group in word.groups() if group is not None).strip()
        if name:
            yield name


def _strip_comment(folder: Path, name: str) -> str:
    """Strips a trailing comment from a file name, unless a file of the full name exists."""
    bare = _before_comment(name)
    try:
        is_whole = bare == name or find_file_inside(folder, name, "texture") is not None
    except InputError:
        is_whole = False
    return name if is_whole else bare


def resolve_material_name(name: str, defined: dict[str, MtlMaterial]) -> str:
    """The name under which a material is defined: an exact match, else one up to comments."""
    if name in defined or not defined:
        return name
    return next(
        (other for other in defined if _before_comment(other) == _before_comment(name)), name
    )


def _before_comment(name: str) -> str:
    """A name up to a comment: a `#` after a blank."""
    return name.partition(" #")[0].rstrip() or name


def _find(path: Path, name: str) -> Path | None:
    """Finds a material library; None if it is missing or outside the OBJ's folder."""
    try:
        return find_file_inside(path.parent, name, "material file") if len(name) < 4096 else None
    except (InputError, OSError):
        return None


def _read_library(library: Path) -> dict[str, MtlMaterial]:
    materials: dict[str, MtlMaterial] = {}
    name = None
    for line in clean_text(library.read_bytes()).decode("utf-8", "replace").split("\n"):
        keyword, *arguments = line.split() or [""]
        keyword = keyword.lower()
        if keyword == "newmtl":
            name = " ".join(arguments)
            materials[name] = MtlMaterial(library=library)
        elif name is not None and keyword in _STATEMENTS:
            materials[name] = _apply_statement(materials[name], keyword, line)
    return materials


def _apply_statement(material: MtlMaterial, keyword: str, line: str) -> MtlMaterial:
    """The material with one more statement of its MTL file applied."""
    loss = None
    if keyword == "kd":
        colour = _colour(line.split()[1:])
        if colour is None:
            loss = f"{material.library.name} has an unsupported Kd"
        else:
            material = material._replace(colour=colour)
    elif keyword == "map_kd":
        texture, clamped, transform_option = _texture_options(line)
        material = material._replace(texture=texture or None, clamped=clamped)
        if transform_option:
            loss = f"the texture option {transform_option} in {material.library.name} is ignored"
    else:
        loss = f"{_OTHER_MAPS[keyword]} are ignored"
    if loss is None or loss in material.dropped:
        return material
    return material._replace(dropped=(*material.dropped, loss))


def _colour(arguments: list[str]) -> tuple[float, float, float] | None:
    """The three values of Kd, or one for all; None for other forms (`spectral`, `xyz`)."""
    try:
        numbers = [float(word) for word in arguments[:3]]
    except ValueError:
        return None
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        return None
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue


def _texture_options(line: str) -> tuple[str, bool, str]:
    """File name of a texture line, whether it is clamped, and an option that transforms its uv."""
    arguments = line.split()[1:]
    clamped, transform_option = False, ""
    index, last = 0, len(arguments) - 1
    while index < last and arguments[index].startswith("-"):
        option = arguments[index].lower()
        index += 1
        if option == "-clamp":
            clamped = arguments[index].lower() == "on"
        remaining = _OPTION_ARGUMENTS.get(option, 1)
        numbers = []
        while remaining > 0 and index < last and (remaining == 1 or _is_number(arguments[index])):
            numbers.append(arguments[index])
            index += 1
            remaining -= 1
        neutral = {"-o": 0.0, "-s": 1.0, "-t": 0.0}.get(option)
        if neutral is not None and any(
            not _is_number(word) or float(word) != neutral for word in numbers
        ):
            transform_option = option
    name = line.split(None, index + 1)[-1].strip() if arguments else ""  # the name may hold blanks
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1].strip()
    return name, clamped, transform_option


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
