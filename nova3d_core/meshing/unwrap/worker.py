"""Runs xatlas in a process of its own: `python worker.py IN.npz OUT.npz PARENT_PID`.

xatlas can neither be interrupted nor given a time limit, so `unwrap.py` starts this file as a
process that it can kill. This file is run by its path and imports nothing from the package, whose
name differs inside ComfyUI and which would load torch; overlaps.py is loaded by path as well.

The process exits when its parent dies, for whatever reason. xatlas holds the GIL while it works, so
no thread of this process could do that: on Linux the kernel does; elsewhere a child process does
the work, while this one waits for its stdin to close and kills the child then.

IN:  vertices (N, 3) float32, faces (F, 3) int64, texture_px, padding_px, faces_per_chunk,
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
"""Length of the bounding box after scaling: xatlas drops faces with an area below about 1e-7."""
MAX_OVERLAP_PX = 0.1
_PR_SET_PDEATHSIG = 1
MAX_PACKINGS = 6
"""Number of texel densities to try: the side that a packing needs is only known afterwards."""
TARGET_FILL = 0.985
"""Fraction of the texture's side that each packing aims at; most of them fit then."""
MIN_FILL = 0.96
"""A packing that fills this fraction of the side ends the search."""


class AtlasError(Exception):
    """xatlas cannot make an atlas for this surface; the message is the reason."""


def normalise_scale(used: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Vertices (N, 3) scaled so that the bounding box of `used` (M, 3) is `NORMALISED_SIDE` long.

    The minimum corner of the box becomes the origin.
    """
    low, high = used.min(axis=0), used.max(axis=0)
    return (vertices - low) * np.float32(NORMALISED_SIDE / max(float((high - low).max()), 1e-30))


def split_spatially(centres: np.ndarray, count: int) -> list[np.ndarray]:
    """Balanced groups of faces by recursive median splits along the longest axis.

    Args:
        centres: (F, 3) centroids of the faces.
        count: number of groups, at least 1.

    Returns:
        `count` arrays of face indices, each in ascending order.
    """
    ready, waiting = [], [(np.arange(len(centres)), count)]
    while waiting:
        faces, pieces = waiting.pop()
        if pieces == 1:
            ready.append(np.sort(faces))
            continue
        points = centres[faces]
        axis = int(np.argmax(np.ptp(points, axis=0)))
        order = faces[np.argsort(points[:, axis], kind="stable")]
        cut = len(faces) * (pieces // 2) // pieces
        waiting += [(order[:cut], pieces // 2), (order[cut:], pieces - pieces // 2)]
    return ready


def triangle_areas(corners: np.ndarray) -> np.ndarray:
    """(F,) areas of triangles (F, 3, 2 or 3)."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    squared = (a * a).sum(-1) * (b * b).sum(-1) - (a * b).sum(-1) ** 2
    return 0.5 * np.sqrt(np.maximum(squared, 0.0))


def face_charts(atlas: xatlas.Atlas, mesh: int, faces: int) -> np.ndarray:
    """(faces,) chart index of each face of one mesh, -1 for faces without a chart."""
    charts = np.full(faces, -1, dtype=np.int64)
    for index in range(atlas.get_mesh_chart_count(mesh)):
        charts[np.asarray(atlas.get_mesh_chart(mesh, index).faces)] = index
    return charts


def atlas_options(texture_px: int, padding_px: int, texels_per_unit: float = 0.0):
    """Chart and pack options; without `texels_per_unit` xatlas estimates it for `texture_px`."""
    chart = xatlas.ChartOptions()
    chart.fix_winding = True
    pack = xatlas.PackOptions()
    pack.padding = math.ceil((padding_px - 1) / 2) if padding_px > 1 else 0  # 2 p + 1 texels apart
    pack.bilinear = True
    pack.rotate_charts = False  # xatlas's rotation by 90 degrees is a reflection
    pack.resolution = 0 if texels_per_unit else texture_px
    pack.texels_per_unit = texels_per_unit
    return chart, pack


def parameterise(
    vertices: np.ndarray, faces: np.ndarray, settings: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Parameterises the surface: charts of all chunks, each chart in its own plane.

    All chunks go into one atlas: xatlas processes them in parallel and packs them together.

    Returns:
        points (M, 2) of the charts' vertices in the units of `vertices`, corners (F, 3) that index
        them, chart (F,), and xatlas's own estimate: texels per unit and the resulting side.
    """
    count = math.ceil(len(faces) / int(settings["faces_per_chunk"]))
    chunks = split_spatially(vertices[faces].mean(axis=1), count)
    atlas = xatlas.Atlas()
    for chunk in chunks:
        used, local = np.unique(faces[chunk], return_inverse=True)
        atlas.add_mesh(vertices[used], local.reshape(-1, 3).astype(np.uint32))
    atlas.generate(*atlas_options(int(settings["texture_px"]), int(settings["padding_px"])))

    if atlas.chart_count == 0:
        raise AtlasError("all faces are degenerate")
    points, vertex_count, chart_count = [], 0, 0
    corners = np.zeros(faces.shape, dtype=np.int64)
    chart = np.zeros(len(faces), dtype=np.int64)
    for mesh, chunk in enumerate(chunks):
        origin, local, uv = atlas.get_mesh(mesh)
        expected = np.unique(faces[chunk])[origin[local]]
        if not np.array_equal(expected, faces[chunk]):
            raise RuntimeError("xatlas returned the faces in another order")
        own = face_charts(atlas, mesh, len(chunk))
        chart[chunk] = np.where(own < 0, -1, own + chart_count)
        corners[chunk] = local.astype(np.int64) + vertex_count
        points.append(uv * [atlas.width, atlas.height] / atlas.texels_per_unit)
        vertex_count += len(uv)
        chart_count += atlas.get_mesh_chart_count(mesh)
    side = max(atlas.width, atlas.height)
    return np.concatenate(points), corners, chart, atlas.texels_per_unit, float(side)


def equalise_texel_density(
    points: np.ndarray, corners: np.ndarray, chart: np.ndarray, face_areas: np.ndarray
) -> np.ndarray:
    """The points (M, 2) with every chart scaled to its surface area: uniform texel density.

    The first packing has rounded charts up to whole texels, which enlarges small ones a lot.

    Args:
        points: (M, 2) vertices of the charts.
        corners: (F, 3) indices into points.
        chart: (F,) chart of each face.
        face_areas: (F,) areas on the surface.
    """
    placed = chart >= 0
    flat = np.bincount(chart[placed], triangle_areas(points[corners[placed]].astype(np.float64)))
    solid = np.bincount(chart[placed], face_areas[placed])
    scale = np.sqrt(solid / np.maximum(flat, 1e-30))
    usable = (flat > 0) & (solid > 0)
    per_vertex = np.ones(len(points))
    factor = np.where(usable, scale, 1.0)[chart[placed]]
    per_vertex[corners[placed]] = factor[:, None]
    return points * per_vertex[:, None]


def separate_overlaps(
    points: np.ndarray, corners: np.ndarray, chart: np.ndarray, depth: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, corners and charts in which no two faces overlap by more than `depth`.

    On crumpled surfaces xatlas folds a few faces over their neighbours. The smaller face of such a
    pair becomes a chart of its own, with separate vertices.
    """
    flat = points[corners]  # (F, 3, 2)
    a, b = load_sibling("overlaps").overlapping_pairs(flat, chart, depth).T
    size = triangle_areas(flat)
    loose = np.unique(np.where(size[a] < size[b], a, b))
    chart, corners = chart.copy(), corners.copy()
    chart[loose] = chart.max() + 1 + np.arange(len(loose))
    corners[loose] = len(points) + np.arange(3 * len(loose)).reshape(-1, 3)
    return np.concatenate([points, flat[loose].reshape(-1, 2)]), corners, chart


def load_sibling(name: str) -> ModuleType:
    """Loads a module of this folder by its path; it must not import from the package."""
    spec = util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pack(
    points: np.ndarray,
    corners: np.ndarray,
    chart: np.ndarray,
    estimate: tuple[float, float],
    settings: dict,
) -> tuple[np.ndarray, np.ndarray]:
    """Packs the charts into a square texture, with padding, at the largest scale that fits.

    Args:
        points: (M, 2) vertices in the mesh's own units.
        corners: (F, 3) indices into points.
        chart: (F,) chart of each face.
        estimate: texels per unit, and the side in texels of the atlas at that density.
        settings: texture_px, padding_px.

    Returns:
        uv (F, 3, 2) in 0..1 and the chart (F,) of each face.

    Raises:
        AtlasError: there are so many charts that their padding alone fills the texture.
    """
    padding = int(settings["padding_px"])
    room = int(settings["texture_px"]) - padding  # half the padding is kept free at each border
    tried = [estimate]
    best = None
    for _ in range(MAX_PACKINGS):
        density = next_density(tried, TARGET_FILL * room)
        atlas = xatlas.Atlas()
        atlas.add_uv_mesh(
            points.astype(np.float32), corners.astype(np.uint32), chart.astype(np.uint32)[:, None]
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
    """The uv (F, 3, 2) with faces without a chart collapsed to a point of an adjacent chart.

    xatlas does not place degenerate faces.
    """
    unplaced = np.flatnonzero(chart < 0)
    placed = np.flatnonzero(chart >= 0)
    face_at = np.full(int(corners.max()) + 1, -1)
    face_at[corners[placed]] = placed[:, None]
    neighbours = face_at[corners[unplaced]]  # (L, 3), -1 where a corner touches no chart
    neighbour = neighbours.max(axis=1)
    points = np.where(neighbour[:, None] >= 0, uv[neighbour, 0], uv[placed[:1], 0])
    uv = uv.copy()
    uv[unplaced] = points[:, None]
    return uv


def next_density(tried: list[tuple[float, float]], aim: float) -> float:
    """Texels per unit that should give an atlas of side `aim`, by a secant step.

    Args:
        tried: pairs of texels per unit and the resulting side.
        aim: the target side.
    """
    (d0, s0), (d1, s1) = tried[-2:] if len(tried) > 1 else (tried[0], tried[0])
    increasing = (d1 - d0) * (s1 - s0) > 0
    gradient = (d1 - d0) / (s1 - s0) if increasing else d1 / s1
    density = d1 + (aim - s1) * gradient
    return min(max(density, 0.3 * d1), 1.2 * d1)


def exit_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when the thread that started it ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # the parent has died already
        os._exit(1)


def run_in_child(arguments: list[str]) -> int:
    """Runs this file in a child process, killed when stdin closes; returns its exit code."""
    child = subprocess.Popen([sys.executable, __file__, *arguments], stdin=subprocess.DEVNULL)

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
    # ends the process, even inside xatlas, if the parent dies without killing it
    faulthandler.dump_traceback_later(float(settings["time_limit_s"]) + 5.0, exit=True)
    points, corners, chart, density, side = parameterise(vertices, faces, settings)
    face_areas = triangle_areas(vertices[faces].astype(np.float64))
    points = equalise_texel_density(points, corners, chart, face_areas)
    texel = side / density / int(settings["texture_px"])  # approximate side in units
    depth = MAX_OVERLAP_PX * texel
    points, corners, chart = separate_overlaps(points, corners, chart, depth)
    uv, chart = pack(points, corners, chart, (density, side), settings)
    uv[..., 1] = 1.0 - uv[..., 1]  # v increases downwards from the top of the image
    np.savez(target, uv=uv.astype(np.float32), chart=chart)
    return 0


def start(arguments: list[str]) -> int:
    """Runs `main` on IN and OUT; with PARENT_PID the process exits when that parent dies."""
    if len(arguments) == 3 and not sys.platform.startswith("linux"):
        return run_in_child(arguments[:2])
    if len(arguments) == 3:
        exit_with_parent(int(arguments[2]))
    return main(*arguments[:2])


if __name__ == "__main__":
    try:
        sys.exit(start(sys.argv[1:]))
    except AtlasError as reason:
        sys.exit(str(reason))
