"""Reads the material files (MTL) of Wavefront OBJ."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....errors import InputError
from ...files.containment import quoted
from ...files.text_lines import clean_text
from ...images.srgb import linear_from_srgb
from ..primitives import Material, find_inside

MAX_LIBRARIES = 100
"""Most material files that one OBJ may name."""

_OPTION_ARGUMENTS = {"-mm": 2, "-o": 3, "-s": 3, "-t": 3}
"""Options of an MTL texture that take more than one argument, and at most how many."""
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
    """What an MTL file states about one material."""

    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """sRGB, Kd."""
    texture: str | None = None
    """File name, map_Kd."""
    clamped: bool = False
    library: Path = Path()
    losses: tuple[str, ...] = ()
    """What of it is not kept."""

    def material(self, load_texture: Callable[[Path, str, str], np.ndarray]) -> Material:
        """The material; a texture takes the place of the colour, as in most programs.

        Args:
            load_texture: as `texture_beside`.
        """
        if self.texture is not None:
            name = _without_comment(self.library.parent, self.texture)
            texture = load_texture(self.library.parent, name, self.library.name)
            wrap = ("clamp", "clamp") if self.clamped else ("repeat", "repeat")
            return Material(texture, wrap=wrap)
        red, green, blue = linear_from_srgb(np.array(self.colour)).tolist()
        return Material(tint_linear=(red, green, blue))


def read_libraries(path: Path, lines: list[str], losses: dict[str, None]) -> dict[str, MtlMaterial]:
    """The materials of all MTL files that an OBJ names, by name.

    Args:
        path: the OBJ file.
        lines: what follows `mtllib`, for each such line.
        losses: gets an entry for each file that is missing or outside the OBJ's folder.

    Raises:
        InputError: more than `MAX_LIBRARIES` files are named.
    """
    materials: dict[str, MtlMaterial] = {}
    tried: set[str] = set()
    lines = list(dict.fromkeys(lines))
    if len(lines) > MAX_LIBRARIES:
        raise InputError(f"{path} names more than {MAX_LIBRARIES} material files.")
    for line in lines:
        library = _find(path, line)
        names = [line] if library is not None else list(_split_names(line))
        for name in names:
            if name in tried:
                continue
            tried.add(name)
            if len(tried) > MAX_LIBRARIES:
                raise InputError(f"{path} names more than {MAX_LIBRARIES} material files.")
            library = _find(path, name)
            if library is None:
                losses[
                    f"material file {quoted(name)} is missing in the folder of the OBJ, so its "
                    "colours are lost"
                ] = None
            else:
                materials.update(_read_library(library))
    return materials


def _split_names(line: str) -> Iterator[str]:
    """The file names on a line: in quotes, or between blanks; up to a comment."""
    for word in _NAME.finditer(line):
        if word[0].startswith("#"):
            return
        name = next(group for group in word.groups() if group is not None).strip()
        if name:
            yield name


def _without_comment(folder: Path, name: str) -> str:
    """A file name without the comment after it, unless a file in the folder has the whole name."""
    bare = _bare(name)
    try:
        is_whole = bare == name or find_inside(folder, name, "texture") is not None
    except InputError:
        is_whole = False
    return name if is_whole else bare


def defined_name(name: str, defined: dict[str, MtlMaterial]) -> str:
    """The name under which a material is defined: the whole one, else one without comments."""
    if name in defined or not defined:
        return name
    return next((other for other in defined if _bare(other) == _bare(name)), name)


def _bare(name: str) -> str:
    """A name without a comment, which starts with a `#` after a blank."""
    return name.partition(" #")[0].rstrip() or name


def _find(path: Path, name: str) -> Path | None:
    """The material file that an OBJ names; None if it is missing or outside its folder."""
    try:
        return find_inside(path.parent, name, "material file") if len(name) < 4096 else None
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
            materials[name] = _with_statement(materials[name], keyword, line)
    return materials


def _with_statement(material: MtlMaterial, keyword: str, line: str) -> MtlMaterial:
    """The material after one more line of its MTL file."""
    loss = None
    if keyword == "kd":
        colour = _colour(line.split()[1:])
        if colour is None:
            loss = f"{material.library.name} has a Kd that is not understood"
        else:
            material = material._replace(colour=colour)
    elif keyword == "map_kd":
        texture, clamped, moved = _texture_options(line)
        material = material._replace(texture=texture or None, clamped=clamped)
        if moved:
            loss = f"the texture option {moved} in {material.library.name} is left out"
    else:
        loss = f"{_OTHER_MAPS[keyword]} are left out"
    if loss is None or loss in material.losses:
        return material
    return material._replace(losses=(*material.losses, loss))


def _colour(arguments: list[str]) -> tuple[float, float, float] | None:
    """Kd's numbers: three, or one for all; None if they are not understood (`spectral`, `xyz`)."""
    try:
        numbers = [float(word) for word in arguments[:3]]
    except ValueError:
        return None
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        return None
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue


def _texture_options(line: str) -> tuple[str, bool, str]:
    """The file name of a texture line, whether it shall not repeat, and options that move it."""
    arguments = line.split()[1:]
    clamped, moved = False, ""
    index, last = 0, len(arguments) - 1
    while index < last and arguments[index].startswith("-"):
        option = arguments[index].lower()
        index += 1
        if option == "-clamp":
            clamped = arguments[index].lower() == "on"
        most = _OPTION_ARGUMENTS.get(option, 1)
        numbers = []
        while most > 0 and index < last and (most == 1 or _is_number(arguments[index])):
            numbers.append(arguments[index])
            index += 1
            most -= 1
        neutral = {"-o": 0.0, "-s": 1.0, "-t": 0.0}.get(option)
        if neutral is not None and any(
            not _is_number(word) or float(word) != neutral for word in numbers
        ):
            moved = option
    name = line.split(None, index + 1)[-1].strip() if arguments else ""  # blanks inside are kept
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1].strip()
    return name, clamped, moved


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
