"""Synthetic light on meshes with known albedo: renders and what removing the light left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..cameras.cameras import Cameras
from ..io.images.srgb import linear_from_srgb, srgb_from_linear
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.shading import interpolate, surface_colour
from ..rendering.surface_samples import random_surface_points
from ..rendering.views import render_views
from ..views import Views

EXPOSURE_QUANTILE = 0.95
"""Quantile of the shading that a white surface shows as white."""
MAX_SCALE_STEPS = 121
"""Scales, from 0.5 to 2, among which the best common one is chosen."""


@dataclass(frozen=True)
class DistantLight:
    """A sky with a vertical gradient and distant lamps: exact clamped cosines, without shadows."""

    sky: float
    """Shading of a vertical surface by the sky."""
    gradient: float
    """Added for a surface that faces up, subtracted for one that faces down."""
    lamps: tuple[tuple[float, tuple[float, float, float]], ...] = ()
    """Intensity of each lamp, and the direction towards it."""

    def shading(self, normals: Tensor) -> Tensor:
        """(N,) shading of a white Lambertian surface with unit normals (N, 3)."""
        result = self.sky + self.gradient * normals[:, 1]
        for intensity, direction in self.lamps:
            towards = functional.normalize(normals.new_tensor(direction), dim=0)
            result = result + intensity * (normals @ towards).clamp_min(0.0)
        return result


LIGHTS: Mapping[str, DistantLight] = {
    "soft": DistantLight(0.72, 0.16, ((0.5, (0.2, 0.9, 0.5)),)),
    "key": DistantLight(0.28, 0.12, ((0.95, (0.6, 0.7, 0.8)), (0.6, (-1.0, 0.2, 0.6)))),
}
"""A soft sky, and a key light with a fill light and a dim sky."""


def lit_views(
    mesh: Mesh,
    cameras: Cameras,
    light: DistantLight,
    config: RenderConfig | None = None,
    progress: Progress = SILENT,
) -> Views:
    """Renders a mesh under a light, on white, with masks and world normals.

    Args:
        mesh: with smooth normals; its colours are the albedo.
        cameras: V cameras.
        light: exposed so that few white surfaces are overexposed.
        config: rays per pixel.
        progress: reports each view.
    """
    side = (config or RenderConfig()).supersample
    width, height = cameras.width, cameras.height
    fine = render_views(
        mesh, cameras.resized(side * width, side * height), RenderConfig(1), progress
    ).views
    exposure = float(torch.quantile(_surface_shading(mesh, light), EXPOSURE_QUANTILE))
    colour = torch.stack(
        [
            _lit(image, normals, mask, light, exposure)
            for image, normals, mask in zip(fine.colour, fine.normals, fine.masks, strict=True)
        ]
    )
    return replace(fine, colour=colour).resized(width, height)


def _surface_shading(mesh: Mesh, light: DistantLight) -> Tensor:
    """(F,) shading of the faces, each repeated by its area: at least one value."""
    areas = mesh.face_areas
    random = torch.Generator().manual_seed(0)
    face = torch.multinomial(areas / areas.sum(), 20_000, replacement=True, generator=random)
    return light.shading(mesh.face_normals[face])


def _lit(
    image: Tensor, normals: Tensor, mask: Tensor, light: DistantLight, exposure: float
) -> Tensor:
    """(H, W, 3) sRGB colours under a light of albedo (H, W, 3); white outside the mask (H, W)."""
    shading = light.shading(normals.reshape(-1, 3)).view(mask.shape) / exposure
    linear = torch.from_numpy(linear_from_srgb(image.numpy())) * shading[..., None]
    lit = torch.from_numpy(srgb_from_linear(linear.numpy())).float()
    return torch.where(mask[..., None] > 0.5, lit, image)


def albedo_error(found: Tensor, truth: Tensor) -> float:
    """Mean absolute sRGB difference of colours (N, 3) after the best common linear scale.

    Args:
        found: (N, 3) sRGB, of unknown exposure.
        truth: (N, 3) sRGB albedo.
    """
    linear = torch.from_numpy(linear_from_srgb(found.numpy()))
    expected = torch.from_numpy(linear_from_srgb(truth.numpy()))
    scale = float((linear * expected).sum() / linear.square().sum().clamp_min(1e-9))
    factors = torch.logspace(-1.0, 1.0, MAX_SCALE_STEPS, base=2.0).tolist()
    scaled = (srgb_from_linear((linear * scale * factor).numpy()) for factor in factors)
    return min(float((torch.from_numpy(each) - truth).abs().mean()) for each in scaled)


def log_correlation(first: Tensor, second: Tensor) -> float:
    """Correlation of the logarithms of two shadings (N,)."""
    logs = torch.stack([first, second]).double().clamp_min(1e-3).log()
    return float(torch.corrcoef(logs)[0, 1])


@dataclass(frozen=True, eq=False)
class NearestSurface:
    """The nearest points on a surface."""

    colour: Tensor
    """(N, 3) sRGB."""
    normal: Tensor
    """(N, 3) unit."""


def nearest_surface(mesh: Mesh, points: Tensor, samples: int = 400_000) -> NearestSurface:
    """Colour and normal of the nearest of many samples on a mesh, for points (N, 3).

    Args:
        mesh: the reference.
        points: (N, 3) near it.
        samples: number of samples, uniform by area, always the same.
    """
    from scipy.spatial import cKDTree

    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    face, weights = random_surface_points(mesh, samples, seed=0)
    positions = interpolate(mesh.vertices, mesh.faces[face], weights)
    index = torch.from_numpy(cKDTree(positions.numpy()).query(points.numpy())[1])
    chosen, own = face[index], weights[index]
    normal = functional.normalize(interpolate(mesh.normals, mesh.faces[chosen], own), dim=1)
    return NearestSurface(surface_colour(mesh, chosen, own), normal)
