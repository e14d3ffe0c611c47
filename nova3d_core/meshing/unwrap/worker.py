"""Runs xatlas in a process of its own: `python worker.py IN.npz OUT.npz PARENT_PID`.

xatlas can neither be interrupted nor given a time limit, so `unwrap.py` starts this file and may
kill it. It is run by its path and imports nothing of the package, whose name differs inside
ComfyUI and which would bring torch along; the one sibling it needs is loaded by path as well.

It dies with its parent, however that dies. xatlas holds Python's lock while it works, so no thread
of this process could see to that: on Linux the kernel does; elsewhere a second process does the
work, and this one watches its stdin, which the parent's death closes, and kills it then.

IN:  vertices (N, 3) float32, faces (F, 3) int64, texture_px, padding_px, faces_per_part,
     time_limit_s.
OUT: uv (F, 3, 2) float32 per corner, origin top left; chart (F,) int64, -1 for faces that xatlas
     ignored.
"""

from __future__ import annotations

import ctypes
import faulthandler
import math
import os
import signal
import subprocess
import sys
import threading
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import xatlas

NORMALISED_SIDE = 100.0
"""Units along the longest side: xatlas drops faces below a fixed area of about 1e-7."""
MAX_OVERLAP_PX = 0.1
_PR_SET_PDEATHSIG = 1
MAX_PACKINGS = 6
"""The side that a packing needs is known only afterwards: so many densities are tried."""
TARGET_FILL = 0.985
"""Each packing aims at this part of the image's side, so that most of them fit."""
MIN_FILL = 0.96
"""A packing that fills this part of the side ends the search."""


class AtlasError(Exception):
    """This surface gets no atlas from xatlas; the message says why."""


def normalise_scale(used: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """The vertices (N, 3) moved and scaled so that the box around `used` (M, 3) has side `NORMALISED_SIDE`."""
    low, high = used.min(axis=0), used.max(axis=0)
    return (vertices - low) * np.float32(NORMALISED_SIDE / max(float((high - low).max()), 1e-30))


def split_spatially(centres: np.ndarray, count: int) -> list[np.ndarray]:
    """Balanced groups of faces, cut again and again across the longest side.

    Args:
        centres: (F, 3) centres of the faces.
        count: groups wanted, at least 1.

    Returns:
        `count` arrays of face indices, each in ascending order.
    """
    ready, waiting = [], [(np.arange(len(centres)), count)]
    while waiting:
        faces, pieces = waiting.pop()
        if pieces == 1:
            ready.append(np.sort(faces))
            continue
        places = centres[faces]
        axis = int(np.argmax(np.ptp(places, axis=0)))
        order = faces[np.argsort(places[:, axis], kind="stable")]
        cut = len(faces) * (pieces // 2) // pieces
        waiting += [(order[:cut], pieces // 2), (order[cut:], pieces - pieces // 2)]
    return ready


def triangle_areas(corners: np.ndarray) -> np.ndarray:
    """(F,) areas of triangles (F, 3, 2 or 3)."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    squared = (a * a).sum(-1) * (b * b).sum(-1) - (a * b).sum(-1) ** 2
    return 0.5 * np.sqrt(np.maximum(squared, 0.0))


def face_charts(atlas: xatlas.Atlas, mesh: int, faces: int) -> np.ndarray:
    """(faces,) chart index of each face of one mesh, -1 for faces in no chart."""
    charts = np.full(faces, -1, dtype=np.int64)
    for index in range(atlas.get_mesh_chart_count(mesh)):
        charts[np.asarray(atlas.get_mesh_chart(mesh, index).faces)] = index
    return charts


def atlas_options(texture_px: int, padding_px: int, texels_per_unit: float = 0.0):
    """Chart and pack options; without `texels_per_unit` xatlas guesses one for `texture_px`."""
    chart = xatlas.ChartOptions()
    chart.fix_winding = True
    pack = xatlas.PackOptions()
    pack.padding = math.ceil((padding_px - 1) / 2) if padding_px > 1 else 0  # leaves 2 p + 1 texels
    pack.bilinear = True
    pack.rotate_charts = False  # its quarter turn is a reflection: charts would come out mirrored
    pack.resolution = 0 if texels_per_unit else texture_px
    pack.texels_per_unit = texels_per_unit
    return chart, pack


def parameterise(
    vertices: np.ndarray, faces: np.ndarray, settings: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Charts of the whole surface, each in its own plane.

    All parts go into one atlas: xatlas works on them side by side and packs them together.

    Returns:
        places (M, 2) of the charts' vertices in the units of `vertices`, corners (F, 3) that index
        them, chart (F,), and xatlas's own guess: texels per unit and the side that came of it.
    """
    count = math.ceil(len(faces) / int(settings["faces_per_chunk"]))
    parts = split_spatially(vertices[faces].mean(axis=1), count)
    atlas = xatlas.Atlas()
    for part in parts:
        used, local = np.unique(faces[part], return_inverse=True)
        atlas.add_mesh(vertices[used], local.reshape(-1, 3).astype(np.uint32))
    atlas.generate(*atlas_options(int(settings["texture_px"]), int(settings["padding_px"])))

    if atlas.chart_count == 0:
        raise AtlasError("it found no face with an area")
    places, vertex_count, chart_count = [], 0, 0
    corners = np.zeros(faces.shape, dtype=np.int64)
    chart = np.zeros(len(faces), dtype=np.int64)
    for mesh, part in enumerate(parts):
        origin, local, uv = atlas.get_mesh(mesh)
        expected = np.unique(faces[part])[origin[local]]
        if not np.array_equal(expected, faces[part]):
            raise RuntimeError("xatlas gave the faces back in another order")
        own = face_charts(atlas, mesh, len(part))
        chart[part] = np.where(own < 0, -1, own + chart_count)
        corners[part] = local.astype(np.int64) + vertex_count
        places.append(uv * [atlas.width, atlas.height] / atlas.texels_per_unit)
        vertex_count += len(uv)
        chart_count += atlas.get_mesh_chart_count(mesh)
    side = max(atlas.width, atlas.height)
    return np.concatenate(places), corners, chart, atlas.texels_per_unit, float(side)


def equalise_texel_density(
    places: np.ndarray, corners: np.ndarray, chart: np.ndarray, face_areas: np.ndarray
) -> np.ndarray:
    """The places (M, 2) with every chart scaled to its area in space (F,): even texel density.

    The first packing has stretched the charts to whole texels, small ones by much.
    """
    placed = chart >= 0
    flat = np.bincount(chart[placed], triangle_areas(places[corners[placed]].astype(np.float64)))
    solid = np.bincount(chart[placed], face_areas[placed])
    scale = np.sqrt(solid / np.maximum(flat, 1e-30))
    usable = (flat > 0) & (solid > 0)
    per_vertex = np.ones(len(places))
    factor = np.where(usable, scale, 1.0)[chart[placed]]
    per_vertex[corners[placed]] = factor[:, None]
    return places * per_vertex[:, None]


def separate_overlaps(
    places: np.ndarray, corners: np.ndarray, chart: np.ndarray, depth: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, corners and charts in which no two faces overlap deeper than `depth`.

    On crumpled surfaces xatlas folds a few faces over their neighbours. The smaller face of such
    two becomes a chart of its own, with vertices of its own.
    """
    flat = places[corners]  # (F, 3, 2)
    a, b = load_sibling("overlaps").overlapping_pairs(flat, chart, depth).T
    size = triangle_areas(flat)
    loose = np.unique(np.where(size[a] < size[b], a, b))
    chart, corners = chart.copy(), corners.copy()
    chart[loose] = chart.max() + 1 + np.arange(len(loose))
    corners[loose] = len(places) + np.arange(3 * len(loose)).reshape(-1, 3)
    return np.concatenate([places, flat[loose].reshape(-1, 2)]), corners, chart


def load_sibling(name: str) -> ModuleType:
    """The module of that name beside this file, which must import nothing of the package."""
    spec = util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pack(
    places: np.ndarray,
    corners: np.ndarray,
    chart: np.ndarray,
    guess: tuple[float, float],
    settings: dict,
) -> tuple[np.ndarray, np.ndarray]:
    """The charts in one square image, padded, as large as they fit.

    Args:
        places: (M, 2) vertices in the mesh's own units.
        corners: (F, 3) indices into places.
        chart: (F,) chart of each face.
        guess: texels per unit, and the side in texels of the image it is known to need.
        settings: texture_px, padding_px.

    Returns:
        uv (F, 3, 2) in 0..1 and the chart (F,) of each face.

    Raises:
        NoAtlas: the charts are so many that their padding alone fills the image.
    """
    padding = int(settings["padding_px"])
    room = int(settings["texture_px"]) - padding  # half the padding stays free at each border
    tried = [guess]
    best = None
    for _ in range(MAX_PACKINGS):
        density = next_density(tried, TARGET_FILL * room)
        atlas = xatlas.Atlas()
        atlas.add_uv_mesh(
            places.astype(np.float32), corners.astype(np.uint32), chart.astype(np.uint32)[:, None]
        )
        atlas.generate(*atlas_options(room, padding, density))
        side = max(atlas.width, atlas.height)
        tried.append((density, side))
        if side <= room and (best is None or side > max(best.width, best.height)):
            best = atlas
            if side >= MIN_FILL * room:
                break
    if best is None:
        raise AtlasError(f"{int(chart.max()) + 1} charts do not fit into {room} texels")
    packed_chart = face_charts(best, 0, len(corners))
    _, local, uv = best.get_mesh(0)
    size = np.array([best.width, best.height])
    texels = (uv * size)[local] + padding / 2  # (F, 3, 2)
    uv = texels / (size.max() + padding)
    return collapse_unplaced_faces(uv, corners, packed_chart), packed_chart


def collapse_unplaced_faces(uv: np.ndarray, corners: np.ndarray, chart: np.ndarray) -> np.ndarray:
    """The uv (F, 3, 2) with faces of no chart shrunk to a point on a chart that they touch.

    xatlas leaves out faces without area and gives them no place.
    """
    left_out = np.flatnonzero(chart < 0)
    placed = np.flatnonzero(chart >= 0)
    face_at = np.full(int(corners.max()) + 1, -1)
    face_at[corners[placed]] = placed[:, None]
    neighbours = face_at[corners[left_out]]  # (L, 3), -1 where a corner touches no chart
    neighbour = neighbours.max(axis=1)
    points = np.where(neighbour[:, None] >= 0, uv[neighbour, 0], uv[placed[:1], 0])
    uv = uv.copy()
    uv[left_out] = points[:, None]
    return uv


def next_density(tried: list[tuple[float, float]], aim: float) -> float:
    """Texels per unit that should need an image of side `aim`, given (density, side) tried."""
    (d0, s0), (d1, s1) = tried[-2:] if len(tried) > 1 else (tried[0], tried[0])
    rising = (d1 - d0) * (s1 - s0) > 0
    slope = (d1 - d0) / (s1 - s0) if rising else d1 / s1
    wanted = d1 + (aim - s1) * slope
    return min(max(wanted, 0.3 * d1), 1.2 * d1)


def exit_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it died before
        os._exit(1)


def run_in_child(words: list[str]) -> int:
    """Runs this file again to do the work and kills that process when stdin ends; its exit code."""
    child = subprocess.Popen([sys.executable, __file__, *words], stdin=subprocess.DEVNULL)

    def watch() -> None:
        sys.stdin.buffer.read()
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


def main(source: str, target: str) -> int:
    with np.load(source) as data:
        settings = {name: data[name] for name in data.files}
    vertices = settings.pop("vertices").astype(np.float32)
    faces = settings.pop("faces").astype(np.int64)
    vertices = normalise_scale(vertices[faces.reshape(-1)], vertices)
    # Should the parent die without killing us, this ends us, even in the middle of xatlas.
    faulthandler.dump_traceback_later(float(settings["time_limit_s"]) + 5.0, exit=True)
    places, corners, chart, density, side = parameterise(vertices, faces, settings)
    places = equalise_texel_density(places, corners, chart, triangle_areas(vertices[faces].astype(np.float64)))
    texel = side / density / int(settings["texture_px"])  # about, in units
    depth = MAX_OVERLAP_PX * texel
    places, corners, chart = separate_overlaps(places, corners, chart, depth)
    uv, chart = pack(places, corners, chart, (density, side), settings)
    uv[..., 1] = 1.0 - uv[..., 1]  # v grows downwards from the top of the image
    np.savez(target, uv=uv.astype(np.float32), chart=chart)
    return 0


def start(words: list[str]) -> int:
    """Runs `main` on the first two words, tied to the parent whose process id is the third."""
    if len(words) == 3 and not sys.platform.startswith("linux"):
        return run_in_child(words[:2])
    if len(words) == 3:
        exit_with_parent(int(words[2]))
    return main(*words[:2])


if __name__ == "__main__":
    try:
        sys.exit(start(sys.argv[1:]))
    except AtlasError as reason:
        sys.exit(str(reason))
