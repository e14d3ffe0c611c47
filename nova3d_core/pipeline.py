"""The whole way from views to a textured mesh, one stage after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module

import torch
from torch import Tensor

from .cameras import Cameras
from .errors import StageError
from .fusion.optimise import fuse_sdf, with_refined_cameras
from .fusion.surface import Surface
from .fusion.visual_hull import carve_hull, check_carvable
from .fusion.working_size import working_views
from .host_memory import release_unused_memory
from .imaging.matte import matte_from_white
from .mesh import Mesh
from .meshing.clean import keep_largest_parts, make_manifold
from .meshing.config import MeshingConfig
from .meshing.isosurface import extract_surface
from .meshing.simplify import simplify
from .meshing.unseen import smooth_unseen
from .meshing.unwrap import unwrap
from .pipeline_config import FuseConfig
from .pipeline_memory import check_fusion_memory
from .progress import SILENT, Progress
from .texturing.bake import bake_texture
from .texturing.visibility import seen_vertices
from .views import Views

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fused:
    """A textured mesh and how it came about."""

    mesh: Mesh
    """Closed and manifold, with outward normals, uv and texture."""
    coverage: Tensor
    """(size, size) in 0..1: which texels the views have seen."""
    unwrap_method: str
    """"xatlas", "box" where the fallback atlas had to serve, "given" for the mesh's own uv."""
    views: Views
    """What was baked: masked views with refined cameras."""
    surface: Surface | None = None
    """What the optimisation found; None for the hull."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""


def fuse_views(
    views: Views,
    config: FuseConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Fused:
    """Fuses views into a textured mesh in the world of their cameras.

    Args:
        views: two or more; without masks, a matte is taken from their white background.
        config: settings of all stages.
        progress: told about each step of each stage.
        device: where to optimise.

    Raises:
        InputError: the views cannot be fused, e.g. an empty mask.
        StageError: a stage failed; the error names it.
    """
    config = config or FuseConfig()
    clock = StageClock()
    views = with_masks(views)
    check_fusion_memory(views, config, device)
    surface = None
    if config.method == "sdf":
        with clock.stage("fusing"):
            surface = optimised_surface(views, config, progress, device)
    if surface is None:
        with clock.stage("carving"):
            check_carvable(views)
            reduced = working_views(views, config.hull.resolution)
            grid = carve_hull(reduced, config.hull, progress)
        with clock.stage("meshing"):
            raw = extract_surface(grid)
            raw = replace(raw, origin=views.cameras.origin)
    else:
        views = with_refined_cameras(views, surface)
        with clock.stage("meshing"):
            raw = extract_surface(surface.grid).transformed(surface.field_to_world)
            raw = replace(raw, origin=views.cameras.origin)
    cameras = None if surface is None else views.cameras  # a hull has no bumps
    mesh = mesh_surface(raw, config.meshing, clock, progress, cameras)
    conflict = None if surface is None else surface.conflict
    fused = texture_mesh(mesh, views, config, clock, progress, conflict)
    return replace(fused, surface=surface)


def optimised_surface(
    views: Views, config: FuseConfig, progress: Progress, device: torch.device | str
) -> Surface | None:
    """The optimised surface; None if that failed and the user asked for the hull then."""
    try:
        return fuse_sdf(views, config.sdf, progress, device)
    except StageError as error:
        if config.fallback != "hull":
            raise
        logger.warning("the fusion failed (%s): carving the hull instead, as asked", error)
        return None


def with_masks(views: Views) -> Views:
    """The same views; where they have no masks, with mattes of their white background."""
    if views.masks is not None:
        return views
    logger.info("the views have no masks: taking mattes from their white background")
    return replace(views, masks=matte_from_white(views.colour))


def mesh_surface(
    surface: Mesh,
    config: MeshingConfig,
    clock: StageClock,
    progress: Progress = SILENT,
    cameras: Cameras | None = None,
) -> Mesh:
    """A raw isosurface without its crumbs, with fewer faces, closed and manifold.

    Given the views' cameras, what none of them sees is smoothed.
    """
    with clock.stage("meshing"):
        import_module("trimesh")  # a Ctrl-C while it loads is lost, so not amid the work
        progress.update("meshing", 0, 4)
        mesh = keep_largest_parts(surface, config.min_part_share)
        progress.update("meshing", 1, 4)
        if cameras is not None and config.smooth_unseen > 0:
            seen = seen_vertices(mesh, cameras, config.seen_cosine, progress)
            mesh = smooth_unseen(mesh, seen, config.smooth_unseen)
        progress.update("meshing", 2, 4)
        light = simplify(mesh, config.target_faces)
        progress.update("meshing", 3, 4)
        closed = make_manifold(light)
        progress.update("meshing", 4, 4)
    return closed


def texture_mesh(
    surface: Mesh,
    views: Views,
    config: FuseConfig,
    clock: StageClock,
    progress: Progress = SILENT,
    conflict: Tensor | None = None,
) -> Fused:
    """Unwraps a closed surface and bakes the views onto it; see `bake_texture` for conflict."""
    with clock.stage("unwrapping"):
        unwrapped = unwrap(surface, config.unwrap, progress, config.bake.texture_px)
    with clock.stage("baking"):
        baked = bake_texture(unwrapped.mesh, views, config.bake, progress, conflict)
    return Fused(baked.mesh, baked.coverage, unwrapped.method, views, seconds=clock.seconds)


class StageClock:
    """Wall seconds of named stages; a stage entered twice adds up."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside the `with` block."""
        release_unused_memory()  # of whatever came before
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
