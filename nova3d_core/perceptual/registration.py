"""Registers views with renders: a smooth warp and a gain per view, by Gauss-Newton.

Generated views contradict each other by some pixels. A render of what they have in common, such as
a blended texture, shows where each of them should be; its silhouette anchors the warp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..imaging.filters import gaussian_blur, image_gradient
from ..imaging.warps import bicubic_image, warp_image

NODES = 3
"""Nodes of a warp along each axis of the image."""
COARSE_TO_FINE_PX = (3.0, 1.5, 0.75)
"""Standard deviations of the blur of each level, for warps of several pixels."""
FINE_PX = (1.0, 0.5)
"""The same for warps that are known up to a pixel."""
ITERATIONS = 4
"""Gauss-Newton steps of each level."""
MASK_WEIGHT = 0.5
"""Weight of the mask's residual relative to that of a colour channel."""
ROBUST_SCALE = 0.05
"""Scale of the Cauchy kernel on residuals of colours in 0..1."""
PRIOR = 1e-3
"""Weight of the prior of no warp and no gain, relative to the mean curvature."""
MAX_STEP_PX = 2.0
_MARGIN_PX = 4
"""Pixels around the render's silhouette that are compared."""


@dataclass(frozen=True, eq=False)
class Registration:
    """How a view is moved onto a render."""

    nodes_px: Tensor
    """(2, n, n) displacement x, y at the nodes in pixels, interpolated bicubically."""
    gain: Tensor
    """(3,) factors on the view's colours."""

    @classmethod
    def identity(cls, device: torch.device | str = "cpu") -> Registration:
        """No displacement and no gain."""
        return cls(torch.zeros(2, NODES, NODES, device=device), torch.ones(3, device=device))

    def displacement_px(self, height: int, width: int) -> Tensor:
        """(H, W, 2) displacement x, y of each pixel."""
        basis = _basis(height, width, self.nodes_px.device)
        return (self.nodes_px.flatten(1) @ basis).reshape(2, height, width).permute(1, 2, 0)

    def apply_to(self, image: Tensor) -> Tensor:
        """RGB on white and mask (H, W, 4) at displaced pixels, the object's RGB times the gains."""
        moved = warp_image(image, self.displacement_px(*image.shape[:2])).clamp(0.0, 1.0)
        mask = moved[..., 3:]
        colour = self.gain * (moved[..., :3] - (1.0 - mask)) + (1.0 - mask)
        return torch.cat([colour.clamp(0.0, 1.0), mask], dim=-1)


def register_view(
    view: Tensor,
    render: Tensor,
    weights: Tensor,
    start: Registration | None = None,
    blurs_px: tuple[float, ...] = COARSE_TO_FINE_PX,
    prior: float = PRIOR,
) -> Registration:
    """The smooth warp and the gains that bring a view onto a render of the same camera.

    Minimises robust squared differences of colours, and of masks over all pixels near the
    silhouette, by iteratively reweighted Gauss-Newton from blurred to sharp images.

    Args:
        view: (H, W, 4) RGB on white and mask, in 0..1.
        render: (H, W, 4) RGB on white and coverage.
        weights: (H, W) weights of the colours' differences, 0 where the render is unreliable.
        start: where to start; no warp by default.
        blurs_px: standard deviation of the blur at each level.
        prior: weight of the prior of no warp and no gain, relative to the mean curvature.
    """
    problem = _Problem.of(view, render, weights)
    found = start or Registration.identity(view.device)
    for blur_px in blurs_px:
        level = problem.blurred(blur_px)
        for _ in range(ITERATIONS):
            found = level.step(found, prior)
    return found


@dataclass(frozen=True, eq=False)
class _Problem:
    """Images of one level of the registration; P pixels are compared."""

    view: Tensor  # (H, W, 12): RGB and mask, their x and their y derivatives
    render: Tensor  # (4, H, W)
    pixels: Tensor  # (P,) indices of the compared pixels
    weights: Tensor  # (4, P)
    source: Tensor  # (4, H, W) the view without blur

    @classmethod
    def of(cls, view: Tensor, render: Tensor, weights: Tensor) -> _Problem:
        near = functional.max_pool2d(
            (render[None, None, ..., 3] > 0.0).float(), 2 * _MARGIN_PX + 1, 1, _MARGIN_PX
        )
        pixels = torch.nonzero(near.flatten())[:, 0]
        each = torch.stack([weights] * 3 + [torch.full_like(weights, MASK_WEIGHT)])
        planes = view.permute(2, 0, 1)
        return cls(
            _with_derivatives(planes),
            render.permute(2, 0, 1),
            pixels,
            each.flatten(1)[:, pixels],
            planes,
        )

    def blurred(self, sigma_px: float) -> _Problem:
        planes = _blurred(self.source, sigma_px)
        render = _blurred(self.render, sigma_px)
        return _Problem(_with_derivatives(planes), render, self.pixels, self.weights, self.source)

    def step(self, current: Registration, strength: float) -> Registration:
        """One reweighted Gauss-Newton step for the nodes and the gains."""
        height, width = self.view.shape[:2]
        basis = _basis(height, width, self.view.device)[:, self.pixels]  # (n, P)
        moved = warp_image(self.view, current.displacement_px(height, width))
        values, along_x, along_y = moved.flatten(0, 1)[self.pixels].T.split(4)  # (4, P) each
        gain = torch.cat([current.gain, current.gain.new_ones(1)])[:, None]
        residual = gain * values - self.render.flatten(1)[:, self.pixels]
        weight = self.weights / (1.0 + (residual / ROBUST_SCALE).square())
        gradients = (gain * along_x, gain * along_y)
        system, rhs = _normal_equations(basis, gradients, values[:3], weight, residual)
        count = 2 * len(basis)
        prior = torch.empty_like(rhs)
        prior[:count] = strength * system.diagonal()[:count].mean() + 1e-6
        prior[count:] = strength * system.diagonal()[count:].mean() + 1e-6
        state = torch.cat([current.nodes_px.flatten(), current.gain - 1.0])
        step = torch.linalg.solve(system + torch.diag(prior), -(rhs + prior * state))
        moves = step[:count].clamp(-MAX_STEP_PX, MAX_STEP_PX).view_as(current.nodes_px)
        return Registration(current.nodes_px + moves, current.gain + step[count:])


def _normal_equations(
    basis: Tensor,
    gradients: tuple[Tensor, Tensor],
    colours: Tensor,
    weight: Tensor,
    residual: Tensor,
) -> tuple[Tensor, Tensor]:
    """Matrix J^T W J and vector J^T W r of the nodes' x, y and the three gains.

    Args:
        basis: (n, P) influence of each node on each pixel.
        gradients: (4, P) derivatives of the residuals by x and by y.
        colours: (3, P) derivatives of the residuals by the gains.
        weight: (4, P).
        residual: (4, P).
    """
    blocks = [
        [(basis * (weight * a * b).sum(dim=0)) @ basis.T for b in gradients] for a in gradients
    ]
    by_gain = weight[:3] * colours  # (3, P)
    mixed = [basis @ (by_gain * gradient[:3]).T for gradient in gradients]  # (n, 3) each
    system = torch.cat(
        [
            torch.cat([*blocks[0], mixed[0]], dim=1),
            torch.cat([*blocks[1], mixed[1]], dim=1),
            torch.cat([mixed[0].T, mixed[1].T, torch.diag((by_gain * colours).sum(dim=1))], dim=1),
        ]
    )
    of_nodes = [basis @ (weight * gradient * residual).sum(dim=0) for gradient in gradients]
    return system, torch.cat([*of_nodes, (by_gain * residual[:3]).sum(dim=1)])


def _blurred(planes: Tensor, sigma_px: float) -> Tensor:
    """Planes (C, H, W) blurred by a Gaussian of three standard deviations on each side."""
    return gaussian_blur(planes, sigma_px, max(int(3.0 * sigma_px + 0.5), 1), "replicate")


def _with_derivatives(planes: Tensor) -> Tensor:
    """(H, W, 3 C) planes (C, H, W) with their central differences along x and y."""
    return torch.cat([planes, *image_gradient(planes, "replicate")]).permute(1, 2, 0)


@lru_cache(maxsize=8)
def _basis(height: int, width: int, device: torch.device) -> Tensor:
    """(n * n, H * W) bicubic influence of each node on each pixel."""
    unit = torch.eye(NODES * NODES, device=device).reshape(-1, NODES, NODES)
    return bicubic_image(unit, height, width).permute(2, 0, 1).flatten(1)
