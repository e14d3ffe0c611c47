"""Objects, cameras and inputs of the uses."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from nova3d_core.cameras.cameras import Cameras, cameras_at, cameras_from_orbit
from nova3d_core.cameras.orbits import OrbitConfig, preset_orbit
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import encode_normals
from nova3d_core.fusion.checks.inputs import check_views
from nova3d_core.imaging.assemble import assemble_views
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline.stages import ensure_masks
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.training.procedural.catalog import procedural_object
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[2]
SIZE_PX = 160

Use = Callable[[str], None]
"""Runs what a user does with an object of this name."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of `assemble_views`, as a user connects them."""

    images: Tensor
    """(V, H, W, 3) in 0..1."""
    cameras: Cameras
    masks: Tensor | None
    """(V, H, W) in 0..1."""
    normals: Tensor | None = None
    """(V, H, W, 3) encoded in 0..1."""
    normal_frame: str = "world"

    @classmethod
    def of(cls, views: Views, frame: str | None = None) -> Inputs:
        """Inputs from rendered views; with normals if a frame is given."""
        normals = None if frame is None else encode_normals(views.with_normals_in(frame).normals)
        return cls(views.colour, views.cameras, views.masks, normals, frame or "world")

    def reordered(self, order: list[int]) -> Inputs:
        """The images in another order, on the same cameras."""
        normals = None if self.normals is None else self.normals[order]
        return replace(self, images=self.images[order], masks=self.masks[order], normals=normals)

    def check(self) -> None:
        """Assembles the views and runs all checks that precede a fusion."""
        views = assemble_views(
            self.images, self.cameras, self.normals, self.masks, self.normal_frame
        )
        check_views(ensure_masks(views))


@cache
def _scans() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory()
    with zipfile.ZipFile(ROOT / "tests" / "data" / "objects.zip") as file:
        file.extractall(folder.name)
    return folder


@cache
def load_object(name: str) -> Mesh:
    """A scan, the shipped knight, or a procedural object "kind:seed", as a unit-sized mesh."""
    import json

    if ":" in name:
        kind, seed = name.split(":")
        return procedural_object(int(seed), kind).normalised()
    if name == "knight":
        path = ROOT / "nova3d_core" / "assets" / "character_knight.glb"
        return read_mesh(path, "+Y").normalised()
    folder = Path(_scans().name)
    objects = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["objects"]
    entry = next(each for each in objects if each["name"] == name)
    return read_mesh(folder / entry["file"], entry["up_axis"]).normalised()


def rig(count: int = 16, elevation_deg: float = 0.0, kind: str = "perspective") -> OrbitConfig:
    return OrbitConfig(
        RigConfig(count, elevation_deg, kind=kind, width_px=SIZE_PX, height_px=SIZE_PX)
    )


def sine_rig(count: int = 21) -> OrbitConfig:
    return replace(rig(count), motion="sine")


def model_rig(preset: str) -> OrbitConfig:
    return preset_orbit(preset, SIZE_PX, SIZE_PX)


def two_rings(count: int = 8) -> OrbitConfig:
    """Two rings at elevations 0 and 30, ring by ring."""
    azimuths = tuple(360.0 * index / count for index in range(count))
    return replace(
        rig(), motion="custom", azimuths_deg=azimuths * 2,
        elevations_deg=(0.0,) * count + (30.0,) * count,
    )  # fmt: skip


def clockwise_rig(count: int, elevation_deg: float) -> OrbitConfig:
    azimuths = tuple(-360.0 * index / count for index in range(count))
    return replace(rig(count, elevation_deg), motion="custom", azimuths_deg=azimuths)


def photographs(count: int = 14) -> Cameras:
    """Cameras at irregular angles, as of hand-held photographs."""
    random = torch.Generator().manual_seed(5)
    azimuths = 360.0 * (torch.arange(count) + 0.6 * torch.rand(count, generator=random)) / count
    elevations = -10.0 + 60.0 * torch.rand(count, generator=random)
    return cameras_at(azimuths.tolist(), elevations.tolist(), rig().rig)


@cache
def rendered(name: str, orbit: OrbitConfig) -> Views:
    return render_views(load_object(name), cameras_from_orbit(orbit), RenderConfig(2)).views
