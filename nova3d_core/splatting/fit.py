"""Fits Gaussian splats to views: V3D's reconstruction with a start on the visual hull.

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
from ..fusion.preview import PreviewClock
from ..perceptual.losses import image_loss
from ..perceptual.warps import ViewWarps
from ..progress import SILENT, Progress
from ..splats import Splats
from ..views import Views
from .config import SplatFitConfig
from .initialise import initial_splats
from .render import SplatImage, render_splats

logger = logging.getLogger(__name__)

STAGE = "fitting splats"
SSIM_WEIGHT = 0.2
MASK_WEIGHT = 0.05
"""Weight of the absolute difference between opacity and mask."""
OPACITY_WEIGHT = 0.01
"""Weight of the mean opacity, which empties splats that are not needed."""
POSITION_LR = 3.5e-4
"""Relative to the longest side of the object; decays exponentially."""
POSITION_LR_DECAY = 0.01
"""Position learning rate at the end, relative to the start."""
LR_DECAY = 1.0
"""Other learning rates at the end, relative to the start."""
COLOUR_LR, OPACITY_LR, SCALE_LR, ROTATION_LR = 2.5e-3, 0.05, 0.005, 0.001
ADAM_EPS = 1e-15
MIN_OPACITY = 0.05
"""Splats with a lower opacity are removed at the end."""
WARP_START = 0.5
"""Fraction of the steps after which views may be warped."""
WARP_TRIAL = 0.1
"""Fraction of the steps after which warps are kept or dropped."""
WARP_LR_PX, GAIN_LR = 0.06, 1e-3
WARP_WEIGHT = 2e-4
"""Weight of the mean square displacement in pixels squared."""
MIN_WARP_PX = 0.5
"""Root mean square displacement below which warps are dropped."""
MIN_WARP_GAIN = 0.05
"""Relative decrease of the loss below which warps are dropped."""


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

    def to_dict(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SplatFit:
    """Result of a fit."""

    splats: Splats
    """In the world of the cameras."""
    report: SplatFitReport
    """Statistics."""


def fit_splats(
    views: Views,
    config: SplatFitConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
    start: Splats | None = None,
) -> SplatFit:
    """Fits splats to masked views.

    Args:
        views: at least two views with masks, on white. Normals are not used.
        config: number of splats and steps, alignment, seed.
        progress: receives each step, with a preview at most once per second.
        device: of the optimisation; the result is on the CPU.
        start: splats to start from, instead of the visual hull; `config.count` is then unused.

    Raises:
        InputError, StageError: as `carve_hull`.
        StageError: the optimisation diverged.
        Cancelled: cancelled by `progress`.
    """
    config = (config or SplatFitConfig()).complete()
    if start is None:
        start = initial_splats(views.to("cpu"), config.count, config.seed, progress)
    if any(views.cameras.origin):
        logger.warning("the splats are relative to the cameras' origin %s", views.cameras.origin)
    low, high = start.positions.amin(dim=0), start.positions.amax(dim=0)
    extent = float((high - low).max())
    unit = replace(views, cameras=_scaled_cameras(views.cameras, 1.0 / extent)).to(device)
    fit = _Fit(unit, _scaled(start, 1.0 / extent), config, progress)
    fit.run()
    result = fit.result()
    return replace(result, splats=_scaled(result.splats, extent))


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
        self.cameras, device = views.cameras, views.colour.device
        self.targets = torch.cat([views.colour, views.masks[..., None]], dim=-1)  # (V, H, W, 4)
        tensors = {
            "positions": start.positions,
            "log_scales": start.scales.log(),
            "rotations": start.rotations,
            "opacity_logits": torch.logit(start.opacities, eps=1e-6),
            "colours": start.colours,
        }
        self.parameters = {
            name: tensor.to(device).clone().requires_grad_() for name, tensor in tensors.items()
        }
        rates = {
            "positions": POSITION_LR,
            "log_scales": SCALE_LR,
            "rotations": ROTATION_LR,
            "opacity_logits": OPACITY_LR,
            "colours": COLOUR_LR,
        }
        groups = [
            {
                "params": [self.parameters[name]],
                "lr": rate,
                "initial_lr": rate,
                "decay": POSITION_LR_DECAY if name == "positions" else LR_DECAY,
            }
            for name, rate in rates.items()
        ]
        self.optimiser = torch.optim.Adam(groups, eps=ADAM_EPS)
        self.warps: ViewWarps | None = None
        self.warp_optimiser: torch.optim.Adam | None = None
        self.random = torch.Generator().manual_seed(config.seed)
        self.order: list[int] = []
        self.clock = PreviewClock()
        self.losses: list[float] = []
        """Loss of every step, those of a rejected trial included."""
        self.total = config.steps
        """Steps with the trial of warps, for progress reports."""

    def run(self) -> None:
        """All steps: plain ones first, then with warps, if these explain contradictions."""
        steps = self.config.steps
        first = round(WARP_START * steps) if self.config.align and len(self.cameras) > 1 else steps
        trial = min(max(round(WARP_TRIAL * steps), len(self.cameras)), steps - first)
        self.total = steps + trial if first < steps else steps
        self._steps(0, first)
        if first == steps:
            return
        saved, before = self._snapshot(), self._recent_loss()
        self._start_warps()
        self._steps(first, first + trial)
        loss, moved = self._recent_loss(), self.warps.rms_px()
        if moved < MIN_WARP_PX or loss > (1.0 - MIN_WARP_GAIN) * before:
            logger.info("views are not warped: %.2f px, loss %.4f -> %.4f", moved, before, loss)
            self._restore(saved)
            self._steps(first, steps)
        else:
            self._steps(first + trial, steps)
        self.progress.update(STAGE, self.total, self.total)

    def result(self) -> SplatFit:
        """The splats without those that are nearly transparent, and the report."""
        splats = self._splats()
        kept = splats.opacities >= MIN_OPACITY
        if not bool(kept.any()):
            raise StageError(
                STAGE, "all splats became transparent.", "Check the masks and cameras of the views."
            )
        report = SplatFitReport(
            steps=self.config.steps,
            initial_count=len(splats),
            count=int(kept.sum()),
            loss=self._recent_loss(),
            warp_px=0.0 if self.warps is None else self.warps.rms_px(),
        )
        return SplatFit(splats[kept], report)

    def _steps(self, start: int, end: int) -> None:
        """Optimisation steps `start` to `end`, one view each."""
        for step in range(start, end):
            done = step / self.config.steps
            for group in self.optimiser.param_groups:
                group["lr"] = group["initial_lr"] * group["decay"] ** done
            self.losses.append(self._step())
            preview = self._preview() if self.clock.is_due() else None
            self.progress.update(STAGE, len(self.losses), self.total, preview)

    def _step(self) -> float:
        view = self._next_view()
        image, target = self._render(view), self.targets[view]
        if self.warps is not None:
            target = self.warps.apply_to(target, view)
        loss = image_loss(image.on(1.0), target[..., :3], SSIM_WEIGHT)
        loss = loss + MASK_WEIGHT * (1.0 - image.transmittance - target[..., 3]).abs().mean()
        loss = loss + OPACITY_WEIGHT * self.parameters["opacity_logits"].sigmoid().mean()
        value = float(loss.detach())
        if not value < float("inf"):  # also NaN
            raise StageError(
                STAGE, f"the loss became {value}.", "Check the views for invalid cameras."
            )
        if self.warps is not None:
            loss = loss + WARP_WEIGHT * self.warps.nodes_px[view].square().sum(dim=0).mean()
        optimisers = [each for each in (self.optimiser, self.warp_optimiser) if each is not None]
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
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

    def _start_warps(self) -> None:
        height, width = self.targets.shape[1:3]
        self.warps = ViewWarps(len(self.cameras), height, width, self.targets.device)
        groups = [
            {"params": [self.warps.nodes_px], "lr": WARP_LR_PX},
            {"params": [self.warps.log_gain], "lr": GAIN_LR},
        ]
        self.warp_optimiser = torch.optim.Adam(groups)

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any], Tensor, list[int]]:
        tensors = {name: value.detach().clone() for name, value in self.parameters.items()}
        state = {
            index: {key: value.clone() for key, value in each.items()}
            for index, each in self.optimiser.state_dict()["state"].items()
        }
        return tensors, state, self.random.get_state(), list(self.order)

    def _restore(self, saved: tuple[dict[str, Tensor], dict[str, Any], Tensor, list[int]]) -> None:
        """Returns to a snapshot, without warps."""
        tensors, state, random, order = saved
        with torch.no_grad():
            for name, value in tensors.items():
                self.parameters[name].copy_(value)
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.random.set_state(random)
        self.order, self.warps, self.warp_optimiser = order, None, None

    def _splats(self) -> Splats:
        given = {name: value.detach().cpu() for name, value in self.parameters.items()}
        if not all(bool(value.isfinite().all()) for value in given.values()):
            raise StageError(
                STAGE, "the splats became infinite.", "Check the views for invalid cameras."
            )
        return Splats(
            positions=given["positions"],
            scales=given["log_scales"].exp(),
            rotations=given["rotations"],
            opacities=given["opacity_logits"].sigmoid(),
            colours=given["colours"].clamp(0.0, 1.0),
        )
