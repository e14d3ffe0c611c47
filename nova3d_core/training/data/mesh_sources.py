"""Sources of meshes to render: a list of files, or the procedural generator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...conventions import UP_AXES, UpAxis
from ...errors import InputError
from ...mesh import Mesh
from ..procedural import grid_cells, procedural_object
from ..procedural.builder import euler_rotation
from .config import DatasetConfig
from .render import is_closed, render_object
from .sampled_orbits import orbit_of_object
from .stream import object_seed

Item = tuple[str, dict[str, Any], dict[str, Any]]
"""Key, images as returned by `render_object`, and metadata for the object's JSON."""

GREY_NOTE = "no texture or vertex colours: rendered grey"
OPEN_NOTE = "open or non-manifold: rendered double-sided"


@dataclass(frozen=True)
class ProceduralObjects:
    """The first `count` objects of a seed's sequence."""

    count: int

    def identity(self) -> dict[str, Any]:
        """What determines the objects."""
        return {"source": "procedural", "objects": self.count}

    def render(self, number: int, config: DatasetConfig) -> Item:
        """Generates and renders one object."""
        seed = object_seed(config.seed, number)
        mesh = procedural_object(seed, cells=grid_cells(config.image.size_px))
        orbit = orbit_of_object(config.image.orbit, config.image.view_count, seed)
        images = render_object(mesh, config=config.image, closed=True, orbit=orbit)
        metadata = {"source": "procedural", "seed": seed, "faces": len(mesh.faces), "notes": []}
        return f"procedural-{seed}", images, metadata


@dataclass(frozen=True)
class MeshList:
    """Mesh files, each rendered from one or several random yaws."""

    paths: tuple[str, ...]
    """File paths; a tab and +Y or +Z after one gives its up axis."""
    yaws_per_mesh: int = 1

    @property
    def count(self) -> int:
        """Number of objects."""
        return len(self.paths) * self.yaws_per_mesh

    def identity(self) -> dict[str, Any]:
        """What determines the objects."""
        digest = hashlib.sha256("\n".join(self.paths).encode()).hexdigest()[:16]
        return {"source": "meshes", "objects": self.count, "list": digest}

    def render(self, number: int, config: DatasetConfig) -> Item:
        """Reads and renders one mesh at a yaw that follows from seed and number.

        Raises:
            InputError: the file is missing, unreadable or too large, or its front view is empty.
        """
        index, yaw = divmod(number, self.yaws_per_mesh)
        path, up_axis = _parse_line(self.paths[index], config.up_axis)
        mesh = _read(path, config, up_axis)
        yaw_deg = float(np.random.default_rng((config.seed, index, yaw)).uniform(0, 360))
        matrix = torch.eye(4)
        matrix[:3, :3] = torch.from_numpy(euler_rotation(y_deg=yaw_deg)).float()
        mesh = mesh.transformed(matrix).normalised()
        notes = [GREY_NOTE] if mesh.texture is None and mesh.vertex_colours is None else []
        closed = is_closed(mesh)
        notes += [] if closed else [OPEN_NOTE]
        kind = replace(config.image.orbit, random_yaw=False)  # it has one already
        orbit = orbit_of_object(kind, config.image.view_count, config.seed, index, yaw)
        images = render_object(mesh, config=config.image, closed=closed, orbit=orbit)
        if not bool(images["mask"][0].any()):
            raise InputError(f"{path}: its front view is empty.")
        metadata = {
            "source": str(path),
            "up_axis": up_axis,
            "yaw_deg": yaw_deg,
            "faces": len(mesh.faces),
            "notes": notes,
        }
        return f"mesh-{index:07d}-{yaw:03d}", images, metadata


def _parse_line(line: str, default: UpAxis) -> tuple[Path, UpAxis]:
    """File and up axis of a line of the list."""
    name, _, up_axis = line.rpartition("\t")
    return (Path(name.rstrip()), up_axis) if up_axis in UP_AXES and name else (Path(line), default)


def _read(path: Path, config: DatasetConfig, up_axis: UpAxis) -> Mesh:
    """Reads a mesh within the limits of size."""
    from ...io.mesh.read import read_mesh

    mib = path.stat().st_size / 2**20 if path.is_file() else 0.0
    if mib > config.max_mesh_mib:
        raise InputError(
            f"{path} is {mib:.0f} MiB large, above the limit of {config.max_mesh_mib:g}.",
            "Raise max_mesh_mib to include it.",
        )
    mesh = read_mesh(path, up_axis)
    if len(mesh.faces) > config.max_faces:
        raise InputError(
            f"{path} has {len(mesh.faces)} faces, above the limit of {config.max_faces}.",
            "Decimate it, or raise max_faces.",
        )
    return mesh


def read_mesh_list(path: Path, yaws_per_mesh: int = 1) -> MeshList:
    """Reads a text file that lists one mesh file per line, relative to its own folder.

    A tab and +Y or +Z after a name gives the mesh's up axis. Empty lines and lines that start with
    # are skipped.

    Raises:
        InputError: the list is missing, not text, or contains no mesh.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"mesh list {path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"mesh list {path} cannot be read as text: {error}.",
            "Provide a text file with one mesh file per line.",
        ) from error
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise InputError(f"mesh list {path} contains no mesh.", "Write one mesh file per line.")
    folder = path.resolve().parent
    return MeshList(tuple(str(folder / name) for name in names), yaws_per_mesh)
