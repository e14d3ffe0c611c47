"""Start of a fit: splats on a fused surface, a given mesh, or the visual hull."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from ..errors import InputError, StageError
from ..fusion.checks.normals import check_normals
from ..fusion.fuse import refine_poses
from ..mesh import Mesh
from ..progress import Progress
from ..splats import Splats
from ..texturing.own_colour import has_own_colour
from ..texturing.view_fit import check_views_fit
from ..views import Views
from .config import SplatFitConfig
from .initialise import initial_splats
from .surface import fuse_coloured_mesh, novel_views, splats_on_mesh

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FitStart:
    """What an optimisation starts from."""

    splats: Splats
    """Initial splats in the world of the cameras."""
    views: Views
    """The given views without normals, with refined cameras if these were to be refined."""
    novel: Views | None
    """Renders of the surface from other directions; None without a surface."""
    init: str
    """Where the splats are: surface, hull, mesh or given."""


def check_start_mesh(mesh: Mesh, views: Views, progress: Progress) -> None:
    """Raises InputError unless a mesh has colours and the views fit it."""
    if not has_own_colour(mesh):
        raise InputError(
            "the mesh has no colours to start from.",
            "Connect a mesh with a texture or vertex colours, or none.",
        )
    check_views_fit(mesh, views, progress)


def start_fit(
    views: Views,
    config: SplatFitConfig,
    progress: Progress,
    device: torch.device,
    splats: Splats | None = None,
    mesh: Mesh | None = None,
) -> FitStart:
    """Prepares a fit.

    Args:
        views: with masks, and normals or not.
        config: complete settings.
        progress: receives each step.
        device: of a fusion.
        splats: given splats; nothing else is prepared.
        mesh: given surface with colours, instead of a fused one.

    Raises:
        InputError, StageError: as `carve_hull`, and as `fuse_sdf` for poses and for the init
            "surface".
    """
    if splats is None and mesh is None and _starts_on_surface(views, config):
        mesh, views = _fused_mesh(views, config, progress, device)
        init = "surface"
    else:
        init = "mesh"
        if config.refine_poses:
            views = refine_poses(views, progress=progress, device=device)
    views = views.to("cpu").without_normals()
    if splats is not None:
        return FitStart(splats, views, None, "given")
    if mesh is None:
        splats = initial_splats(views, config.count, config.seed, progress)
        return FitStart(splats, views, None, "hull")
    mesh = mesh.to("cpu").with_origin(views.cameras.origin)
    splats = splats_on_mesh(mesh, config.count, config.seed)
    return FitStart(splats, views, novel_views(mesh, views.cameras, progress), init)


def _starts_on_surface(views: Views, config: SplatFitConfig) -> bool:
    """Whether a surface is to be fused first; warns about normals that cannot be used."""
    if config.init == "surface":
        check_normals(views)
        return True
    if config.init == "hull" or views.normals is None:
        return False
    try:
        check_normals(views)
    except InputError as error:
        logger.warning("the splats start on the visual hull, without the normals: %s", error)
        return False
    return True


def _fused_mesh(
    views: Views, config: SplatFitConfig, progress: Progress, device: torch.device
) -> tuple[Mesh | None, Views]:
    """The fused mesh and the views with refined cameras; no mesh, and a warning, if it fails."""
    try:
        return fuse_coloured_mesh(views, config.refine_poses, config.seed, progress, device)
    except StageError as error:
        if config.init == "surface":
            raise
        logger.warning("the fusion failed (%s): the splats start on the visual hull", error)
        return None, views
