"""Lens distortion models and undistortion of images to a pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

PIXELS_PER_CHUNK = 1 << 18
"""Number of pixels whose map is computed together, which bounds its memory."""
MIN_NORMAL_LENGTH = 0.1
"""Shorter interpolated normals become zero, as in `conventions.decode_normals`."""


@dataclass(frozen=True)
class Distortion:
    """Lens distortion in OpenCV's definitions, shared by COLMAP and nerfstudio.

    A ray through (x, y, 1) is projected to where a pinhole camera has (x', y', 1):

    brown:    x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), y' likewise
    fisheye:  x' = x t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8) / r with t = atan r, y' likewise
    """

    kind: Literal["brown", "fisheye"]
    """Polynomial in the radius (brown) or in the angle to the optical axis (fisheye)."""
    radial: tuple[float, ...]
    """k1, k2, ..."""
    tangential: tuple[float, float] = (0.0, 0.0)
    """p1, p2; brown only."""

    def distort(self, points: Tensor) -> Tensor:
        """Distorted positions (..., 2) of points (..., 2) in the plane z = 1."""
        radius = points.norm(dim=-1, keepdim=True)
        if self.kind == "fisheye":
            return points * (self._radial_ratio(torch.atan(radius)) * _atan_ratio(radius))
        x, y = points[..., :1], points[..., 1:]
        p1, p2 = self.tangential
        squared = radius.square()
        tangential = torch.cat(
            [
                2 * p1 * x * y + p2 * (squared + 2 * x * x),
                2 * p2 * x * y + p1 * (squared + 2 * y * y),
            ],
            dim=-1,
        )
        return points * self._radial_ratio(radius) + tangential

    def fold_radius(self) -> float:
        """The radius in the plane z = 1 up to which the radial function increases, or infinity.

        Beyond it, two rays are projected to the same pixel.
        """
        # d/du of u (1 + k1 u^2 + k2 u^4 ...) as a polynomial in u^2, highest power first
        derivative = [1.0] + [(2 * i + 3) * k for i, k in enumerate(self.radial)]
        roots = np.roots(derivative[::-1])
        folds = [root.real for root in roots if abs(root.imag) < 1e-9 and root.real > 0]
        if not folds:
            return float("inf")
        fold = min(folds) ** 0.5
        if self.kind == "brown":
            return fold
        return float(np.tan(fold)) if fold < np.pi / 2 else float("inf")

    def folds_within(self, intrinsics: Tensor, width: int, height: int) -> bool:
        """Whether two rays within the field of view are projected to the same pixel.

        Args:
            intrinsics: (3, 3) in pixels.
            width: of the image, in pixels.
            height: of the image, in pixels.
        """
        # a grid over the pinhole image, corners included
        x = torch.linspace(0.0, width, 65, dtype=torch.float64)
        y = torch.linspace(0.0, height, 65, dtype=torch.float64)
        points = _plane_points(*torch.meshgrid(x, y, indexing="xy"), intrinsics)
        farthest, fold = float(points.norm(dim=-1).max()), self.fold_radius()
        if fold < farthest:
            ratio = self.distort(torch.tensor([[fold, 0.0]], dtype=torch.float64))[0, 0]
            if float(ratio) < farthest:  # no ray before the fold reaches some pixels
                return True
        return self.kind == "brown" and any(self.tangential) and self._mirrors(points, fold)

    def _mirrors(self, points: Tensor, fold: float) -> bool:
        """Whether the Jacobian determinant is not positive at a point (..., 2) within `fold`."""
        x, y = points[points.norm(dim=-1) < fold].unbind(-1)
        squared = x * x + y * y
        ratio = self._radial_ratio(squared.sqrt())
        derivative = sum((i + 1) * k * squared**i for i, k in enumerate(self.radial))
        p1, p2 = self.tangential
        dxdy = 2 * x * y * derivative + 2 * p1 * x + 2 * p2 * y
        dxdx = ratio + 2 * x * x * derivative + 2 * p1 * y + 6 * p2 * x
        dydy = ratio + 2 * y * y * derivative + 6 * p1 * y + 2 * p2 * x
        return not bool((dxdx * dydy > dxdy.square()).all())

    def _radial_ratio(self, u: Tensor) -> Tensor:
        """1 + k1 u^2 + k2 u^4 + ..."""
        squared = u.square()
        ratio = torch.zeros_like(u)
        for k in reversed(self.radial):
            ratio = (ratio + k) * squared
        return ratio + 1.0


def undistort_image(
    colour: Tensor,
    mask: Tensor | None,
    normals: Tensor | None,
    intrinsics: Tensor,
    distortion: Distortion,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Resamples an image, its mask and its normals to a pinhole camera with the same intrinsics.

    Pixels outside the distorted image are background: white, mask 0, zero normal.

    Args:
        colour: (H, W, 3) in 0..1 on white.
        mask: (H, W) in 0..1.
        normals: (H, W, 3) unit vectors or zero, in any frame.
        intrinsics: (3, 3) in pixels, pixel centres at +0.5.
        distortion: the lens distortion.

    Returns:
        Colour (bicubic), mask (bilinear) and normals (bilinear, renormalised), in the same shapes.
    """
    height, width = colour.shape[:2]
    fold = distortion.fold_radius()
    new_colour = torch.empty_like(colour)
    new_mask = None if mask is None else torch.empty_like(mask)
    new_normals = None if normals is None else torch.empty_like(normals)
    step = max(PIXELS_PER_CHUNK // width, 1)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        grid, inside = _source_grid(rows, width, height, intrinsics, distortion, fold)
        sampled = _sample(colour, grid, "bicubic").clamp(0.0, 1.0)
        visible = inside
        if mask is not None:
            new_mask[rows] = _sample(mask[..., None], grid, "bilinear")[..., 0] * inside
            visible = new_mask[rows] > 0
        new_colour[rows] = torch.where(visible[..., None], sampled, 1.0)
        if normals is not None:
            directions = _sample(normals, grid, "bilinear")
            length = directions.norm(dim=-1, keepdim=True)
            kept = (length > MIN_NORMAL_LENGTH) & visible[..., None]
            new_normals[rows] = torch.where(kept, directions / length.clamp_min(1e-6), 0.0)
    return new_colour, new_mask, new_normals


def _source_grid(
    rows: slice,
    width: int,
    height: int,
    intrinsics: Tensor,
    distortion: Distortion,
    fold: float,
) -> tuple[Tensor, Tensor]:
    """Source positions in the distorted image for rows of the pinhole image.

    Returns:
        Positions (R, W, 2), -1..1 from edge to edge, and (R, W) bool: positions inside the
        distorted image, on rays within the fold radius.
    """
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5
    points = _plane_points(*torch.meshgrid(x, y, indexing="xy"), intrinsics)
    distorted = distortion.distort(points)
    focal, centre = intrinsics.diagonal()[:2].double(), intrinsics[:2, 2].double()
    size = torch.tensor([width, height], dtype=torch.float64)
    positions = (distorted * focal + centre) / size * 2.0 - 1.0
    inside = (positions.abs() <= 1.0).all(dim=-1) & (points.norm(dim=-1) < fold)
    return positions.nan_to_num().clamp(-2.0, 2.0).float(), inside


def _plane_points(x: Tensor, y: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixel coordinates x and y (...) as points (..., 2) float64 in the plane z = 1."""
    focal, centre = intrinsics.diagonal()[:2].double(), intrinsics[:2, 2].double()
    return (torch.stack([x, y], dim=-1) - centre) / focal


def _sample(image: Tensor, grid: Tensor, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """(R, W, C) values of an image (H, W, C) at positions (R, W, 2), with border clamping."""
    values = functional.grid_sample(
        image.permute(2, 0, 1)[None],
        grid[None],
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    return values[0].permute(1, 2, 0)


def _atan_ratio(radius: Tensor) -> Tensor:
    """atan(r) / r, which is 1 at 0."""
    return torch.where(radius > 1e-8, torch.atan(radius) / radius.clamp_min(1e-8), 1.0)
