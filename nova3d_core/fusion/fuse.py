"""Joint optimisation of signed distance, colour, camera poses and conflict under eq. 6."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..compute.devices import is_out_of_memory
from ..compute.host_memory import release_unused_memory
from ..errors import InputError, StageError
from ..meshing.isosurface import extract_surface
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..sdf_grid import SdfGrid
from ..views import Views
from ..wording import by_interface, setting
from .checks.inputs import check_views
from .config import LevelConfig, SdfFusionConfig
from .conflict.field import ConflictField
from .conflict.maps import ConflictMaps
from .conflict.model import ConflictModel
from .device import fusion_device, memory_budget_gib
from .fields.base import Field
from .fields.grid.state import inside_bounds
from .fields.render_output import RenderOutput
from .finalize import extract_fused_surface, silhouette_iou
from .hull.visual_hull import carve_hull, check_carvable
from .level_scale import scale_levels
from .losses import RayLoss, Targets, ray_loss
from .poses.pose_table import PoseTable, exponential_decay
from .poses.registration import PoseRegistration, render_features
from .poses.soft_masks import soften_masks
from .poses.view_warps import WarpRegistration, warp_views
from .preview import PreviewClock, preview_image
from .rays import RayDataset, RaySampler, ray_dataset
from .stereo.depth_targets import DepthTargets, depth_loss_gradients, find_depth_targets
from .stereo.schedule import MAX_POSE_ERROR, MIN_BROAD_CONFIDENCE, plan_sweep
from .surface import Surface
from .working_size import object_extents_px, upsample_surface, working_views

logger = logging.getLogger(__name__)

STAGE = "fusing"
_REDISTANCE_EVERY = 25
"""Steps."""
_FINITE_CHECK_EVERY = 10
"""Steps."""
_REST_PX = 0.15
"""Registrations have twice the steps between them once no view moves farther than this: more of
them only follow the noise of the surface."""
_LR_DECAY = 0.3
"""Factor to which learning rates fall over a level."""
_MIN_RAY_CHUNK = 512
_MARGIN_PX = 5
"""Rays also cover pixels this far outside the masks."""
_MAX_DILATION = 0.012
"""Maximum dilation of the initial hull, relative to its longest side: wrong poses carve away too
much."""
_EXACT_POSES_IOU, _WRONG_POSES_IOU = 0.97, 0.90
"""Mean IoU of masks and the hull's silhouettes for exact poses, and for wrong ones."""


def fuse_sdf(
    views: Views,
    config: SdfFusionConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Surface:
    """Fuses views into a surface, with refined poses and estimated conflict between views.

    Args:
        views: two or more with masks; normals improve the result a lot.
        config: settings, e.g. from `preset_config`.
        progress: reports each step, with a preview image at most once a second.
        device: requested device; falls back to the CPU, with a warning, where the field would run
            slower than there (see `device.choose_fusion_device`).

    Returns:
        The surface on the CPU.

    Raises:
        InputError: the views cannot be carved, or their normals are misdeclared.
        StageError: the silhouettes contradict each other, memory runs out, values overflow.
        Cancelled: on request, within a step.
    """
    config = (config or SdfFusionConfig()).complete()
    started = time.perf_counter()
    device = fusion_device(device, config.field, progress)
    views = views.to("cpu")
    if config.check_inputs:
        check_views(views, progress)
    check_carvable(views)
    reduced = working_views(views, config.levels[-1].resolution)
    object_px = float(object_extents_px(reduced.masks).max())
    config = replace(config, levels=scale_levels(config.levels, object_px))
    hull = carve_hull(reduced, config.hull, progress)
    pose_error = initial_pose_error(reduced, hull)
    init = initial_sdf(hull, config, pose_error)
    run = _init_state(reduced, init, config, device)
    reduced = reduced.silhouettes()  # the rays hold the rest from here on
    run.pose_prior_scale = max(pose_error, config.poses.silhouette_prior_scale)
    run.seconds["init"] = time.perf_counter() - started
    for index, level in enumerate(config.levels):
        _run_level(run, index, level, progress)
    run.field.redistance()
    grid = run.field.to_grid()
    warps = run.warps.nodes()
    if warps is not None:
        reduced = warp_views(reduced, warps)
    surface = extract_fused_surface(
        reduced, grid, run.poses, run.conflict, config, run.stats(), progress
    )
    surface = replace(surface, warps=warps)
    del run  # frees grids and rays before the full-size maps are made
    return upsample_surface(surface, views)


def initial_pose_error(views: Views, hull: SdfGrid) -> float:
    """Pose error in 0..1, estimated from the IoU of the masks and the hull's silhouettes.

    With exact poses the hull fills all masks but for its rounded ridges; poses that are off by a
    degree or two carve away a rim of each.
    """
    mesh = extract_surface(hull)
    caster = RayCaster.from_mesh(mesh)
    iou = silhouette_iou(caster, views.cameras, views.masks)
    low, high = _WRONG_POSES_IOU, _EXACT_POSES_IOU
    return float(((high - iou.mean()) / (high - low)).clamp(0.0, 1.0))


def initial_sdf(hull: SdfGrid, config: SdfFusionConfig, pose_error: float = 1.0) -> SdfGrid:
    """Initial signed distances: the dilated hull, or a sphere that encloses it."""
    low, high = inside_bounds(hull)
    longest = float((high - low).max())
    if config.init == "hull":
        dilated = hull.values - _MAX_DILATION * longest * pose_error
        return SdfGrid(dilated, hull.origin, hull.spacing)
    centre, radius = (low + high) / 2, float((high - low).norm()) / 2
    reach = radius * 1.1
    spacing = 2 * reach / 64
    origin = centre - reach
    grid = SdfGrid(torch.zeros(65, 65, 65), origin, spacing)
    values = (grid.points() - centre).norm(dim=1) - radius
    return SdfGrid(values.reshape(65, 65, 65), origin, spacing)


class _FusionState:
    """State of the optimisation."""

    def __init__(self, views: Views, init: SdfGrid, config: SdfFusionConfig, device: torch.device):
        self.config, self.device = config, device
        low, high = inside_bounds(init)
        cameras = views.cameras.to(device)
        rays = ray_dataset(views, _MARGIN_PX, config.use_normals)
        self.input_rays: RayDataset = rays.to(device)
        """Rays through all pixels near the object, with warped images if views contradict each
        other."""
        self.warps = WarpRegistration(self.input_rays, cameras)
        self.rays = self.input_rays
        """The input rays, at some levels with soft masks."""
        self.field: Field = _init_field(init, config, device, len(views))
        self.poses = PoseTable(views.cameras, (low + high) / 2, config.poses)
        self.conflict = _init_conflict(cameras, config, self.field, self.input_rays, self.poses)
        self.sampler = RaySampler(len(rays), config.seed)
        self.cameras = cameras
        self.ray_chunk_size = config.ray_chunk_size
        self.steps_done = 0
        self.pose_prior_scale = 1.0
        self.has_normals = bool((self.input_rays.normal_weight > 0.0).any())
        self.depths: DepthTargets | None = None
        """Stereo depths of the rays."""
        self.broad_stereo: bool | None = None
        """Whether stereo moves a surface that keeps its details; decided by the first sweep."""
        self.registered = False
        """Whether all views have been registered to the surface at a level."""
        self.longest_side = float((high - low).max())
        self.loss: RayLoss | None = None
        """Loss of the last chunk of rays."""
        self.seconds: dict[str, float] = {}
        self.preview = PreviewClock()

    @property
    def has_wrong_poses(self) -> bool:
        """Whether the input poses do not fit the silhouettes, and are refined."""
        return self.config.refine_poses and self.pose_prior_scale > MAX_POSE_ERROR

    @property
    def done(self) -> float:
        """Completed fraction of all steps."""
        return self.steps_done / self.config.total_steps

    def stats(self) -> dict:
        """Statistics for the report."""
        return {
            "steps": self.steps_done,
            "rays": len(self.rays),
            "spacing": self.field.spacing,
            "losses": {} if self.loss is None else self.loss.means,
            "seconds": self.seconds,
            "warp_px": self.warps.rms_px(),
        }


def _init_field(init: SdfGrid, config: SdfFusionConfig, device: torch.device, views: int) -> Field:
    if config.field == "hashgrid":
        from .fields.hashgrid.field import HashGridField

        finest = config.levels[-1].resolution
        return HashGridField(init, device, config.seed, finest, views)
    from .fields.grid.field import DenseGrid

    return DenseGrid(init, device, memory_budget_gib(config.memory_gib, device))


def _init_conflict(
    cameras: Cameras, config: SdfFusionConfig, field: Field, rays: RayDataset, poses: PoseTable
) -> ConflictModel:
    if config.conflict.mode == "field":
        chunk_size = config.ray_chunk_size
        return ConflictField(cameras, config.conflict, field, rays, poses, chunk_size)
    return ConflictMaps(cameras, config.conflict)


def _init_state(
    views: Views, init: SdfGrid, config: SdfFusionConfig, device: torch.device
) -> _FusionState:
    """The initial state; when memory runs out, retries with half the ray chunk size."""
    while True:
        try:
            return _FusionState(views, init, config, device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            config = replace(
                config, ray_chunk_size=_halve_chunk_size(error, config.ray_chunk_size, "init")
            )


def _halve_chunk_size(error: Exception, chunk_size: int, stage: str) -> int:
    """Half the ray chunk size, to retry after memory ran out.

    Raises:
        StageError: the chunks would be too small to help.
    """
    smaller = chunk_size // 2
    if smaller < _MIN_RAY_CHUNK:
        raise StageError(
            f"{STAGE}, {stage}",
            "memory ran out even with small chunks of rays.",
            by_interface(
                f"Choose {setting('preset', 'draft')}, or lower {setting('sdf.memory_gib')}.",
                f"Choose {setting('preset', 'draft')}, or fewer or smaller images.",
            ),
        ) from error
    logger.warning("memory ran out: retrying with chunks of %d rays", smaller)
    return smaller


def _run_level(run: _FusionState, index: int, level: LevelConfig, progress: Progress) -> None:
    """Runs a level; when memory runs out, reruns it with half the ray chunk size."""
    started, first_step = time.perf_counter(), run.steps_done
    while True:
        try:
            _optimise_level(run, index, level, progress)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            num_rays = level.num_rays(len(run.rays), run.config.min_rays)
            chunk_size = min(run.ray_chunk_size, num_rays)
            run.ray_chunk_size = _halve_chunk_size(error, chunk_size, f"level {index}")
            run.steps_done = first_step
    run.seconds[f"level {index}"] = time.perf_counter() - started


def _optimise_level(run: _FusionState, index: int, level: LevelConfig, progress: Progress) -> None:
    release_unused_memory()
    run.field.set_level(level)
    total = run.config.total_steps
    registration, next_registration = None, level.register_every
    for step in range(level.steps):
        is_due = level.align_every > 0 and step % level.align_every == 0
        warped = is_due and _align_views(run, progress)
        if step == 0 or warped:
            registration = _prepare_rays(run, level)
        if step and step % _REDISTANCE_EVERY == 0:
            run.field.redistance()
        decay = exponential_decay(step, level.steps, _LR_DECAY)
        with_poses = (
            run.config.refine_poses
            and registration is None
            and (index > 0 or step >= run.config.poses.warmup_fraction * level.steps)
        )
        pose_lr = level.pose_lr * decay * run.pose_prior_scale if with_poses else 0.0
        if not _has_stereo(run, level):
            run.depths = None
        elif step % level.stereo_every == 0:
            _sweep_depths(run, level)
        _step(run, level, decay, pose_lr)
        if registration is not None and step + 1 >= next_registration:
            factor = exponential_decay(step, level.steps, level.robust_scale_end)
            _register_poses(run, registration, factor)
            rests = registration.moved_px < _REST_PX
            next_registration = step + 1 + level.register_every * (2 if rests else 1)
        run.steps_done += 1
        if run.steps_done % _FINITE_CHECK_EVERY == 0 or step == level.steps - 1:
            _check_finite(run, index)
        preview = None
        if run.preview.is_due():
            preview = preview_image(run.field, run.cameras, run.poses, run.preview.next_view())
        progress.update(STAGE, run.steps_done, total, preview)
    run.registered |= registration is not None


def _prepare_rays(run: _FusionState, level: LevelConfig) -> PoseRegistration | None:
    """Sets the rays of a level, and registers views to them if the level does so."""
    run.rays = run.input_rays
    if level.soft_masks:
        sharpness = level.sharpness / run.field.spacing
        run.rays = soften_masks(run.input_rays, run.cameras, sharpness)
    if not run.config.refine_poses or level.register_every == 0:
        return None
    return PoseRegistration(run.rays, run.cameras, run.field.spacing, level.register_stride)


def _has_stereo(run: _FusionState, level: LevelConfig) -> bool:
    """Whether a level uses stereo.

    Wrong poses, and views that contradict each other, would move depths by several pixels.
    """
    fits = not run.has_wrong_poses or run.registered
    return level.stereo_every > 0 and fits and not run.warps.active


def _align_views(run: _FusionState, progress: Progress) -> bool:
    """Warps the views towards the current surface; whether their rays have changed."""
    if not run.warps.is_due:
        return False
    rays = run.warps.given
    rendered = render_features(run.field, rays, run.poses, run.conflict.gains)
    weight = 1.0 - run.conflict.fitted(rays.view, rays.pixel, run.done)
    if not run.warps.update(rendered, weight, run.field.spacing, progress):
        return False
    run.input_rays = run.warps.rays()
    return True


def _step(run: _FusionState, level: LevelConfig, decay: float, pose_lr: float) -> None:
    """One optimisation step of field, poses and conflict; rays go in chunks that fit the memory."""
    dataset, config = run.rays, run.config
    sampled = run.sampler.next(level.num_rays(len(dataset), config.min_rays)).to(run.device)
    scale = dataset.area * len(dataset) / len(sampled)
    run.field.area_weights = scale
    weights = replace(config.losses, mask=config.losses.mask * level.mask_weight)
    for ids in sampled.split(run.ray_chunk_size):
        rays = dataset.at(ids)
        origin, direction = run.poses.transform_rays(rays.view, rays.origin, rays.direction)
        run.field.track_rays = pose_lr > 0.0
        rendered = run.field.render(origin, direction)
        targets = _targets(run, rays, rendered.colour)
        loss = ray_loss(rendered, targets, weights, run.conflict.lambda0(run.done))
        grad_opacity, grad_depth = loss.grad_opacity * scale, None
        if run.depths is not None:
            of_opacity, grad_depth = _depth_gradients(run, ids, rendered, scale)
            grad_opacity = grad_opacity + of_opacity
        ray_gradients = run.field.backward(
            grad_opacity,
            loss.grad_gradient * scale,
            loss.grad_colour * scale,
            pose_lr > 0.0,
            grad_depth,
        )
        if ray_gradients is not None:
            run.poses.step(rays.view, origin, direction, ray_gradients, pose_lr)
        _step_conflict(run, rays, rendered.colour, targets, loss)
        run.loss = loss
    run.field.step(config.losses, decay)


def _sweep_depths(run: _FusionState, level: LevelConfig) -> None:
    """Updates the stereo depths of the rays from the current surface and poses."""
    plan = plan_sweep(level, run.has_wrong_poses, run.has_normals)
    if plan.broad and run.broad_stereo is False:
        run.depths = None
        return
    band = (plan.outward * run.longest_side, plan.inward * run.longest_side)
    run.depths = find_depth_targets(
        run.field,
        run.poses,
        run.cameras,
        run.input_rays,
        band,
        plan.downsampling,
        level.stereo_stride_px,
        broad=plan.broad,
    )
    if plan.broad and run.broad_stereo is None:
        run.broad_stereo = float(run.depths.weight.mean()) >= MIN_BROAD_CONFIDENCE
        run.depths = run.depths if run.broad_stereo else None


def _depth_gradients(
    run: _FusionState, ids: Tensor, rendered: RenderOutput, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients (R,) of L_depth by opacity and depth of the rays `ids`."""
    depth = run.depths.depth.index_select(0, ids)
    weight = run.depths.weight.index_select(0, ids) * (run.config.losses.depth * scale)
    return depth_loss_gradients(rendered, depth, weight, run.field.spacing)


def _register_poses(
    run: _FusionState, registration: PoseRegistration, robust_scale_factor: float
) -> None:
    rays = run.rays
    conflict = run.conflict.fitted(rays.view, rays.pixel, run.done)
    prior_sigma_rad = math.radians(run.config.poses.prior_sigma_deg) * run.pose_prior_scale
    registration.step(
        run.field, run.poses, run.conflict.gains, conflict, prior_sigma_rad, robust_scale_factor
    )


def _targets(run: _FusionState, rays: RayDataset, rendered: Tensor) -> Targets:
    """Targets of R rays under the current exposure, conflict and poses."""
    gain = run.conflict.gains.index_select(0, rays.view)
    distance = None
    if run.conflict.needs_distance:
        distance = (rendered * gain - rays.colour).square().sum(dim=1).sqrt()
    conflict = run.conflict.at(rays.view, rays.pixel, distance, run.done)
    normal = rays.normal
    if rays.normals_in_camera_frame:
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


def _step_conflict(
    run: _FusionState, rays: RayDataset, rendered: Tensor, targets: Targets, loss: RayLoss
) -> None:
    run.conflict.match_exposure(rays.view, rendered, rays.colour, targets.conflict)
    run.conflict.step(rays.view, rays.pixel, loss.distance, rays.mask, run.done)


def _check_finite(run: _FusionState, index: int) -> None:
    finite = run.field.is_finite() and bool(torch.isfinite(run.poses.translation).all())
    if not finite:
        raise StageError(
            f"{STAGE}, level {index}",
            f"values became NaN or infinite before step {run.steps_done}.",
            "Choose another preset, or the fallback 'hull'.",
        )


def refine_poses(
    views: Views,
    config: SdfFusionConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Views:
    """Views with refined cameras, from a fusion without its finest level.

    Raises:
        InputError: pose refinement is disabled in the settings; and as `fuse_sdf`.
    """
    config = (config or SdfFusionConfig()).complete()
    if not config.refine_poses:
        raise InputError("refine_poses is disabled: there is nothing to do.", "Enable it.")
    levels = config.levels[:-1] or config.levels
    surface = fuse_sdf(views, replace(config, levels=levels), progress, device)
    return with_refined_cameras(views, surface)


def with_refined_cameras(views: Views, surface: Surface) -> Views:
    """The same images with the cameras of a surface.

    Camera-frame normals rotate with their camera; world and front-view ones stay as they are.
    """
    return replace(views, cameras=surface.cameras)
