"""Fits a light of spherical Gaussians and the albedo of a surface to its colours.

First as in SV3D (Voleti et al., 2024, section 4 and appendix E): colour = albedo * shading, with
L_illum and L_albedo. Then the light alone is refined so that the albedo has few distinct colours,
the parsimony prior of SIRFS (Barron and Malik, 2015), which L_illum lacks: see
docs/design-notes/037-light.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import StageError
from ...progress import Progress
from ..config import UnlightConfig
from .observe import SurfaceColours
from .spherical_gaussians import SphericalGaussians, fibonacci_sphere

STAGE = "fitting the light"
LEARNING_RATE = 0.03
START_SHARPNESS = 6.0
NEIGHBOURS = 3
"""L_albedo compares each point with this many of its nearest neighbours."""
KERNEL_START, KERNEL_END = 0.3, 0.05
"""Width of the parsimony prior's kernel on log albedo; decays exponentially from step to step."""
PAIRED_POINTS = 600
"""Random points of each step whose pairs the prior compares."""
MIN_LEARNING_RATE = 0.001
EVENNESS = 0.3
"""Weight of the variance of the log shading: where gradients of albedo and shading are alike, half
of them stay."""
MIN_ALBEDO, MIN_SHADING = 0.02, 0.01
"""Added to the linear albedo, and lower bound of the shading, before logarithms."""
EVIDENCE_WIDTH, EVIDENCE_POINTS = 0.1, 2000


def fit_light(
    surface: SurfaceColours, config: UnlightConfig, progress: Progress
) -> SphericalGaussians:
    """The light of a surface's colours, up to its scale.

    Args:
        surface: P points, at least 2.
        config: number of lobes, weights and steps.
        progress: reports each step.

    Raises:
        StageError: the loss became infinite.
        Cancelled: on request.
    """
    lobes = _Lobes(config.lobes)
    total = config.steps + config.parsimony_steps
    _fit_light_and_albedo(lobes, surface, config, total, progress)
    _refine_by_parsimony(lobes, surface, config, total, progress)
    return lobes.light(is_final=True)


class _Lobes:
    """Parameters of the lobes, with a mean shading of 1 at the start."""

    def __init__(self, count: int):
        axes = fibonacci_sphere(count)
        start = SphericalGaussians(axes, torch.full((count,), START_SHARPNESS), torch.ones(count))
        amplitude = 1.0 / float(start.shading(axes).mean())
        self.axes = axes.clone().requires_grad_()
        self.log_sharpness = start.sharpness.log().requires_grad_()
        self.amplitude = torch.full((count,), amplitude).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [self.axes, self.log_sharpness, self.amplitude]

    def light(self, is_final: bool = False) -> SphericalGaussians:
        """The light of the parameters; the final one is detached from them."""
        axes, log_sharpness, amplitude = (
            each.detach() if is_final else each for each in self.parameters
        )
        return SphericalGaussians(
            functional.normalize(axes, dim=1), log_sharpness.exp(), amplitude.clone()
        )


def _fit_light_and_albedo(
    lobes: _Lobes, surface: SurfaceColours, config: UnlightConfig, total: int, progress: Progress
) -> None:
    """|a L - I|^2 + w_illum (V(I) - L)^2 + w_smooth |a - a_neighbour|^2, V the largest channel."""
    colour, brightness = surface.colour, surface.colour.amax(dim=1)
    neighbours = _nearest_points(surface.position)
    albedo_logit = torch.logit(colour.clamp(0.02, 0.98)).requires_grad_()
    optimiser = torch.optim.Adam([*lobes.parameters, albedo_logit], lr=LEARNING_RATE)
    for step in range(config.steps):
        shading, albedo = lobes.light().shading(surface.normal), albedo_logit.sigmoid()
        loss = (albedo * shading[:, None] - colour).square().mean()
        loss = loss + config.illum * (brightness - shading).square().mean()
        difference = albedo[:, None] - albedo[neighbours]  # (P, K, 3)
        loss = loss + config.smooth * difference.square().mean()
        _step(optimiser, loss)
        progress.update(STAGE, step + 1, total)


def _refine_by_parsimony(
    lobes: _Lobes, surface: SurfaceColours, config: UnlightConfig, total: int, progress: Progress
) -> None:
    """-log of the mean of exp(-|log a_p - log a_q|^2 / 2 s^2) over pairs, with a = I / L.

    White light changes all channels alike, so that only a light that explains the colours moves
    points of one material onto each other. The loss does not change with the scale of the light.
    """
    random = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.Adam(lobes.parameters, lr=LEARNING_RATE)
    for step in range(config.parsimony_steps):
        done = step / config.parsimony_steps
        width = KERNEL_START * (KERNEL_END / KERNEL_START) ** done
        rate = LEARNING_RATE * (1.0 - done) + MIN_LEARNING_RATE
        for group in optimiser.param_groups:
            group["lr"] = rate
        some = torch.randperm(len(surface.colour), generator=random)[:PAIRED_POINTS]
        shading = lobes.light().shading(surface.normal[some])
        shading = (shading / shading.mean()).clamp_min(MIN_SHADING)
        albedo = log_albedo(surface.colour[some], shading)  # (S, 3)
        _step(optimiser, pair_entropy(albedo, width) + EVENNESS * shading.log().var())
        progress.update(STAGE, config.steps + step + 1, total)


def evidence(surface: SurfaceColours, shading: Tensor) -> float:
    """By how many nats a shading (P,) with mean 1 lowers the entropy of the colours.

    Near 0 for unlit views, 1 and more where one light explains the shading of all materials.
    """
    random = torch.Generator().manual_seed(0)
    some = torch.randperm(len(shading), generator=random)[:EVIDENCE_POINTS]
    colour, own = surface.colour[some], shading[some].clamp_min(MIN_SHADING)
    before, after = (
        float(pair_entropy(log_albedo(colour, each), EVIDENCE_WIDTH))
        for each in (torch.ones_like(own), own)
    )
    return before - after


def log_albedo(colour: Tensor, shading: Tensor) -> Tensor:
    """(S, 3) logarithms of linear colours (S, 3) without their shading (S,)."""
    return (colour / shading[:, None] + MIN_ALBEDO).log()


def pair_entropy(values: Tensor, width: float) -> Tensor:
    """Mean over S values (S, C) of -log of their density, by a Gaussian kernel on all of them."""
    squares = values.square().sum(dim=1)
    squared = squares[:, None] + squares[None] - 2.0 * values @ values.T  # (S, S)
    density = (squared.clamp_min(0.0) / (-2.0 * width**2)).exp().mean(dim=1)
    return -(density + 1e-9).log().mean()


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    if not bool(loss.detach().isfinite()):
        raise StageError(STAGE, "the loss became infinite.", "Check the views for wrong colours.")
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _nearest_points(position: Tensor) -> Tensor:
    """(P, K) indices of the nearest other points."""
    from scipy.spatial import cKDTree

    count = min(NEIGHBOURS + 1, len(position))
    points = position.numpy()
    index = cKDTree(points).query(points, list(range(1, count + 1)))[1]
    return torch.from_numpy(index[:, 1:])
