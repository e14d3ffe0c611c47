"""UV unwrapping with a time limit: xatlas in a subprocess, the box atlas as fallback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from ...errors import InputError
from ...io.files.staging import scratch_folder
from ...mesh import Mesh
from ...progress import SILENT, Progress
from ..config import UnwrapConfig, UnwrapMethod
from .box_atlas import box_atlas

logger = logging.getLogger(__name__)

STAGE = "unwrapping"
WORKER = Path(__file__).with_name("worker.py")
POLL_INTERVAL_S = 0.05
"""Interval of checks for the worker's exit, cancellation and the time limit."""


@dataclass(frozen=True, eq=False)
class UnwrapResult:
    """A mesh with texture coordinates, its charts, and the method that produced them."""

    mesh: Mesh
    """Face i is face i of the input, with the same corner positions; vertices are split at seams
    and unreferenced vertices are removed. It has uv and no texture."""
    chart: torch.Tensor
    """(F,) int64 chart index of each face on the CPU, -1 for degenerate faces without a chart."""
    method: UnwrapMethod
    """The method that was used: "xatlas" or "box"."""
    seconds: float
    """Wall time."""

    @property
    def chart_count(self) -> int:
        """Number of charts."""
        return int(self.chart.max()) + 1


class _XatlasError(Exception):
    """xatlas produced no usable atlas; the message is the reason."""


def unwrap(
    mesh: Mesh,
    config: UnwrapConfig | None = None,
    progress: Progress = SILENT,
    texture_px: int = 1024,
) -> UnwrapResult:
    """Unwraps a mesh into padded, non-overlapping charts that fill the texture.

    Charts show the outside of the surface and are never mirrored. If xatlas is missing, fails or
    exceeds its time limit, the box atlas is used and a warning is logged.

    Args:
        mesh: any triangles; its uv and texture are dropped, its other attributes kept.
        config: None for the defaults.
        progress: cancellation takes effect within a tenth of a second while xatlas runs.
        texture_px: side of the texture that the charts are packed for, at least 16 times the
            padding.

    Raises:
        InputError: the texture is too small for the padding.
        Cancelled: cancelled by the user; the worker process has ended by then.
    """
    config = config or UnwrapConfig()
    if texture_px < 16 * max(config.padding_px, 1):
        raise InputError(
            f"a texture of {texture_px} px is too small for a padding of {config.padding_px} px.",
            f"Use {16 * max(config.padding_px, 1)} px or more, or less padding.",
        )
    if mesh.material is not None and mesh.material.maps:
        logger.warning(
            "new UVs drop the mesh's %s: keep its UVs to keep them",
            ", ".join(label for label in mesh.material.labels if label.endswith(" map")),
        )
    start = time.monotonic()
    progress.update(STAGE, 0, 2)
    method = config.method
    if method == "xatlas":
        try:
            uv, chart = _xatlas(mesh, texture_px, config, progress)
        except _XatlasError as reason:
            logger.warning("%s; falling back to the box atlas", reason)
            method = "box"
    progress.update(STAGE, 1, 2)
    if method == "box":
        uv, chart = box_atlas(mesh, texture_px, config.padding_px, progress)
    split = split_at_seams(mesh, uv, chart)
    progress.update(STAGE, 2, 2)
    return UnwrapResult(split, torch.from_numpy(chart), method, time.monotonic() - start)


def split_at_seams(mesh: Mesh, uv: np.ndarray, chart: np.ndarray) -> Mesh:
    """A mesh with per-vertex uv: vertices are split where corners differ in chart or uv.

    Args:
        mesh: its normals and colours are copied with the vertices.
        uv: (F, 3, 2) float32 per corner.
        chart: (F,) int chart index of each face.
    """
    faces = mesh.faces.cpu().numpy()
    bits = np.ascontiguousarray(uv.reshape(-1, 2), dtype=np.float32).view(np.int32)
    keys = np.stack([bits[:, 1], bits[:, 0], np.repeat(chart, 3), faces.reshape(-1)])  # (4, F * 3)
    order = np.lexsort(keys)
    ordered = keys[:, order]
    new = np.r_[True, (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)]
    corner_vertex = np.zeros(len(order), dtype=np.int64)
    corner_vertex[order] = np.cumsum(new) - 1
    first = order[new]  # one corner for each vertex

    device = mesh.vertices.device
    origin = torch.from_numpy(faces.reshape(-1)[first]).to(device)
    return replace(
        mesh,
        vertices=mesh.vertices[origin],
        faces=torch.from_numpy(corner_vertex.reshape(-1, 3)).to(device),
        uv=torch.from_numpy(uv.reshape(-1, 2)[first]).to(device),
        texture=None,
        tangents=None,  # along the old uv
        material=None if mesh.material is None else mesh.material.without_maps(),
        normals=None if mesh.normals is None else mesh.normals[origin],
        vertex_colours=None if mesh.vertex_colours is None else mesh.vertex_colours[origin],
    )


def _xatlas(
    mesh: Mesh, texture_px: int, config: UnwrapConfig, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """uv (F, 3, 2) float32 and chart (F,) from the worker process; raises `_XatlasError`."""
    if util.find_spec("xatlas") is None:
        raise _XatlasError("the package 'xatlas' is not installed")
    if not sys.executable:
        raise _XatlasError("xatlas needs the path of the Python interpreter, which is unknown")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder(Path(tempfile.gettempdir())))
            source, target = folder / "in.npz", folder / "out.npz"
            np.savez(
                source,
                vertices=mesh.vertices.float().cpu().numpy(),
                faces=mesh.faces.cpu().numpy(),
                texture_px=texture_px,
                padding_px=config.padding_px,
                faces_per_chunk=config.faces_per_chunk,
                time_limit_s=config.time_limit_s,
            )
            _run_worker(source, target, config.time_limit_s, progress)
            with np.load(target) as answer:
                uv, chart = answer["uv"], answer["chart"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise _XatlasError(f"xatlas could not be run ({error})") from error
    fits = uv.shape == (len(mesh.faces), 3, 2) and chart.shape == (len(mesh.faces),)
    if not fits or not (np.isfinite(uv).all() and uv.min() >= 0.0 and uv.max() <= 1.0):
        raise _XatlasError("xatlas returned invalid texture coordinates")
    return uv, chart


def _run_worker(source: Path, target: Path, time_limit_s: float, progress: Progress) -> None:
    """Runs the worker process; it has ended when this returns or raises."""
    deadline = time.monotonic() + time_limit_s
    log = target.with_name("log.txt")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), str(source), str(target), str(os.getpid())],
            stdin=subprocess.PIPE,  # closed if this process dies, which ends the worker
            stdout=subprocess.DEVNULL,
            stderr=errors,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            while process.poll() is None:
                progress.check(STAGE)
                if time.monotonic() > deadline:
                    raise _XatlasError(f"xatlas did not finish within {time_limit_s:g} s")
                try:
                    process.wait(POLL_INTERVAL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            _terminate(process)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no message"
        raise _XatlasError(f"xatlas failed with code {process.returncode}: {last}")


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Kills a worker that is still running, with its child process."""
    process.stdin.close()
    if not sys.platform.startswith("linux"):
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
    process.kill()
    process.wait()
