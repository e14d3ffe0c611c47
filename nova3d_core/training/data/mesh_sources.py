"""What shards are rendered from: a list of mesh files, or the generator of objects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...conventions import UP_AXES, UpAxis
from ...errors import InputError
from ...mesh import Mesh
from ..procedural import cells_for, procedural_object
from ..procedural.builder import turned
from .config import DatasetConfig
from .render import is_closed, render_object
from .stream import object_seed

Item = tuple[str, dict[str, Any], dict[str, Any]]
"""Key, images as `render_object` gives them, and what is written of the object as JSON."""

GREY_NOTE = "it has neither texture nor vertex colours: rendered grey"
OPEN_NOTE = "its surface is open or not a manifold: seen from both sides"


@dataclass(frozen=True)
class ProceduralObjects:
    """The first `count` objects of a seed's row."""

    count: int

    def identity(self) -> dict[str, Any]:
        """What decides which objects these are."""
        return {"source": "procedural", "objects": self.count}

    def item(self, number: int, config: DatasetConfig) -> Item:
        """Makes and renders one object."""
        seed = object_seed(config.seed, number)
        mesh = procedural_object(seed, cells=cells_for(config.image.size_px))
        images = render_object(mesh, config=config.image, closed=True)
        about = {"source": "procedural", "seed": seed, "faces": len(mesh.faces), "notes": []}
        return f"procedural-{seed}", images, about


@dataclass(frozen=True)
class MeshList:
    """Mesh files, each from one or several random fronts."""

    paths: tuple[str, ...]
    """As they are to be opened; a tab and +Y or +Z after one says which way is up in it."""
    yaws_per_mesh: int = 1

    @property
    def count(self) -> int:
        """Objects."""
        return len(self.paths) * self.yaws_per_mesh

    def identity(self) -> dict[str, Any]:
        """What decides which objects these are."""
        digest = hashlib.sha256("\n".join(self.paths).encode()).hexdigest()[:16]
        return {"source": "meshes", "objects": self.count, "list": digest}

    def item(self, number: int, config: DatasetConfig) -> Item:
        """Reads and renders one mesh from a front that the seed and the number choose.

        Raises:
            InputError: the file is missing, unreadable or too large, or nothing is to be seen.
        """
        index, front = divmod(number, self.yaws_per_mesh)
        path, up_axis = _path_and_up(self.paths[index], config.up_axis)
        mesh = _read(path, config, up_axis)
        turn_deg = float(np.random.default_rng((config.seed, index, front)).uniform(0, 360))
        matrix = torch.eye(4)
        matrix[:3, :3] = torch.from_numpy(turned(y_deg=turn_deg)).float()
        mesh = mesh.transformed(matrix).normalised()
        notes = [GREY_NOTE] if mesh.texture is None and mesh.vertex_colours is None else []
        closed = is_closed(mesh)
        notes += [] if closed else [OPEN_NOTE]
        images = render_object(mesh, config=config.image, closed=closed)
        if not bool(images["mask"][0].any()):
            raise InputError(f"{path}: nothing of it is to be seen from its front.")
        about = {
            "source": str(path),
            "up_axis": up_axis,
            "front_turn_deg": turn_deg,
            "faces": len(mesh.faces),
            "notes": notes,
        }
        return f"mesh-{index:07d}-{front:03d}", images, about


def _path_and_up(line: str, usual: UpAxis) -> tuple[Path, UpAxis]:
    """A line of the list: the file, and which way is up in it."""
    name, _, up_axis = line.rpartition("\t")
    return (Path(name.rstrip()), up_axis) if up_axis in UP_AXES and name else (Path(line), usual)


def _read(path: Path, config: DatasetConfig, up_axis: UpAxis) -> Mesh:
    """A mesh file that is not larger than allowed."""
    from ...io.mesh.read import read_mesh

    mib = path.stat().st_size / 2**20 if path.is_file() else 0.0
    if mib > config.max_mesh_mib:
        raise InputError(
            f"{path} has {mib:.0f} MiB, more than {config.max_mesh_mib:g}.",
            "Raise most_mib to take it.",
        )
    mesh = read_mesh(path, up_axis)
    if len(mesh.faces) > config.max_faces:
        raise InputError(
            f"{path} has {len(mesh.faces)} faces, more than {config.max_faces}.",
            "Decimate it, or raise most_faces.",
        )
    return mesh


def read_mesh_list(path: Path, yaws_per_mesh: int = 1) -> MeshList:
    """The meshes that a text file names: one a line, relative to the file's folder.

    A tab and +Y or +Z after a name says which way is up in that mesh. Empty lines and lines that
    begin with # are passed over.

    Raises:
        InputError: the list is missing, no text, or names no mesh.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"mesh list {path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"mesh list {path} cannot be read as text: {error}.",
            "Give a text file that names one mesh file a line.",
        ) from error
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise InputError(f"mesh list {path} names no mesh.", "Write one mesh file a line.")
    folder = path.resolve().parent
    return MeshList(tuple(str(folder / name) for name in names), yaws_per_mesh)
