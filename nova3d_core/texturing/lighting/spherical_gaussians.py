"""Spherical Gaussians: lobes on the sphere whose products integrate in closed form.

G(w; mu, lambda, a) = a exp(lambda (mu . w - 1)). Light and Lambert's cosine are both lobes, so the
shading of a normal is a sum of product integrals, as in SV3D (Voleti et al., 2024, appendix E).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

COSINE_SHARPNESS, COSINE_AMPLITUDE = 2.133, 1.17
"""The lobe around the normal that approximates the clamped cosine (SV3D, appendix E)."""
_MIN_DISTANCE = 1e-3
"""Lower bound of |lambda1 mu1 + lambda2 mu2|, which is 0 for equal and opposite lobes; the limit of
the integral there is finite."""
_NORMALS_PER_CHUNK = 1 << 18


@dataclass(frozen=True, eq=False)
class SphericalGaussians:
    """L white lobes."""

    axes: Tensor
    """(L, 3) unit vectors towards the light, in the world."""
    sharpness: Tensor
    """(L,) above 0."""
    amplitude: Tensor
    """(L,) radiance at the axis; negative values sharpen the sum."""

    def __len__(self) -> int:
        return len(self.axes)

    def radiance(self, directions: Tensor) -> Tensor:
        """(N,) sum of the lobes in unit directions (N, 3)."""
        exponent = self.sharpness * (directions @ self.axes.T - 1.0)  # (N, L)
        return (self.amplitude * exponent.exp()).sum(dim=-1)

    def shading(self, normals: Tensor) -> Tensor:
        """(N,) shading of a white Lambertian surface with unit normals (N, 3), at least 0."""
        integrals = product_integrals(
            normals @ self.axes.T,  # (N, L)
            normals.new_tensor(COSINE_SHARPNESS),
            self.sharpness,
            COSINE_AMPLITUDE * self.amplitude,
        )
        return (integrals.sum(dim=-1) / math.pi).clamp_min(0.0)

    def shading_in_chunks(self, normals: Tensor) -> Tensor:
        """As `shading`, with bounded memory and without gradients."""
        with torch.no_grad():
            return torch.cat([self.shading(part) for part in normals.split(_NORMALS_PER_CHUNK)])

    def scaled(self, factor: float) -> SphericalGaussians:
        """The same light, brighter by a factor."""
        return SphericalGaussians(self.axes, self.sharpness, factor * self.amplitude)

    def environment_map(self, width: int = 64, height: int = 32) -> Tensor:
        """(H, W) radiance as an equirectangular image, at least 0.

        As seen from the object: the centre is +Z, where the camera of azimuth 0 is, the top +Y, and
        +X, to the right of that camera, is left of the centre.
        """
        longitude = (torch.arange(width) + 0.5) / width * 2.0 * math.pi - math.pi  # (W,)
        latitude = math.pi / 2.0 - (torch.arange(height) + 0.5) / height * math.pi  # (H,)
        up, along = torch.meshgrid(latitude, longitude, indexing="ij")
        directions = torch.stack(
            [-up.cos() * along.sin(), up.sin(), up.cos() * along.cos()], dim=-1
        ).to(self.axes)
        return self.radiance(directions.reshape(-1, 3)).reshape(height, width).clamp_min(0.0)


def product_integrals(
    cosine: Tensor, sharpness1: Tensor, sharpness2: Tensor, amplitudes: Tensor
) -> Tensor:
    """Integrals over the sphere of the products of pairs of lobes; arguments broadcast.

    2 pi a1 a2 exp(d - lambda1 - lambda2) (1 - exp(-2 d)) / d with d = |lambda1 mu1 + lambda2 mu2|.
    SV3D's eq. 1 has the difference of the sharpnesses in the exponent, which is a misprint: see
    docs/design-notes/037-light.md.

    Args:
        cosine: (...) mu1 . mu2.
        sharpness1: (...) lambda1.
        sharpness2: (...) lambda2.
        amplitudes: (...) a1 a2.
    """
    squared = sharpness1.square() + sharpness2.square() + 2.0 * sharpness1 * sharpness2 * cosine
    distance = squared.clamp_min(_MIN_DISTANCE**2).sqrt()
    total = sharpness1 + sharpness2
    # exp(d - s) and exp(-d - s) never overflow, as d <= s
    difference = (distance - total).exp() - (-distance - total).exp()
    return 2.0 * math.pi * amplitudes * difference / distance


def fibonacci_sphere(count: int) -> Tensor:
    """(N, 3) unit vectors that cover the sphere evenly."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = 1.0 - 2.0 * index / count
    azimuth = index * math.pi * (3.0 - math.sqrt(5.0))
    radius = (1.0 - height.square()).sqrt()
    points = torch.stack([radius * azimuth.sin(), height, radius * azimuth.cos()], dim=1)
    return functional.normalize(points, dim=1).float()
