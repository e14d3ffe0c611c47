"""Reads PLY as primitives: polygons, triangle strips, colours, uv and textures."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from ....errors import InputError
from ...files.text_lines import colours_to_unit_range, warn_dropped
from ..polygon_mesh import PolygonSoup
from ..primitives import Material, Primitive, load_relative_texture
from .elements import Columns, PlyList, has_splat_properties, read_elements

logger = logging.getLogger(__name__)

_COLOURS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
_UV = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"), ("texture_s", "texture_t"))
_INDICES = ("vertex_indices", "vertex_index")
SPLATS_NO_MESH = (
    "it contains Gaussian splats, not a mesh.",
    "Render them to views, with `render` or Render Splat Views, and fuse the views.",
)
"""Error message and hint for splats where a mesh is expected."""


def read_ply(path: Path) -> list[Primitive]:
    """Reads the faces of a PLY file with vertex colours, face colours, or uv and textures.

    Polygons and triangle strips are triangulated. Face colours, used only without any other
    colour, split the vertices, and so do uv per face. One warning names what is dropped.

    Raises:
        InputError: the file is damaged; a texture is missing; there are several textures but no
            texnumber per face.
    """
    header, elements = read_elements(path.read_bytes())
    dropped: dict[str, None] = {}
    faces, texture_of = _read_soup(elements, dropped)
    if not len(faces.counts) and has_splat_properties(elements["vertex"]):
        raise InputError(*SPLATS_NO_MESH)
    supported = {"vertex", "face", "tristrips"}
    others = [e.name for e in header.elements if e.name not in supported and e.count > 0]
    if others:
        dropped[f"elements {', '.join(sorted(set(others)))[:200]} are ignored"] = None

    groups: list[tuple[PolygonSoup, str | None]] = []
    if texture_of is None or len(header.textures) < 2:
        if len(header.textures) > 1:
            raise InputError(
                f"{path} has {len(header.textures)} textures but no texnumber per face; then only "
                "one texture is supported.",
                "Save it as .glb.",
            )
        groups.append((faces, header.textures[0] if header.textures else None))
    else:
        is_valid = (texture_of >= 0) & (texture_of < len(header.textures))
        texture_of = np.where(is_valid, texture_of, -1).astype(np.int64)
        for number in np.unique(texture_of).tolist():
            name = header.textures[number] if number >= 0 else None
            groups.append((faces.select(texture_of == number), name))
    primitives = [
        primitive
        for soup, texture in groups
        for primitive in _build_primitives(path, soup, texture, dropped)
    ]
    warn_dropped(logger, path, dropped)
    return primitives


def _read_soup(
    elements: dict[str, Columns], dropped: dict[str, None]
) -> tuple[PolygonSoup, np.ndarray | None]:
    """The faces and strips of a file, and (P,) the texture index of each face, if there are any."""
    vertex = elements.get("vertex", {})
    vertices = _columns(vertex, (("x", "y", "z"),))
    if vertices is None:
        raise InputError("it has no vertices with x, y and z.")
    colours = _columns(vertex, _COLOURS)
    face = elements.get("face", {})
    polygons = _index_list(face, "face")
    face_colours = _columns(face, _COLOURS)
    if face_colours is not None:
        face_colours = colours_to_unit_range(face_colours)
    texture_of = face.get("texnumber")
    texture_of = None if isinstance(texture_of, PlyList) else texture_of
    strips = _index_list(elements.get("tristrips", {}), "tristrips")
    corners, counts = polygons.values.astype(np.int64), polygons.counts
    corner_uv = _corner_uv(face, counts, dropped)
    if len(strips.counts):  # strips have no face attributes
        triangles = _strip_triangles(strips)
        corners = np.concatenate([corners, triangles.reshape(-1)])
        counts = np.concatenate([counts, np.full(len(triangles), 3)])
        corner_uv = _pad_rows(corner_uv, triangles.size, np.nan)
        face_colours = _pad_rows(face_colours, len(triangles), 1.0)
        texture_of = _pad_rows(texture_of, len(triangles), -1)
    if (counts < 3).any():
        dropped["faces with fewer than three corners are ignored"] = None
    soup = PolygonSoup(
        vertices.astype(np.float64),
        corners,
        counts,
        _columns(vertex, (("nx", "ny", "nz"),)),
        None if colours is None else colours_to_unit_range(colours),
        _columns(vertex, _UV),
        corner_uv,
        face_colours,
    )
    return soup, texture_of


def _pad_rows(rows: np.ndarray | None, count: int, value: float) -> np.ndarray | None:
    """Appends `count` rows of one value."""
    if rows is None:
        return None
    return np.concatenate([rows, np.full((count, *rows.shape[1:]), value)])


def _columns(columns: Columns, name_variants: tuple[tuple[str, ...], ...]) -> np.ndarray | None:
    """(R, names) values of the first name variant that exists."""
    for names in name_variants:
        found = [columns.get(name) for name in names]
        if all(isinstance(column, np.ndarray) for column in found):
            return np.stack(found, axis=1)
    return None


def _index_list(columns: Columns, element: str) -> PlyList:
    """The list of vertex indices of an element: by its name, or the only list.

    Raises:
        InputError: rows have no such list, or fractional indices.
    """
    lists = {name: column for name, column in columns.items() if isinstance(column, PlyList)}
    found = next((lists[name] for name in _INDICES if name in lists), None)
    if found is None and len(lists) == 1:
        (found,) = lists.values()
    if found is None:
        if any(len(column) for column in columns.values() if isinstance(column, np.ndarray)):
            raise InputError(f"its element '{element}' has no list vertex_indices.")
        return PlyList(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    if found.values.dtype.kind == "f" and (found.values % 1 != 0).any():
        raise InputError(f"its element '{element}' has fractional vertex indices.")
    return found


def _corner_uv(face: Columns, counts: np.ndarray, dropped: dict[str, None]) -> np.ndarray | None:
    """(C, 2) texture coordinates of the corners, NaN for faces without; None if no face has any."""
    texcoord = face.get("texcoord")
    if not isinstance(texcoord, PlyList) or not texcoord.counts.any():
        return None
    fits = texcoord.counts == 2 * counts
    if not fits.all() and (texcoord.counts[~fits] > 0).any():
        dropped["texture coordinates that do not match their faces are ignored"] = None
    uv = np.full((int(counts.sum()), 2), np.nan)
    values = texcoord.values[np.repeat(fits, texcoord.counts)]
    uv[np.repeat(fits, counts)] = values.reshape(-1, 2)
    return uv


def _strip_triangles(strips: PlyList) -> np.ndarray:
    """(T, 3) triangles of strips, with every second winding reversed; -1 restarts a strip."""
    ends = np.cumsum(strips.counts)
    flat = np.insert(strips.values.astype(np.int64), ends, -1)  # a separator after each strip
    if len(flat) < 3:
        return np.zeros((0, 3), dtype=np.int64)
    positions = np.arange(len(flat))
    start = np.maximum.accumulate(np.where(flat == -1, positions + 1, 0))
    triangles = np.stack([flat[:-2], flat[1:-1], flat[2:]], axis=1)
    odd = (positions - start)[:-2] % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    a, b, c = triangles.T
    return triangles[(triangles != -1).all(axis=1) & (a != b) & (b != c) & (c != a)]


def _build_primitives(
    path: Path, soup: PolygonSoup, texture: str | None, dropped: dict[str, None]
) -> list[Primitive]:
    """The primitive of one texture; faces without texture coordinates become a second one."""
    groups = [(soup, texture)]
    if soup.corner_uv is not None:
        starts = np.cumsum(soup.counts) - soup.counts
        lacks_uv = np.zeros(len(soup.counts), dtype=bool)
        filled = soup.counts > 0
        lacks_uv[filled] = np.isnan(soup.corner_uv[starts[filled], 0])
        if lacks_uv.any():
            dropped["faces without texture coordinates lose the texture"] = None
            without_uv = replace(soup, corner_uv=None).select(lacks_uv)
            groups = [(soup.select(~lacks_uv), texture), (replace(without_uv, uv=None), None)]
    primitives = []
    for group, name in groups:
        has_uv = group.uv is not None or group.corner_uv is not None
        if name is not None and not has_uv:
            dropped["the texture is ignored: there are no texture coordinates"] = None
            name = None
        group = _select_colours(group, name is not None, dropped)
        mesh = group.mesh()
        if mesh is not None:
            image = None if name is None else load_relative_texture(path.parent, name, path.name)
            primitives.append(Primitive(mesh, Material(image)))
    return primitives


def _select_colours(soup: PolygonSoup, is_textured: bool, dropped: dict[str, None]) -> PolygonSoup:
    """Keeps one source of colour: the texture, else the vertices, else the faces."""
    if is_textured and soup.colours is not None:
        dropped["vertex colours of textured faces are ignored"] = None
    if soup.face_colours is not None and (is_textured or soup.colours is not None):
        dropped["face colours are ignored: a texture or vertex colours take precedence"] = None
    return replace(
        soup,
        colours=None if is_textured else soup.colours,
        face_colours=None if is_textured or soup.colours is not None else soup.face_colours,
    )
