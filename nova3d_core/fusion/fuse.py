"""Views to a surface: eq. 6 minimised over signed distance, colour, poses and conflict together."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from ..compute.devices import is_out_of_memory
from ..compute.host_memory import release_unused_memory
from ..errors import InputError, StageError
from ..meshing.isosurface import extract_surface
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..sdf_grid import SdfGrid
from ..views import Views
from .checks.inputs import check_views
from .config import LevelConfig, SdfFusionConfig
from .conflict import ConflictModel
from .device import fusion_device, memory_budget_gib
from .fields.base import Field
from .fields.grid.state import bounds_of
from .finalize import silhouette_overlap, surface_of
from .hull.visual_hull import carve_hull, check_carvable
from .losses import RayLoss, Targets, ray_loss
from .poses.pose_table import PoseTable, decayed
from .poses.registration import Alignment
from .poses.soft_masks import softened_bank
from .preview import PreviewClock, preview_image
from .rays import RayBank, RayDraw, ray_bank
from .surface import Surface
from .working_size import at_full_size, working_views

logger = logging.getLogger(__name__)

STAGE = "fusing"
_TIDY_EVERY = 25
_CHECK_EVERY = 10
_FIELD_END = 0.3
"""Step sizes fall to this share over a level."""
_LEAST_RAYS = 512
_MARGIN_PX = 5
"""Pixels this far outside the masks have rays, too."""
_INFLATION = 0.012
"""Maximum offset of the initial hull over its longest side: wrong poses carve too much away."""
_OVERLAP_OF_EXACT, _OVERLAP_OF_WRONG = 0.97, 0.90
"""Mean overlap of masks and the hull's silhouettes with exact poses, and with wrong ones."""


def fuse_sdf(
    views: Views,
    config: SdfFusionConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Surface:
    """Fuses views into a surface, refining poses and finding conflicts on the way.

    Args:
        views: two or more with masks; normals help a great deal.
        config: settings; `preset_config` makes them.
        progress: told about each step, with a preview image at most every second.
        device: where to compute; the CPU is taken instead, with a warning, where the field would
            run slower than there (see `placement.choose_fusion_device`).

    Returns:
        The surface on the CPU.

    Raises:
        InputError: the views cannot be carved, or their normals are misread.
        StageError: silhouettes contradict each other, memory runs out, numbers overflow.
        Cancelled: if so asked, within a step.
    """
    config = (config or SdfFusionConfig()).complete()
    started = time.perf_counter()
    device = fusion_device(device, config.field, progress)
    views = views.to("cpu")
    if config.check_inputs:
        check_views(views, progress)
    check_carvable(views)
    reduced = working_views(views, config.levels[-1].resolution)
    hull = carve_hull(reduced, config.hull, progress)
    misfit = pose_misfit(reduced, hull)
    start = start_grid(hull, config, misfit)
    run = _begin_run(reduced, start, config, device)
    reduced = reduced.silhouettes()  # rays hold the rest from here on
    run.turn_scale = max(misfit, config.poses.silhouette_prior_scale)
    run.seconds["start"] = time.perf_counter() - started
    for index, level in enumerate(config.levels):
        _retry_with_fewer_rays(run, index, level, progress)
    run.field.tidy()
    grid = run.field.to_grid()
    surface = surface_of(reduced, grid, run.poses, run.conflict, config, run.state())
    del run  # grids and rays, before maps of full size are made
    return at_full_size(surface, views)


def pose_misfit(views: Views, hull: SdfGrid) -> float:
    """How wrong the poses are, 0..1, told by how much of the masks their common hull misses.

    Exact poses leave a hull that fills all masks but for its rounded ridges; poses that are off by
    a degree or two carve a rim off each.
    """
    mesh = extract_surface(hull)
    caster = RayCaster.of(mesh)
    overlap = silhouette_overlap(caster, views.cameras, views.masks)
    low, high = _OVERLAP_OF_WRONG, _OVERLAP_OF_EXACT
    return float(((high - overlap.mean()) / (high - low)).clamp(0.0, 1.0))


def start_grid(hull: SdfGrid, config: SdfFusionConfig, misfit: float = 1.0) -> SdfGrid:
    """Signed distances to begin with: the hull made larger, or a ball that holds it."""
    low, high = bounds_of(hull)
    longest = float((high - low).max())
    if config.init == "hull":
        inflated = hull.values - _INFLATION * longest * misfit
        return SdfGrid(inflated, hull.origin, hull.spacing)
    centre, radius = (low + high) / 2, float((high - low).norm()) / 2
    reach = radius * 1.1
    spacing = 2 * reach / 64
    origin = centre - reach
    grid = SdfGrid(torch.zeros(65, 65, 65), origin, spacing)
    values = (grid.points() - centre).norm(dim=1) - radius
    return SdfGrid(values.reshape(65, 65, 65), origin, spacing)


class _Run:
    """Everything that changes while optimising."""

    def __init__(self, views: Views, start: SdfGrid, config: SdfFusionConfig, device: torch.device):
        self.config, self.device = config, device
        low, high = bounds_of(start)
        cameras = views.cameras.to(device)
        bank = ray_bank(views, _MARGIN_PX, config.use_normals)
        self.given: RayBank = bank.to(device)
        self.bank = self.given
        self.field: Field = _field(start, config, device, len(views))
        self.poses = PoseTable(views.cameras, (low + high) / 2, config.poses)
        self.conflict = ConflictModel(cameras, config.conflict)
        self.draw = RayDraw(len(bank), config.seed)
        self.cameras = cameras
        self.ray_chunk_size = config.ray_chunk_size
        self.steps_done = 0
        self.turn_scale = 1.0
        self.loss: RayLoss | None = None
        """Of the last rays."""
        self.seconds: dict[str, float] = {}
        self.preview = PreviewClock()

    @property
    def done(self) -> float:
        """Share of all steps that are behind."""
        return self.steps_done / self.config.total_steps

    def state(self) -> dict:
        """What the report says."""
        return {
            "steps": self.steps_done,
            "rays": len(self.bank),
            "spacing": self.field.spacing,
            "losses": {} if self.loss is None else self.loss.means,
            "seconds": self.seconds,
        }


def _field(start: SdfGrid, config: SdfFusionConfig, device: torch.device, views: int) -> Field:
    if config.field == "hashgrid":
        from .fields.hashgrid.field import HashGridField

        finest = config.levels[-1].resolution
        return HashGridField(start, device, config.seed, finest, views)
    from .fields.grid.field import DenseGrid

    return DenseGrid(start, device, memory_budget_gib(config.memory_gib, device))


def _begin_run(views: Views, start: SdfGrid, config: SdfFusionConfig, device: torch.device) -> _Run:
    """The run; when memory runs out, tried again for half the rays at once, down to a few."""
    while True:
        try:
            return _Run(views, start, config, device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            config = replace(
                config, ray_chunk_size=_fewer_rays(error, config.ray_chunk_size, "start")
            )


def _fewer_rays(error: Exception, at_once: int, level: str) -> int:
    """Half as many rays at once, for another try after memory ran out.

    Raises:
        StageError: so few rays are not worth a try.
    """
    fewer = at_once // 2
    if fewer < _LEAST_RAYS:
        raise StageError(
            f"{STAGE}, {level}",
            "memory ran out even with few rays at once.",
            "Choose the preset 'draft', or lower sdf.memory_gib.",
        ) from error
    logger.warning("memory ran out: trying again with %d rays at once", fewer)
    return fewer


def _retry_with_fewer_rays(run: _Run, index: int, level: LevelConfig, progress: Progress) -> None:
    """Runs a level; when memory runs out, again with half the rays at once, down to a few."""
    started, first_step = time.perf_counter(), run.steps_done
    while True:
        try:
            _optimise_level(run, index, level, progress)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            at_once = level.num_rays(len(run.bank), run.config.min_rays)
            run.ray_chunk_size = _fewer_rays(
                error, min(run.ray_chunk_size, at_once), f"level {index}"
            )
            run.steps_done = first_step
    run.seconds[f"level {index}"] = time.perf_counter() - started


def _optimise_level(run: _Run, index: int, level: LevelConfig, progress: Progress) -> None:
    release_unused_memory()
    run.field.begin_level(level)
    run.bank = run.given
    if level.soft_masks:
        sharpness = level.sharpness / run.field.spacing
        run.bank = softened_bank(run.given, run.cameras, sharpness)
    total = run.config.total_steps
    aligns = run.config.refine_poses and level.register_every > 0
    alignment = None
    if aligns:
        alignment = Alignment(run.bank, run.cameras, run.field.spacing, level.register_stride)
    for step in range(level.steps):
        if step and step % _TIDY_EVERY == 0:
            run.field.tidy()
        decay = decayed(step, level.steps, _FIELD_END)
        with_poses = (
            run.config.refine_poses
            and alignment is None
            and (index > 0 or step >= run.config.poses.warmup_fraction * level.steps)
        )
        pose_lr = level.pose_lr * decay * run.turn_scale if with_poses else 0.0
        _step(run, level, decay, pose_lr)
        if alignment is not None and (step + 1) % level.register_every == 0:
            _align(run, alignment, decayed(step, level.steps, level.robust_scale_end))
        run.steps_done += 1
        if run.steps_done % _CHECK_EVERY == 0 or step == level.steps - 1:
            _check_finite(run, index)
        show = None
        if run.preview.is_due():
            show = preview_image(run.field, run.cameras, run.poses, run.preview.next_view())
        progress.update(STAGE, run.steps_done, total, show)


def _step(run: _Run, level: LevelConfig, decay: float, pose_lr: float) -> None:
    """One step of everything, its rays in parts that fit the memory."""
    bank, config = run.bank, run.config
    chosen = run.draw.next(level.num_rays(len(bank), config.min_rays)).to(run.device)
    scale = bank.area * len(bank) / len(chosen)
    run.field.measure = scale
    weights = replace(config.losses, mask=config.losses.mask * level.mask_weight)
    for ids in chosen.split(run.ray_chunk_size):
        rays = bank.at(ids)
        origin, direction = run.poses.moved(rays.view, rays.origin, rays.direction)
        rendered = run.field.render(origin, direction)
        targets = _targets(run, rays, rendered.colour)
        loss = ray_loss(rendered, targets, weights, run.conflict.price(run.done))
        by = run.field.backward(
            loss.by_opacity * scale,
            loss.by_gradient * scale,
            loss.by_colour * scale,
            pose_lr > 0.0,
        )
        if by is not None:
            run.poses.step(rays.view, origin, direction, by, pose_lr)
        _learn_conflict(run, rays, rendered.colour, targets, loss)
        run.loss = loss
    run.field.step(config.losses, decay)


def _align(run: _Run, alignment: Alignment, narrowed: float) -> None:
    bank = run.bank
    conflict = run.conflict.learnt(bank.view, bank.pixel, run.done)
    spread_rad = math.radians(run.config.poses.prior_sigma_deg) * run.turn_scale
    alignment.step(run.field, run.poses, run.conflict.gains, conflict, spread_rad, narrowed)


def _targets(run: _Run, rays: RayBank, rendered: Tensor) -> Targets:
    """What R rays should see, with the exposure, conflict and poses of now."""
    gain = run.conflict.gains.index_select(0, rays.view)
    distance = None
    if run.conflict.needs_distance:
        distance = (rendered * gain - rays.colour).square().sum(dim=1).sqrt()
    conflict = run.conflict.at(rays.view, rays.pixel, distance, run.done)
    normal = rays.normal
    if rays.turns_normals:
        rotations, _ = run.poses.motions_on(rays.view.device)
        rotation = rotations.index_select(0, rays.view)
        normal = torch.einsum("nij,nj->ni", rotation, normal)
    return Targets(
        rays.mask,
        rays.colour,
        normal,
        rays.normal_weight,
        gain,
        conflict,
        (1.0 - conflict).clamp_min(run.config.conflict.min_normal_weight),
    )


def _learn_conflict(
    run: _Run, rays: RayBank, rendered: Tensor, targets: Targets, loss: RayLoss
) -> None:
    run.conflict.match_exposure(rays.view, rendered, rays.colour, targets.conflict)
    run.conflict.learn(rays.view, rays.pixel, loss.distance, rays.mask, run.done)


def _check_finite(run: _Run, index: int) -> None:
    good = run.field.is_finite() and bool(torch.isfinite(run.poses.shift).all())
    if not good:
        raise StageError(
            f"{STAGE}, level {index}",
            f"numbers became NaN or infinite before step {run.steps_done}.",
            "Lower the steps of the preset's levels, or ask for --fallback hull.",
        )


def refine_poses(
    views: Views,
    config: SdfFusionConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Views:
    """The views with refined cameras, from a fusion that stops before its finest level.

    Raises:
        InputError: poses are switched off in the settings; and as `fuse_sdf`.
    """
    config = (config or SdfFusionConfig()).complete()
    if not config.refine_poses:
        raise InputError("refine_poses is off: there is nothing to do.", "Turn it on.")
    levels = config.levels[:-1] or config.levels
    surface = fuse_sdf(views, replace(config, levels=levels), progress, device)
    return with_refined_cameras(views, surface)


def with_refined_cameras(views: Views, surface: Surface) -> Views:
    """The same images with a surface's cameras; normals keep their meaning.

    Camera-frame normals turn with their camera; world and front-view ones stay as they are.
    """
    return replace(views, cameras=surface.cameras)
