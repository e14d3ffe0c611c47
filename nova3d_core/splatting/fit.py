"""Fits Gaussian splats to views: V3D's reconstruction with a start on a surface.

Reference: Z. Chen et al., "V3D: Video diffusion models are effective 3D generators", 2024, section
3.3, and B. Kerbl et al., 2023, section 5. Generated views contradict each other by some pixels;
instead of V3D's perceptual loss, smooth warps of the views explain that (`warps`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..errors import StageError
from ..fusion.device import fusion_device
from ..fusion.preview import PreviewClock
from ..mesh import Mesh
from ..perceptual.losses import image_loss
from ..perceptual.registration import (
    COARSE_TO_FINE_PX,
    FINE_PX,
    Registration,
    register_view,
)
from ..progress import SILENT, Progress
from ..splats import Splats
from ..views import Views
from .checks import check_splat_views
from .config import SplatFitConfig
from .memory import check_splat_memory
from .parameters import SplatParameters
from .render import SplatImage, render_splats
from .start import check_start_mesh, start_fit
from .warps import ViewWarps

logger = logging.getLogger(__name__)

STAGE = "fitting splats"
SSIM_WEIGHT = 0.2
LPIPS_WEIGHT = 0.2
MASK_WEIGHT = 0.05
"""Weight of the absolute difference between opacity and mask."""
OPACITY_WEIGHT = 0.001
"""Weight of the mean opacity, which empties splats that are not needed."""
MIN_OPACITY = 0.05
"""Splats with a lower opacity are removed."""
PRUNE_AT = 0.9
"""Fraction of the steps after which nearly transparent splats are removed; the others adapt."""
WARP_START = 0.25
"""Fraction of the steps after which views may be warped or scaled."""
MIN_WARP_STEPS = 30
"""Minimum of these steps: registered with coarser splats, even exact views are displaced (measured:
0.5 px after 10 steps, 0.2 px after 20)."""
WARP_TRIAL = 0.1
"""Fraction of the steps after which warps are kept or dropped."""
REGISTRATIONS = (0.35, 0.45, 0.55, 0.65, 0.75, 0.85)
"""Fractions of the steps at which kept warps are registered again."""
WARP_PRIOR = 0.05
"""Prior of no warp, stronger than for fixed geometry, because splats move with the views."""
MIN_WARP_PX = 0.4
"""Root mean square displacement below which warps are dropped."""
MIN_WARP_GAIN = 0.05
"""Relative decrease of the loss below which warps are dropped."""
MIN_LOG_GAIN = 0.01
"""Root mean square logarithm of the gains below which they are dropped."""

NOVEL_EVERY = 3
"""Every third step uses a novel view of the surface, if there is one."""
NOVEL_WEIGHT = 0.3
"""Weight of the loss of novel views."""

ImageDistance = Callable[[Tensor, Tensor], Tensor]
"""Distances (B,) of images (B, H, W, 3) in 0..1, such as LPIPS."""


@dataclass(frozen=True)
class SplatFitReport:
    """Statistics of a fit as plain values."""

    steps: int
    """Optimisation steps."""
    initial_count: int
    """Splats at the start."""
    count: int
    """Splats in the result."""
    loss: float
    """Mean loss over the last steps, one per view."""
    warp_px: float
    """Root mean square displacement of the views in pixels; 0 if they are not warped."""
    gain_percent: float
    """Root mean square gain of the views' colours in percent; 0 if they are not scaled."""
    perceptual: str
    """aligned, lpips or none."""
    init: str
    """Where the splats started: surface, mesh, hull or given."""

    def to_dict(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SplatFit:
    """Result of a fit."""

    splats: Splats
    """In the world of the cameras."""
    views: Views
    """The views as fitted: with refined cameras, warped and scaled where that was kept."""
    report: SplatFitReport
    """Statistics."""


def fit_splats(
    views: Views,
    config: SplatFitConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
    start: Splats | None = None,
    lpips: ImageDistance | None = None,
    mesh: Mesh | None = None,
) -> SplatFit:
    """Fits splats to masked views.

    Args:
        views: at least two views with masks, on white. Normals are used by the fusion only, which
            makes the initial surface and refines poses.
        config: number of splats and steps, initial splats, treatment of contradictions, seed.
        progress: receives each step, with a preview at most once per second.
        device: of the optimisation; the result is on the CPU.
        start: splats to start from; `config.count` and `config.init` are then unused.
        lpips: the distance for `perceptual="lpips"`; None loads it from the default folders.
        mesh: a surface of the object with colours, in the world of the cameras, to start on and to
            stay close to, instead of fusing one; `config.init` is then unused.

    Raises:
        InputError, StageError: as `check_splat_views` and `carve_hull`; more splats than fit into
            memory; no weights of LPIPS; a mesh without colours, or which the views do not fit.
        StageError: the optimisation diverged.
        Cancelled: cancelled by `progress`.
    """
    config = (config or SplatFitConfig()).complete()
    device = fusion_device(device, progress=progress)
    check_splat_views(views, progress)
    count = config.count if start is None else len(start)
    check_splat_memory(count, views, config.memory_gib, device)
    if config.perceptual == "lpips" and lpips is None:
        lpips = _default_lpips(device)
    if mesh is not None:
        check_start_mesh(mesh, views, progress)
    begin = start_fit(views, config, progress, device, start, mesh)
    views, start = begin.views, begin.splats
    if any(views.cameras.origin):
        logger.warning("the splats are relative to the cameras' origin %s", views.cameras.origin)
    low, high = start.positions.amin(dim=0), start.positions.amax(dim=0)
    extent = float(torch.maximum((high - low).max(), start.scales.max()))  # also of one splat
    unit = _scaled_views(views, 1.0 / extent).to(device)
    fit = _Fit(unit, start.transformed(1.0 / extent, torch.zeros(3)), config, progress)
    if begin.novel is not None:
        fit.novel = _ViewQueue(_scaled_views(begin.novel, 1.0 / extent).to(device))
    fit.lpips = lpips if config.perceptual == "lpips" else None
    fit.run()
    splats = fit.splats().transformed(extent, torch.zeros(3))
    report = fit.report(len(start), len(splats), begin.init)
    return SplatFit(splats, fit.fitted_views(views), report)


def _default_lpips(device: torch.device) -> ImageDistance:
    from ..perceptual.lpips import load_lpips

    return load_lpips(device=device)


def _scaled_views(views: Views, scale: float) -> Views:
    """The same images of a world that is scaled about its origin."""
    cameras = views.cameras
    poses, intrinsics = cameras.world_to_camera.clone(), cameras.intrinsics.clone()
    poses[:, :3, 3] *= scale
    if cameras.kind == "orthographic":
        intrinsics[:, :2, :2] /= scale  # pixels per world unit
    cameras = replace(cameras, world_to_camera=poses, intrinsics=intrinsics)
    return replace(views, cameras=cameras)


class _ViewQueue:
    """Views in a random order: all are used once before one is used again.

    Args:
        views: V views with masks.
    """

    def __init__(self, views: Views):
        self.cameras = [views.cameras[view] for view in range(len(views))]
        self.targets = torch.cat([views.colour, views.masks[..., None]], dim=-1)  # (V, H, W, 4)
        self.order: list[int] = []

    def next(self, random: torch.Generator) -> int:
        """Index of the next view."""
        if not self.order:
            self.order = torch.randperm(len(self.cameras), generator=random).tolist()
        return self.order.pop()


class _Fit:
    """State of one optimisation; the longest side of the object is about 1."""

    def __init__(self, views: Views, start: Splats, config: SplatFitConfig, progress: Progress):
        self.config, self.progress = config, progress
        self.lpips: ImageDistance | None = None
        self.device = views.colour.device
        self.queue = _ViewQueue(views)
        self.cameras, self.targets = self.queue.cameras, self.queue.targets
        self.novel: _ViewQueue | None = None
        """Renders of a surface from directions that no view shows."""
        self.parameters = SplatParameters(start, self.device)
        self.warps: ViewWarps | None = None
        self.random = torch.Generator().manual_seed(config.seed)
        self.clock = PreviewClock()
        self.losses: list[float] = []
        """Loss of every step with a given view, those of dropped trials included."""
        self.taken = 0
        """Steps so far, those of dropped trials included."""
        self.total = config.steps
        """Steps with the trial of warps, for progress reports."""
        self.skipped = 0
        """Steps of a trial that is not needed."""

    def run(self) -> None:
        """All steps: plain ones first, then with warps or gains if these explain contradictions."""
        steps = self.config.steps
        aligns, scales = self.config.perceptual == "aligned", self.config.match_exposure
        first, trial = self._trial_steps() if aligns or scales else (steps, 0)
        self.total = steps + trial
        self._steps(0, first)
        if trial:
            self._choose_warps(first, first + trial, aligns, scales)
        self._steps(first + trial, steps)
        self.progress.update(STAGE, self.total, self.total)

    def _trial_steps(self) -> tuple[int, int]:
        """First step of the trial of warps and its length, 0 where there are too few steps."""
        steps, views = self.config.steps, len(self.cameras)
        first = max(round(WARP_START * steps), MIN_WARP_STEPS)
        novel = 0 if self.novel is None else views // (NOVEL_EVERY - 1) + 1
        trial = max(round(WARP_TRIAL * steps), views + novel)  # all views once
        if first + trial <= steps and views > 1:
            return first, trial
        logger.info("%d steps are too few to align views", steps)
        return steps, 0

    def splats(self) -> Splats:
        """The splats without those that are nearly transparent."""
        self._check_finite()
        splats = self.parameters.splats()
        kept = splats.opacities >= MIN_OPACITY
        if not bool(kept.any()):
            raise StageError(
                STAGE, "all splats became transparent.", "Check the masks and cameras of the views."
            )
        return splats[kept]

    def _check_finite(self) -> None:
        if not self.parameters.is_finite():
            raise StageError(
                STAGE, "the splats became infinite.", "Check the views for invalid cameras."
            )

    def report(self, initial_count: int, count: int, init: str) -> SplatFitReport:
        """Statistics of the finished optimisation."""
        warps = self.warps
        gain = 0.0 if warps is None or not warps.scales else warps.rms_gain()
        return SplatFitReport(
            steps=self.config.steps,
            initial_count=initial_count,
            count=count,
            loss=self._recent_loss(),
            warp_px=0.0 if warps is None or not warps.moves else self._displacement_px(warps),
            gain_percent=100.0 * gain,
            perceptual=self.config.perceptual,
            init=init,
        )

    def fitted_views(self, views: Views) -> Views:
        """The input views, warped and scaled as the splats were fitted to them."""
        if self.warps is None:
            return views
        with torch.no_grad():
            images = [self.warps.apply_to(image, view) for view, image in enumerate(self.targets)]
        images = torch.stack(images).clamp(0.0, 1.0).cpu()
        return Views(views.cameras, images[..., :3], images[..., 3])

    def _choose_warps(self, start: int, end: int, moves: bool, scales: bool) -> None:
        """Runs the steps without and with warps, and continues with the better explanation."""
        warps = self._new_warps(moves, scales)
        self._register(warps, COARSE_TO_FINE_PX)
        moved, scaled = self._displacement_px(warps), warps.rms_gain()
        moves, scales = moved >= MIN_WARP_PX, scaled >= MIN_LOG_GAIN
        logger.info("registration of views: %.2f px, gains %.3f", moved, scaled)
        if not moves and not scales:
            self.skipped = end - start
            self._steps(start, end)
            return
        saved = self._snapshot()
        self._steps(start, end)
        plain, plain_loss = self._snapshot(), self._recent_loss()
        self._restore(saved)
        self.warps = self._new_warps(moves, scales)
        self._register(self.warps, COARSE_TO_FINE_PX)
        self._steps(start, end)
        logger.info("loss %.4f without and %.4f with warps", plain_loss, self._recent_loss())
        if self._recent_loss() > (1.0 - MIN_WARP_GAIN) * plain_loss:
            self._restore(plain)

    def _new_warps(self, moves: bool, scales: bool) -> ViewWarps:
        height, width = self.targets.shape[1:3]
        return ViewWarps(len(self.cameras), height, width, self.device, moves, scales)

    @torch.no_grad()
    def _displacement_px(self, warps: ViewWarps) -> float:
        """Root mean square displacement of the objects in all views but the first."""
        total = weight = 0.0
        for view in range(1, len(self.cameras)):
            mask = self.targets[view, ..., 3]
            squared = warps.displacement_px(view).square().sum(dim=-1)
            total, weight = total + float((mask * squared).sum()), weight + float(mask.sum())
        return (total / max(weight, 1.0)) ** 0.5

    @torch.no_grad()
    def _register(self, warps: ViewWarps, blurs_px: tuple[float, ...]) -> None:
        """Registers all views but the first with the splats."""
        self._check_finite()
        weights = torch.ones_like(self.targets[0, ..., 3])
        for view in range(1, len(self.cameras)):
            self.progress.check(STAGE)
            image = self._render(view)
            render = torch.cat([image.colour, 1.0 - image.transmittance[..., None]], dim=-1)
            target = self.targets[view].clone()
            target[..., :3] -= 1.0 - target[..., 3:]  # on black, which gains do not change
            start = Registration(warps.nodes_px[view].clone(), warps.log_gain[view].exp())
            found = register_view(target, render, weights, start, blurs_px, WARP_PRIOR)
            if warps.moves:
                warps.nodes_px[view] = found.nodes_px
            if warps.scales:
                warps.log_gain[view] = found.gain.clamp_min(1e-3).log()
        # what all views share belongs to the object
        warps.nodes_px[1:] -= warps.nodes_px[1:].mean(dim=0)
        warps.log_gain[1:] -= warps.log_gain[1:].mean(dim=0)

    def _steps(self, start: int, end: int) -> None:
        """Optimisation steps `start` to `end`, one view each."""
        rounds = [round(at * self.config.steps) for at in REGISTRATIONS]
        for step in range(start, end):
            if step == round(PRUNE_AT * self.config.steps):
                self._prune()
            if self.warps is not None and step in rounds:
                self._register(self.warps, FINE_PX)
            self._step(step)
            self.taken += 1
            preview = self._preview() if self.clock.is_due() else None
            done = min(self.taken + self.skipped, self.total)
            self.progress.update(STAGE, done, self.total, preview)

    def _prune(self) -> None:
        """Removes nearly transparent splats, unless that would be all."""
        kept = self.parameters["opacity_logits"].detach().sigmoid() >= MIN_OPACITY
        if bool(kept.any()):
            self.parameters.keep(kept)

    def _step(self, step: int) -> None:
        is_novel = self.novel is not None and step % NOVEL_EVERY == NOVEL_EVERY - 1
        if is_novel:
            view = self.novel.next(self.random)
            image = self._render_at(self.novel.cameras[view])
            loss = NOVEL_WEIGHT * self._loss(image, self.novel.targets[view])
        else:
            view = self.queue.next(self.random)
            image, target = self._render(view), self.targets[view]
            if self.warps is not None:
                with torch.no_grad():
                    target = self.warps.apply_to(target, view)
            loss = self._loss(image, target)
        value = float(loss.detach())
        if not is_novel:
            self.losses.append(value)
        if not value < float("inf"):  # also NaN
            raise StageError(
                STAGE, f"the loss became {value}.", "Check the views for invalid cameras."
            )
        loss.backward()
        self.parameters.step(step / self.config.steps)

    def _loss(self, image: SplatImage, target: Tensor) -> Tensor:
        """Loss of a render against a target (H, W, 4) of colours on white and mask."""
        colour = image.on(1.0)
        loss = image_loss(colour, target[..., :3], SSIM_WEIGHT)
        loss = loss + MASK_WEIGHT * (1.0 - image.transmittance - target[..., 3]).abs().mean()
        loss = loss + OPACITY_WEIGHT * self.parameters["opacity_logits"].sigmoid().mean()
        if self.lpips is not None:
            distance = self.lpips(colour.clamp(0.0, 1.0)[None], target[None, ..., :3])
            loss = loss + LPIPS_WEIGHT * distance.mean()
        return loss

    def _render(self, view: int) -> SplatImage:
        """The splats in the camera of a given view."""
        return self._render_at(self.cameras[view])

    def _render_at(self, camera: Cameras) -> SplatImage:
        given = self.parameters
        return render_splats(
            given["positions"],
            given["log_scales"].exp(),
            given["rotations"],
            given["opacity_logits"].sigmoid(),
            given["colours"],
            camera,
        )

    def _preview(self) -> Callable[[], Tensor]:
        """Deferred rendering of one view, (H, W, 3) in 0..1."""
        view = self.clock.next_view() % len(self.cameras)

        def render() -> Tensor:
            with torch.no_grad():
                return self._render(view).on(1.0).clamp(0.0, 1.0).cpu()

        return render

    def _recent_loss(self) -> float:
        recent = self.losses[-len(self.cameras) :]
        return sum(recent) / max(len(recent), 1)

    def _snapshot(self) -> tuple[Any, ...]:
        orders = [list(queue.order) for queue in self._queues()]
        return self.parameters.snapshot(), self.random.get_state(), orders

    def _restore(self, saved: tuple[Any, ...]) -> None:
        """Returns to a snapshot, without warps."""
        parameters, random, orders = saved
        self.parameters.restore(parameters)
        self.random.set_state(random)
        for queue, order in zip(self._queues(), orders, strict=True):
            queue.order = list(order)
        self.warps = None

    def _queues(self) -> list[_ViewQueue]:
        return [self.queue] if self.novel is None else [self.queue, self.novel]
