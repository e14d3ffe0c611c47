"""MLPs of the paper's field: signed distance, colour, and the conflict of eq. 4."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURE_DIM = 13
"""Dimension of the geometry features f_g."""
POSITION_OCTAVES = 3
"""Frequencies of the position in f_psi: periods of 1, 1/2 and 1/4 of the box."""


class SDFNetwork(nn.Module):
    """Encoded positions to an SDF offset, initially 0, and features f_g."""

    def __init__(self, in_dim: int, hidden_dim: int = 64):
        super().__init__()
        self.inner = nn.Linear(in_dim, hidden_dim)
        self.outer = nn.Linear(hidden_dim, 1 + FEATURE_DIM)
        with torch.no_grad():
            self.outer.weight[0].zero_()
            self.outer.bias[0].zero_()

    def hidden(self, encoded: Tensor) -> Tensor:
        return F.softplus(self.inner(encoded), beta=100.0)

    def forward(self, encoded: Tensor) -> Tensor:
        """(N, 1 + 13) from (N, in_dim)."""
        return self.outer(self.hidden(encoded))

    def sdf_offset(self, encoded: Tensor) -> Tensor:
        """(N,) the first output only."""
        return F.linear(self.hidden(encoded), self.outer.weight[:1], self.outer.bias[:1])[:, 0]


class ColorNetwork(nn.Sequential):
    """Features, normal and encoded position to a colour in 0..1."""

    def __init__(self, in_dim: int, hidden_dim: int = 64):
        super().__init__(
            nn.Linear(FEATURE_DIM + 3 + in_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 3),
            nn.Sigmoid(),
        )


class ConflictNetwork(nn.Module):
    """f_psi of eq. 4: the conflict h from colour, features, ray direction, view and position.

    Small, with the position as sines and cosines down to a quarter of the box and without fine
    encoding levels, so that h is smooth and still local; h starts near 0.02.

    Args:
        position_dim: coordinates in -1..1, then features of coarse encoding levels.
        views: number of views.
    """

    def __init__(self, position_dim: int, views: int, hidden_dim: int = 32, embedding_dim: int = 8):
        super().__init__()
        self.view_embedding = nn.Embedding(views, embedding_dim)
        in_dim = 3 + FEATURE_DIM + 3 + position_dim + 6 * POSITION_OCTAVES + embedding_dim
        self.net = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 1),
        )
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)
            self.net[-1].bias.fill_(-4.0)

    def forward(
        self, colour: Tensor, features: Tensor, direction: Tensor, position: Tensor, view: Tensor
    ) -> Tensor:
        """(N,) h from f_c (N, 3), f_g (N, 13), d(v) (N, 3), x (N, position_dim) and l (N,)."""
        octaves = math.pi * 2.0 ** torch.arange(POSITION_OCTAVES, device=view.device)
        angle = (position[:, :3, None] * octaves).flatten(1)  # (N, 3 octaves)
        embedded = self.view_embedding(view)
        inputs = (colour, features, direction, position, angle.sin(), angle.cos(), embedded)
        return torch.sigmoid(self.net(torch.cat(inputs, dim=1))[:, 0])
