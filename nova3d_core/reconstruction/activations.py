"""From the network's 14 channels to splats in its world; differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..splats import Splats

MAX_POSITION = 1.0
SCALE_FACTOR = 0.1
MIN_SCALE = 1e-8
"""Scale of splats whose softplus underflows."""


@dataclass(frozen=True, eq=False)
class RawSplats:
    """B objects of N splats each, as `Splats` but with a batch axis and with gradients."""

    positions: Tensor
    """(B, N, 3) in -1..1."""
    scales: Tensor
    """(B, N, 3) standard deviations."""
    rotations: Tensor
    """(B, N, 4) unit quaternions w, x, y, z."""
    opacities: Tensor
    """(B, N) in 0..1."""
    colours: Tensor
    """(B, N, 3) in 0..1."""

    def of_object(self, index: int) -> Splats:
        """The splats of one object."""
        return Splats(**{name: value[index] for name, value in vars(self).items()})


def activate(features: Tensor, has_rotations: bool = True) -> RawSplats:
    """Applies LGM's activations.

    Args:
        features: (B, V, 14, h, w) output of the network, float32.
        has_rotations: normalise each quaternion. False: all rotations are the identity, for
            weights trained with a normalisation of each component over all N splats: such
            quaternions are about 2 / sqrt(N) long, and their rotation matrices, computed without
            normalising them again, are the identity to within 0.002.

    Returns:
        N = V h w splats per object, in the order of views, rows and columns.
    """
    flat = features.float().movedim(2, -1).flatten(1, 3)  # (B, N, 14)
    position, opacity, scale, quaternion, colour = flat.split([3, 1, 3, 4, 3], dim=-1)
    if has_rotations:
        rotations = functional.normalize(quaternion, dim=-1)
    else:
        rotations = torch.zeros_like(quaternion)
        rotations[..., 0] = 1.0
    return RawSplats(
        positions=position.clamp(-MAX_POSITION, MAX_POSITION),
        scales=(SCALE_FACTOR * functional.softplus(scale)).clamp_min(MIN_SCALE),
        rotations=rotations,
        opacities=torch.sigmoid(opacity[..., 0]),
        colours=0.5 * torch.tanh(colour) + 0.5,
    )
