"""Meshes that benchmarks render and compare their results with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nova3d_core.conventions import UpAxis
from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")


@dataclass(frozen=True)
class MeshFile:
    """A mesh of the benchmark."""

    name: str
    path: Path
    up_axis: UpAxis

    def read(self) -> Mesh:
        """The mesh, centred, with a longest side of 1."""
        return read_mesh(self.path, self.up_axis).normalised()


@dataclass(frozen=True)
class KnownMeshes:
    """Options that select the meshes which a benchmark renders and compares with its results."""

    meshes: Path
    """Folder of mesh files. With a manifest.json, its "objects" give name, file and up_axis."""
    up_axis: UpAxis = "+Y"
    """Up axis of the meshes without a manifest."""
    objects: tuple[str, ...] = ("animal_bull", "dino_crested", "character_knight")
    """Names of the meshes to use."""

    def reference(self, name: str) -> Mesh:
        """The mesh of this name, centred, with a longest side of 1."""
        files = {each.name: each for each in mesh_files(self.meshes, self.up_axis)}
        check_names((name,), tuple(files))
        return files[name].read()


def mesh_files(folder: Path, up_axis: UpAxis) -> list[MeshFile]:
    """The meshes of a folder, from its manifest or by file name.

    Args:
        folder: searched with its subfolders if it has no manifest.json.
        up_axis: of the meshes without a manifest.
    """
    manifest = folder / "manifest.json"
    if manifest.is_file():
        entries = json.loads(manifest.read_text(encoding="utf-8"))["objects"]
        return [
            MeshFile(entry["name"], folder / entry["file"], entry["up_axis"]) for entry in entries
        ]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MESH_SUFFIXES)
    if not paths:
        raise InputError(f"{folder} has no mesh files.", "Pass another folder with --meshes.")
    names = ["-".join(path.relative_to(folder).with_suffix("").parts) for path in paths]
    return [MeshFile(*pair, up_axis) for pair in zip(names, paths, strict=True)]


def check_names(names: Sequence[str], choices: Sequence[str]) -> None:
    """Raises InputError for a name that is not among the choices."""
    unknown = sorted(set(names) - set(choices))
    if unknown:
        raise InputError(f"'{unknown[0]}' is unknown.", f"Choose from {', '.join(choices)}.")
