"""Reads PLY as parts: polygons and strips, colours in all common spellings, uv and textures."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from ....errors import InputError
from ...files.text_lines import fraction_colours, warn_of_losses
from ..polygon_mesh import PolygonSoup
from ..primitives import Material, Part, texture_beside
from .elements import Columns, List, read_elements

logger = logging.getLogger(__name__)

_COLOURS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
_UV = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"), ("texture_s", "texture_t"))
_INDICES = ("vertex_indices", "vertex_index")


def read_ply(path: Path) -> list[Part]:
    """The faces of a PLY file with vertex colours, face colours, or uv and the textures it names.

    Polygons and triangle strips are cut into triangles. Face colours, where nothing else gives
    colour, split the vertices, and so do uv that are given per face. What is not kept is named in
    one warning.

    Raises:
        InputError: the file is damaged; a texture is missing, or the file names several without
            saying which face has which.
    """
    header, elements = read_elements(path.read_bytes())
    losses: dict[str, None] = {}
    faces, texture_of = _soup(elements, losses)
    known = {"vertex", "face", "tristrips"}
    others = [e.name for e in header.elements if e.name not in known and e.count > 0]
    if others:
        losses[f"elements {', '.join(sorted(set(others)))[:200]} are left out"] = None

    groups: list[tuple[PolygonSoup, str | None]] = []
    if texture_of is None or len(header.textures) < 2:
        if len(header.textures) > 1:
            raise InputError(
                f"{path} has {len(header.textures)} textures; a PLY without texture numbers of its "
                "faces is read with one.",
                "Save it as .glb.",
            )
        groups.append((faces, header.textures[0] if header.textures else None))
    else:
        is_known = (texture_of >= 0) & (texture_of < len(header.textures))
        texture_of = np.where(is_known, texture_of, -1).astype(np.int64)
        for number in np.unique(texture_of).tolist():
            name = header.textures[number] if number >= 0 else None
            groups.append((faces.select(texture_of == number), name))
    parts = [part for soup, texture in groups for part in _parts(path, soup, texture, losses)]
    warn_of_losses(logger, path, losses)
    return parts


def _soup(
    elements: dict[str, Columns], losses: dict[str, None]
) -> tuple[PolygonSoup, np.ndarray | None]:
    """The faces and strips of a file, and (P,) the number of each face's texture, if it has one."""
    vertex = elements.get("vertex", {})
    vertices = _columns(vertex, (("x", "y", "z"),))
    if vertices is None:
        raise InputError("it has no vertices with x, y and z.")
    colours = _columns(vertex, _COLOURS)
    face = elements.get("face", {})
    polygons = _index_list(face, "face")
    face_colours = _columns(face, _COLOURS)
    if face_colours is not None:
        face_colours = fraction_colours(face_colours)
    texture_of = face.get("texnumber")
    texture_of = None if isinstance(texture_of, List) else texture_of
    strips = _index_list(elements.get("tristrips", {}), "tristrips")
    corners, counts = polygons.values.astype(np.int64), polygons.counts
    corner_uv = _corner_uv(face, counts, losses)
    if len(strips.counts):  # their triangles have nothing of what faces alone have
        triangles = _strip_triangles(strips)
        corners = np.concatenate([corners, triangles.reshape(-1)])
        counts = np.concatenate([counts, np.full(len(triangles), 3)])
        corner_uv = _extended(corner_uv, triangles.size, np.nan)
        face_colours = _extended(face_colours, len(triangles), 1.0)
        texture_of = _extended(texture_of, len(triangles), -1)
    if (counts < 3).any():
        losses["faces with fewer than three corners are left out"] = None
    soup = PolygonSoup(
        vertices.astype(np.float64),
        corners,
        counts,
        _columns(vertex, (("nx", "ny", "nz"),)),
        None if colours is None else fraction_colours(colours),
        _columns(vertex, _UV),
        corner_uv,
        face_colours,
    )
    return soup, texture_of


def _extended(rows: np.ndarray | None, count: int, value: float) -> np.ndarray | None:
    """The rows, and `count` more of one value."""
    if rows is None:
        return None
    return np.concatenate([rows, np.full((count, *rows.shape[1:]), value)])


def _columns(columns: Columns, spellings: tuple[tuple[str, ...], ...]) -> np.ndarray | None:
    """(R, names) numbers under the first spelling of which all names are there."""
    for names in spellings:
        found = [columns.get(name) for name in names]
        if all(isinstance(column, np.ndarray) for column in found):
            return np.stack(found, axis=1)
    return None


def _index_list(columns: Columns, element: str) -> List:
    """The list of vertex indices of an element: by its name, or the only list that there is.

    Raises:
        InputError: there are rows without such a list, or with fractional indices.
    """
    lists = {name: column for name, column in columns.items() if isinstance(column, List)}
    found = next((lists[name] for name in _INDICES if name in lists), None)
    if found is None and len(lists) == 1:
        (found,) = lists.values()
    if found is None:
        if any(len(column) for column in columns.values() if isinstance(column, np.ndarray)):
            raise InputError(f"its element '{element}' has no list vertex_indices.")
        return List(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    if found.values.dtype.kind == "f" and (found.values % 1 != 0).any():
        raise InputError(f"its element '{element}' has fractional vertex indices.")
    return found


def _corner_uv(face: Columns, counts: np.ndarray, losses: dict[str, None]) -> np.ndarray | None:
    """(C, 2) texture coordinates of each corner, NaN for faces that have none; None without any."""
    given = face.get("texcoord")
    if not isinstance(given, List) or not given.counts.any():
        return None
    fits = given.counts == 2 * counts
    if not fits.all() and (given.counts[~fits] > 0).any():
        losses["texture coordinates that do not fit their faces are left out"] = None
    uv = np.full((int(counts.sum()), 2), np.nan)
    values = given.values[np.repeat(fits, given.counts)]
    uv[np.repeat(fits, counts)] = values.reshape(-1, 2)
    return uv


def _strip_triangles(strips: List) -> np.ndarray:
    """(T, 3) triangles of strips, every second turned around; -1 starts the next strip."""
    ends = np.cumsum(strips.counts)
    flat = np.insert(strips.values.astype(np.int64), ends, -1)  # a separator after each strip
    if len(flat) < 3:
        return np.zeros((0, 3), dtype=np.int64)
    places = np.arange(len(flat))
    start = np.maximum.accumulate(np.where(flat == -1, places + 1, 0))
    triangles = np.stack([flat[:-2], flat[1:-1], flat[2:]], axis=1)
    odd = (places - start)[:-2] % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    a, b, c = triangles.T
    return triangles[(triangles != -1).all(axis=1) & (a != b) & (b != c) & (c != a)]


def _parts(
    path: Path, soup: PolygonSoup, texture: str | None, losses: dict[str, None]
) -> list[Part]:
    """The part of faces of one texture; faces without texture coordinates become another part."""
    groups = [(soup, texture)]
    if soup.corner_uv is not None:
        starts = np.cumsum(soup.counts) - soup.counts
        without = np.zeros(len(soup.counts), dtype=bool)
        filled = soup.counts > 0
        without[filled] = np.isnan(soup.corner_uv[starts[filled], 0])
        if without.any():
            losses["faces without texture coordinates are left without texture"] = None
            bare = replace(soup, corner_uv=None).select(without)
            groups = [(soup.select(~without), texture), (replace(bare, uv=None), None)]
    parts = []
    for group, name in groups:
        has_uv = group.uv is not None or group.corner_uv is not None
        if name is not None and not has_uv:
            losses["the texture is left out: there are no texture coordinates"] = None
            name = None
        group = _coloured(group, name is not None, losses)
        mesh = group.mesh()
        if mesh is not None:
            image = None if name is None else texture_beside(path.parent, name, path.name)
            parts.append(Part(mesh, Material(image)))
    return parts


def _coloured(soup: PolygonSoup, is_textured: bool, losses: dict[str, None]) -> PolygonSoup:
    """The faces with one source of colour: the texture, else the vertices, else the faces."""
    if is_textured and soup.colours is not None:
        losses["vertex colours under a texture are left out"] = None
    if soup.face_colours is not None and (is_textured or soup.colours is not None):
        losses["face colours are left out: there are others"] = None
    return replace(
        soup,
        colours=None if is_textured else soup.colours,
        face_colours=None if is_textured or soup.colours is not None else soup.face_colours,
    )
