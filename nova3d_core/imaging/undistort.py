"""Lens distortion taken out of images: they are resampled onto a pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

PIXELS_PER_CHUNK = 1 << 18
"""The map is made for this many pixels at a time, which bounds its memory whatever the image."""
MIN_NORMAL_LENGTH = 0.1
"""An interpolated normal shorter than this is none, as in normal images."""


@dataclass(frozen=True)
class Distortion:
    """How a lens bends rays, in OpenCV's definitions, which COLMAP and nerfstudio share.

    A ray through (x, y, 1) meets the image where a pinhole camera has (x', y', 1):

    brown:    x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), y' likewise
    fisheye:  x' = x t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8) / r with t = atan r, y' likewise
    """

    kind: Literal["brown", "fisheye"]
    """The polynomial is one of the radius (brown) or of the angle to the axis (fisheye)."""
    radial: tuple[float, ...]
    """k1, k2, ..."""
    tangential: tuple[float, float] = (0.0, 0.0)
    """p1, p2; brown only."""

    def distort(self, points: Tensor) -> Tensor:
        """Where rays through (..., 2) points of the plane z = 1 meet the image, in that plane."""
        radius = points.norm(dim=-1, keepdim=True)
        if self.kind == "fisheye":
            return points * (self._radial_ratio(torch.atan(radius)) * _atan_ratio(radius))
        x, y = points[..., :1], points[..., 1:]
        p1, p2 = self.tangential
        squared = radius.square()
        shift = torch.cat(
            [
                2 * p1 * x * y + p2 * (squared + 2 * x * x),
                2 * p2 * x * y + p1 * (squared + 2 * y * y),
            ],
            dim=-1,
        )
        return points * self._radial_ratio(radius) + shift

    def fold_radius(self) -> float:
        """The radius in the plane z = 1 where the lens folds back; infinite if it never does.

        From there on the radial function falls: two rays would meet the image in one place.
        """
        # d/du of u (1 + k1 u^2 + k2 u^4 ...) as a polynomial in u^2, highest power first
        slope = [1.0] + [(2 * i + 3) * k for i, k in enumerate(self.radial)]
        roots = np.roots(slope[::-1])
        folds = [root.real for root in roots if abs(root.imag) < 1e-9 and root.real > 0]
        if not folds:
            return float("inf")
        fold = min(folds) ** 0.5
        if self.kind == "brown":
            return fold
        return float(np.tan(fold)) if fold < np.pi / 2 else float("inf")

    def folds_within(self, intrinsics: Tensor, width: int, height: int) -> bool:
        """Whether two rays within the field of view meet an image of this size in one place.

        Args:
            intrinsics: (3, 3) in pixels.
            width: of the image, in pixels.
            height: of the image, in pixels.
        """
        # a lattice over the pinhole image, corners included
        x = torch.linspace(0.0, width, 65, dtype=torch.float64)
        y = torch.linspace(0.0, height, 65, dtype=torch.float64)
        points = _plane_points(*torch.meshgrid(x, y, indexing="xy"), intrinsics)
        farthest, fold = float(points.norm(dim=-1).max()), self.fold_radius()
        if fold < farthest:
            ratio = self.distort(torch.tensor([[fold, 0.0]], dtype=torch.float64))[0, 0]
            if float(ratio) < farthest:  # the image has pixels that no ray before the fold meets
                return True
        return self.kind == "brown" and any(self.tangential) and self._mirrors(points, fold)

    def _mirrors(self, points: Tensor, fold: float) -> bool:
        """Whether the map turns over at one of the (..., 2) points before the radial fold."""
        x, y = points[points.norm(dim=-1) < fold].unbind(-1)
        squared = x * x + y * y
        ratio = self._radial_ratio(squared.sqrt())
        slope = sum((i + 1) * k * squared**i for i, k in enumerate(self.radial))
        p1, p2 = self.tangential
        across = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
        along_x = ratio + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
        along_y = ratio + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
        return not bool((along_x * along_y > across.square()).all())

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
    """An image, its mask and its normals as a pinhole camera with the same intrinsics sees them.

    What lies outside the distorted image is background: white, mask 0, no normal.

    Args:
        colour: (H, W, 3) in 0..1 on white.
        mask: (H, W) in 0..1.
        normals: (H, W, 3) unit vectors or zero. Their axes stay the same.
        intrinsics: (3, 3) in pixels, pixel centres at +0.5.
        distortion: the lens.

    Returns:
        Colour (bicubic), mask (bilinear) and normals (bilinear, of unit length again), of the same
        shapes.
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
        seen = inside
        if mask is not None:
            new_mask[rows] = _sample(mask[..., None], grid, "bilinear")[..., 0] * inside
            seen = new_mask[rows] > 0
        new_colour[rows] = torch.where(seen[..., None], sampled, 1.0)
        if normals is not None:
            directions = _sample(normals, grid, "bilinear")
            length = directions.norm(dim=-1, keepdim=True)
            kept = (length > MIN_NORMAL_LENGTH) & seen[..., None]
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
    """Where rows of the pinhole image come from.

    Returns:
        Places (R, W, 2) in the distorted image, -1..1 from edge to edge, and (R, W) bool: which of
        them lie in it, on rays before the lens folds back.
    """
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5
    points = _plane_points(*torch.meshgrid(x, y, indexing="xy"), intrinsics)
    bent = distortion.distort(points)
    focal, centre = intrinsics.diagonal()[:2].double(), intrinsics[:2, 2].double()
    size = torch.tensor([width, height], dtype=torch.float64)
    places = (bent * focal + centre) / size * 2.0 - 1.0
    inside = (places.abs() <= 1.0).all(dim=-1) & (points.norm(dim=-1) < fold)
    return places.nan_to_num().clamp(-2.0, 2.0).float(), inside


def _plane_points(x: Tensor, y: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels x and y (...) as points (..., 2) float64 of the plane z = 1."""
    focal, centre = intrinsics.diagonal()[:2].double(), intrinsics[:2, 2].double()
    return (torch.stack([x, y], dim=-1) - centre) / focal


def _sample(image: Tensor, grid: Tensor, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """(R, W, C) values of an image (H, W, C) at places (R, W, 2); its border goes on outside."""
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
