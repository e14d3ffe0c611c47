"""The stages of the fusion pipeline.

`fuse.fuse_views` runs them in sequence; the nodes run them one by one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..checks import check_between
from ..compute.host_memory import release_unused_memory
from ..errors import InputError, StageError
from ..fusion.config import SdfFusionConfig
from ..fusion.fuse import fuse_sdf, refine_poses, with_refined_cameras
from ..fusion.hull.visual_hull import carve_hull, check_carvable
from ..fusion.poses.view_warps import warp_views
from ..fusion.surface import FusionReport, Surface
from ..fusion.working_size import working_views
from ..imaging.matte import matte_from_white
from ..mesh import Mesh
from ..meshing.clean import make_manifold, remove_small_components
from ..meshing.config import MeshingConfig
from ..meshing.isosurface import extract_surface
from ..meshing.simplify import simplify
from ..meshing.unobserved import smooth_unobserved
from ..meshing.unwrap.unwrap import unwrap
from ..progress import SILENT, Progress
from ..sdf_grid import SdfGrid, grid_points, sample_trilinear
from ..texturing.bake import bake_texture, check_edit_masks
from ..texturing.lighting.unlight import Unlit, unlight
from ..texturing.own_colour import OwnColour, has_own_colour
from ..texturing.view_fit import check_views_fit
from ..texturing.visibility import observed_vertices
from ..views import Views
from ..wording import by_interface
from .config import FuseConfig
from .memory import check_fusion_memory

logger = logging.getLogger(__name__)

MIN_OBSERVED_COSINE = 0.2
"""A view observes a surface whose normal has at least this cosine with the viewing direction."""


@dataclass(frozen=True, eq=False)
class FusionResult:
    """A textured mesh, with the intermediate results and timings of all stages."""

    mesh: Mesh
    """Closed and manifold, with outward normals, uv and texture."""
    coverage: Tensor
    """(size, size) in 0..1: 1 where views observe the texel, 0 where it was filled."""
    unwrap_method: str
    """"xatlas", "box", or "given" if the mesh's own uv were kept."""
    views: Views
    """The views that were baked, with masks and refined cameras."""
    surface: Surface | None = None
    """The fused surface or the hull; None where a given mesh was baked."""
    unlit: Unlit | None = None
    """The light of the views, if it was to be removed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage in seconds."""


class StageTimer:
    """Measures the wall time of named stages; repeated stages are summed."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the `with` block."""
        release_unused_memory()  # of the previous stage
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed


def fuse_to_surface(
    views: Views,
    config: FuseConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
    timer: StageTimer | None = None,
) -> tuple[Surface, Views]:
    """Fuses views into a surface; arguments and errors as `fuse.fuse_views`.

    Returns:
        The surface, and the views with masks and refined cameras. A hull is a surface whose report
        has no steps, with the input cameras and no conflict.
    """
    config, timer = config or FuseConfig(), timer or StageTimer()
    views = ensure_masks(views).to("cpu")
    check_fusion_memory(views, config, device)
    if config.method == "sdf":
        try:
            with timer.stage("fusing"):
                surface = fuse_sdf(views, config.sdf, progress, device)
            return surface, with_refined_cameras(views, surface)
        except StageError as error:
            if config.fallback != "hull":
                raise
            logger.warning("the fusion failed (%s): falling back to the visual hull", error)
    with timer.stage("carving"):
        return hull_surface(views, config, progress), views


def hull_surface(views: Views, config: FuseConfig, progress: Progress = SILENT) -> Surface:
    """The visual hull of masked views as a surface."""
    check_carvable(views)
    grid = carve_hull(working_views(views, config.hull.resolution), config.hull, progress)
    report = FusionReport(steps=0, rays=0, spacing=grid.spacing)
    return Surface(grid, torch.eye(4), views.cameras, torch.zeros_like(views.masks), report)


def ensure_masks(views: Views) -> Views:
    """The same views with masks; missing masks are mattes from the white background."""
    if views.masks is not None:
        return views
    logger.info("the views have no masks: making mattes from their white background")
    return replace(views, masks=matte_from_white(views.colour))


def refine_views(
    views: Views,
    config: SdfFusionConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
    mesh: Mesh | None = None,
) -> Views:
    """`fusion.fuse.refine_poses` for views with or without masks; see `ensure_masks`.

    A mesh of the object, if given, is compared with the views first; see `check_views_fit`.
    """
    if mesh is not None:
        check_views_fit(mesh, views, progress)
    return refine_poses(ensure_masks(views), config, progress, device)


def extract_mesh(
    surface: Surface,
    config: MeshingConfig | None = None,
    resolution: int = 0,
    progress: Progress = SILENT,
    timer: StageTimer | None = None,
) -> Mesh:
    """The surface as a simplified, closed, manifold mesh with smooth normals, in world space.

    Args:
        surface: fused or carved.
        config: number of faces, size of floaters to remove, smoothing of unobserved regions.
        resolution: cells along the longest side of the surface's grid, 16 to 1024; 0 keeps the
            grid. A finer grid than the surface's own only interpolates it.
        progress: reports each step.
        timer: adds up the seconds of the stage.
    """
    config, timer = config or MeshingConfig(), timer or StageTimer()
    with timer.stage("meshing"):
        grid = surface.grid
        if resolution:
            grid = resample_grid(surface.grid, resolution)
            cells = config.smooth_unobserved_cells * surface.grid.spacing / grid.spacing
            config = replace(config, smooth_unobserved_cells=cells)
        raw = extract_surface(grid).transformed(surface.field_to_world)
        raw = replace(raw, origin=surface.cameras.origin)
        progress.update("meshing", 0, 4)
        mesh = remove_small_components(raw, config.min_component_area_ratio)
        progress.update("meshing", 1, 4)
        if config.smooth_unobserved_cells > 0 and not surface.is_hull:  # a hull is free of noise
            observed = observed_vertices(mesh, surface.cameras, MIN_OBSERVED_COSINE, progress)
            mesh = smooth_unobserved(mesh, observed, config.smooth_unobserved_cells)
        progress.update("meshing", 2, 4)
        simplified = simplify(mesh, config.target_faces)
        progress.update("meshing", 3, 4)
        closed = make_manifold(simplified)
        progress.update("meshing", 4, 4)
        return closed.with_smooth_normals()


def resample_grid(grid: SdfGrid, resolution: int) -> SdfGrid:
    """Trilinear resampling to a grid of `resolution` cells along its longest side."""
    check_between("surface resolution", resolution, 16, 1024)
    extent = (torch.tensor(grid.values.shape) - 1) * grid.spacing  # (3,)
    spacing = float(extent.max()) / resolution
    shape = [int(cells) + 1 for cells in (extent / spacing).round().clamp_min(1).tolist()]
    # the new grid may extend beyond the old one by half a cell, where values are clamped
    points = grid_points(torch.zeros(3), spacing, tuple(shape))
    values = sample_trilinear(grid.values.cpu()[None], points / extent * 2.0 - 1.0)
    return SdfGrid(values.reshape(shape), grid.origin.cpu(), spacing)


def bake_views(
    mesh: Mesh,
    views: Views,
    config: FuseConfig | None = None,
    surface: Surface | None = None,
    keep_uv: bool = True,
    progress: Progress = SILENT,
    timer: StageTimer | None = None,
    keep_colour: bool = True,
    edit_masks: Tensor | None = None,
    check_fit: bool = True,
) -> FusionResult:
    """Unwraps a mesh and bakes the views onto it.

    Args:
        mesh: any mesh in the world frame of the views' cameras.
        views: with masks, or on a white background.
        config: settings of unwrapping and baking.
        surface: the surface that was fused from these views; provides cameras and conflict maps.
        keep_uv: keep the mesh's own uv if it has any, instead of unwrapping it again.
        progress: reports each step.
        timer: adds up the seconds of the stages.
        keep_colour: keep the mesh's own texture or vertex colours, if any, where no view sees it,
            instead of inpainting.
        edit_masks: (V, H, W) in 0..1: bake only these pixels over the mesh's own colours.
        check_fit: compare the mesh's silhouettes with the masks first; see `check_views_fit`.

    Raises:
        InputError: the surface was fused from other views, the views do not fit the mesh, or as
            `bake_texture`; edit masks are checked before any work.
        StageError: no view observes the mesh.
    """
    config, timer = config or FuseConfig(), timer or StageTimer()
    if edit_masks is not None:
        check_edit_masks(edit_masks, views, has_own_colour(mesh))
        if not keep_colour:
            option = by_interface("--no-keep-texture", "keep_texture off")
            logger.warning("%s has no effect with edit masks: the mesh's colours are kept.", option)
    given_masks, views = views.masks, ensure_masks(views)
    mesh, method, conflict = mesh.with_origin(views.cameras.origin), "given", None
    if surface is not None:
        _check_same_views(surface, views)
        views, conflict = with_refined_cameras(views, surface), surface.conflict
        if surface.warps is not None:
            views = warp_views(views, surface.warps)
    if check_fit:
        check_views_fit(mesh, replace(views, masks=given_masks), progress)
    unlit = None
    if config.unlight:
        with timer.stage("removing light"):
            unlit = unlight(views, mesh, config.light, progress, check_fit=False)
        views = unlit.views
    keep_uv = keep_uv and mesh.uv is not None
    keep_colour = keep_colour or edit_masks is not None
    own_colour = OwnColour.of(mesh, keep_uv) if keep_colour else None
    if not keep_uv:
        with timer.stage("unwrapping"):
            unwrapped = unwrap(mesh, config.unwrap, progress, config.bake.texture_px)
        mesh, method = unwrapped.mesh, unwrapped.method
    with timer.stage("baking"):
        baked = bake_texture(mesh, views, config.bake, progress, conflict, own_colour, edit_masks)
    return FusionResult(baked.mesh, baked.coverage, method, views, surface, unlit, timer.seconds)


def _check_same_views(surface: Surface, views: Views) -> None:
    if surface.conflict.shape != views.colour.shape[:3]:
        count, height, width = surface.conflict.shape
        raise InputError(
            f"the surface was fused from {count} views of {width}x{height} px, but these are "
            f"{len(views)} of {views.cameras.width}x{views.cameras.height} px.",
            "Use the views that the fusion returned, or no surface.",
        )


def texture_surface(
    surface: Surface, views: Views, config: FuseConfig | None = None, progress: Progress = SILENT
) -> Mesh:
    """A surface as a textured mesh: `extract_mesh`, then `bake_views`."""
    config = config or FuseConfig()
    mesh = extract_mesh(surface, config.meshing, progress=progress)
    baked = bake_views(mesh, views, config, surface, progress=progress, check_fit=False)
    return baked.mesh


def scale_steps(config: SdfFusionConfig, scale: float) -> SdfFusionConfig:
    """The settings with the steps of each level multiplied by `scale`, at least one per level."""
    check_between("steps scale", scale, 0.01, 100.0)
    complete = config.complete()  # also sets the number of rays for the field
    scaled = tuple(
        replace(level, steps=max(round(level.steps * scale), 1)) for level in complete.levels
    )
    return replace(complete, levels=scaled)


def conflict_images(surface: Surface) -> Tensor:
    """(V, H, W, 3) greyscale images of the conflict maps, white at full conflict."""
    return surface.conflict.clamp(0.0, 1.0)[..., None].repeat(1, 1, 1, 3)
