"""Fits Gaussian splats to views: V3D's reconstruction with a start on the visual hull.

Reference: Z. Chen et al., "V3D: Video diffusion models are effective 3D generators", 2024, section
3.3, and B. Kerbl et al., 2023, section 5. Generated views contradict each other by some pixels;
instead of V3D's perceptual loss, smooth warps of the views explain that (`perceptual.warps`).
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
from ..fusion.fuse import refine_poses
from ..fusion.hull.visual_hull import check_carvable
from ..fusion.preview import PreviewClock
from ..perceptual.losses import image_loss
from ..perceptual.warps import ViewWarps
from ..progress import SILENT, Progress
from ..splats import Splats
from ..views import Views
from .config import SplatFitConfig
from .initialise import initial_splats
from .memory import check_splat_memory
from .parameters import SplatParameters
from .render import SplatImage, render_splats

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
WARP_START = 0.5
"""Fraction of the steps after which views may be warped or scaled."""
WARP_TRIAL = 0.1
"""Fraction of the steps after which warps are kept or dropped."""
WARP_LR_PX, GAIN_LR = 0.06, 1e-3
WARP_WEIGHT = 2e-4
"""Weight of the mean square displacement in pixels squared."""
MIN_WARP_PX = 0.5
"""Root mean square displacement below which warps are dropped."""
MIN_WARP_GAIN = 0.05
"""Relative decrease of the loss below which warps are dropped."""
MIN_LOG_GAIN = 0.01
"""Root mean square logarithm of the gains below which they are dropped."""

ImageDistance = Callable[[Tensor, Tensor], Tensor]
"""Distances (B,) of images (B, H, W, 3) in 0..1, such as LPIPS."""


@dataclass(frozen=True)
class SplatFitReport:
    """Statistics of a fit as plain values."""

    steps: int
    """Optimisation steps."""
    initial_count: int
    """Splats on the hull at the start."""
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
) -> SplatFit:
    """Fits splats to masked views.

    Args:
        views: at least two views with masks, on white. Normals are used by the refinement of poses
            only.
        config: number of splats and steps, treatment of contradictions, seed.
        progress: receives each step, with a preview at most once per second.
        device: of the optimisation; the result is on the CPU.
        start: splats to start from, instead of the visual hull; `config.count` is then unused.
        lpips: the distance for `perceptual="lpips"`; None loads it from the default folders.

    Raises:
        InputError, StageError: as `carve_hull`; more splats than fit into memory; no weights of
            LPIPS.
        StageError: the optimisation diverged.
        Cancelled: cancelled by `progress`.
    """
    config = (config or SplatFitConfig()).complete()
    device = fusion_device(device, progress=progress)
    check_carvable(views)
    count = config.count if start is None else len(start)
    check_splat_memory(count, views, config.memory_gib, device)
    if config.perceptual == "lpips" and lpips is None:
        lpips = _default_lpips(device)
    if config.refine_poses:
        views = refine_poses(views, progress=progress, device=device)
    views = views.to("cpu").without_normals()
    if start is None:
        start = initial_splats(views, config.count, config.seed, progress)
    if any(views.cameras.origin):
        logger.warning("the splats are relative to the cameras' origin %s", views.cameras.origin)
    low, high = start.positions.amin(dim=0), start.positions.amax(dim=0)
    extent = float((high - low).max())
    unit = replace(views, cameras=_scaled_cameras(views.cameras, 1.0 / extent)).to(device)
    fit = _Fit(unit, _scaled(start, 1.0 / extent), config, progress)
    fit.lpips = lpips if config.perceptual == "lpips" else None
    fit.run()
    splats = _scaled(fit.splats(), extent)
    return SplatFit(splats, fit.fitted_views(views), fit.report(len(start)))


def _default_lpips(device: torch.device) -> ImageDistance:
    from ..perceptual.lpips import load_lpips

    return load_lpips(device=device)


def _scaled(splats: Splats, scale: float) -> Splats:
    """The splats, scaled about the world's origin."""
    return replace(splats, positions=splats.positions * scale, scales=splats.scales * scale)


def _scaled_cameras(cameras: Cameras, scale: float) -> Cameras:
    """Cameras with the same images of a world that is scaled about its origin."""
    poses, intrinsics = cameras.world_to_camera.clone(), cameras.intrinsics.clone()
    poses[:, :3, 3] *= scale
    if cameras.kind == "orthographic":
        intrinsics[:, :2, :2] /= scale  # pixels per world unit
    return replace(cameras, world_to_camera=poses, intrinsics=intrinsics)


class _Fit:
    """State of one optimisation; the longest side of the object is about 1."""

    def __init__(self, views: Views, start: Splats, config: SplatFitConfig, progress: Progress):
        self.config, self.progress = config, progress
        self.lpips: ImageDistance | None = None
        self.device = views.colour.device
        self.cameras = [views.cameras[view] for view in range(len(views))]
        self.targets = torch.cat([views.colour, views.masks[..., None]], dim=-1)  # (V, H, W, 4)
        self.parameters = SplatParameters(start, self.device)
        self.warps: ViewWarps | None = None
        self.warp_optimiser: torch.optim.Adam | None = None
        self.random = torch.Generator().manual_seed(config.seed)
        self.order: list[int] = []
        self.clock = PreviewClock()
        self.losses: list[float] = []
        """Loss of every step, those of dropped trials included."""
        self.total = config.steps
        """Steps with the trials, for progress reports."""

    def run(self) -> None:
        """All steps: plain ones first, then with warps or gains if these explain contradictions."""
        steps = self.config.steps
        aligns, scales = self.config.perceptual == "aligned", self.config.match_exposure
        first = steps
        if (aligns or scales) and len(self.cameras) > 1:
            first = round(WARP_START * steps)
        trial = min(max(round(WARP_TRIAL * steps), len(self.cameras)), steps - first)
        self.total = steps + trial
        self._steps(0, first)
        if first < steps:
            self._choose_warps(first, first + trial, aligns, scales)
        self._steps(first + trial, steps)
        self.progress.update(STAGE, self.total, self.total)

    def splats(self) -> Splats:
        """The splats without those that are nearly transparent."""
        if not self.parameters.is_finite():
            raise StageError(
                STAGE, "the splats became infinite.", "Check the views for invalid cameras."
            )
        splats = self.parameters.splats()
        kept = splats.opacities >= MIN_OPACITY
        if not bool(kept.any()):
            raise StageError(
                STAGE, "all splats became transparent.", "Check the masks and cameras of the views."
            )
        return splats[kept]

    def report(self, initial_count: int) -> SplatFitReport:
        """Statistics of the finished optimisation."""
        warps = self.warps
        gain = 0.0 if warps is None or not warps.scales else warps.rms_gain()
        return SplatFitReport(
            steps=self.config.steps,
            initial_count=initial_count,
            count=len(self.splats()),
            loss=self._recent_loss(),
            warp_px=0.0 if warps is None or not warps.moves else warps.rms_px(),
            gain_percent=100.0 * gain,
            perceptual=self.config.perceptual,
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
        saved = self._snapshot()
        self._steps(start, end)
        plain, plain_loss = self._snapshot(), self._recent_loss()
        self._restore(saved)
        self._start_warps(moves, scales)
        self._steps(start, end)
        warps, loss = self.warps, self._recent_loss()
        moved = warps.rms_px() if moves else 0.0
        scaled = warps.rms_gain() if scales else 0.0
        logger.info(
            "warps: %.2f px, gains %.3f, loss %.4f -> %.4f", moved, scaled, plain_loss, loss
        )
        if loss > (1.0 - MIN_WARP_GAIN) * plain_loss or (
            moved < MIN_WARP_PX and scaled < MIN_LOG_GAIN
        ):
            self._restore(plain)
        elif moved < MIN_WARP_PX and moves:
            self._restore(saved)
            self._start_warps(False, True)
            self._steps(start, end)

    def _steps(self, start: int, end: int) -> None:
        """Optimisation steps `start` to `end`, one view each."""
        for step in range(start, end):
            if step == round(PRUNE_AT * self.config.steps):
                self._prune()
            self.losses.append(self._step(step / self.config.steps))
            preview = self._preview() if self.clock.is_due() else None
            done = min(len(self.losses), self.total)
            self.progress.update(STAGE, done, self.total, preview)

    def _prune(self) -> None:
        """Removes nearly transparent splats, unless that would be all."""
        kept = self.parameters["opacity_logits"].detach().sigmoid() >= MIN_OPACITY
        if bool(kept.any()):
            self.parameters.keep(kept)

    def _step(self, done: float) -> float:
        view = self._next_view()
        image, target = self._render(view), self.targets[view]
        if self.warps is not None:
            target = self.warps.apply_to(target, view)
        colour = image.on(1.0)
        loss = image_loss(colour, target[..., :3], SSIM_WEIGHT)
        loss = loss + MASK_WEIGHT * (1.0 - image.transmittance - target[..., 3]).abs().mean()
        loss = loss + OPACITY_WEIGHT * self.parameters["opacity_logits"].sigmoid().mean()
        if self.lpips is not None:
            distance = self.lpips(colour.clamp(0.0, 1.0)[None], target[None, ..., :3])
            loss = loss + LPIPS_WEIGHT * distance.mean()
        value = float(loss.detach())
        if not value < float("inf"):  # also NaN
            raise StageError(
                STAGE, f"the loss became {value}.", "Check the views for invalid cameras."
            )
        if self.warps is not None and self.warps.moves:
            loss = loss + WARP_WEIGHT * self.warps.nodes_px[view].square().sum(dim=0).mean()
        loss.backward()
        self.parameters.step(done)
        if self.warp_optimiser is not None:
            self.warp_optimiser.step()
            self.warp_optimiser.zero_grad(set_to_none=True)
        return value

    def _next_view(self) -> int:
        """A random view; all views are used once before one is used again."""
        if not self.order:
            self.order = torch.randperm(len(self.cameras), generator=self.random).tolist()
        return self.order.pop()

    def _render(self, view: int) -> SplatImage:
        given = self.parameters
        return render_splats(
            given["positions"],
            given["log_scales"].exp(),
            given["rotations"],
            given["opacity_logits"].sigmoid(),
            given["colours"],
            self.cameras[view],
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

    def _start_warps(self, moves: bool, scales: bool) -> None:
        height, width = self.targets.shape[1:3]
        self.warps = ViewWarps(len(self.cameras), height, width, self.device, moves, scales)
        groups = [
            {"params": [self.warps.nodes_px], "lr": WARP_LR_PX},
            {"params": [self.warps.log_gain], "lr": GAIN_LR},
        ]
        self.warp_optimiser = torch.optim.Adam(groups)

    def _snapshot(self) -> tuple[Any, ...]:
        return self.parameters.snapshot(), self.random.get_state(), list(self.order)

    def _restore(self, saved: tuple[Any, ...]) -> None:
        """Returns to a snapshot, without warps."""
        parameters, random, order = saved
        self.parameters.restore(parameters)
        self.random.set_state(random)
        self.order, self.warps, self.warp_optimiser = list(order), None, None
