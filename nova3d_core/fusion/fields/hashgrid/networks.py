"""MLPs of the paper's field: signed distance, colour, and the conflict of eq. 4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURE_DIM = 13
"""Dimension of the geometry features f_g."""


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

    Small and with coarse encoding levels only, so that h is smooth; h starts near 0.02.
    """

    def __init__(self, in_dim: int, views: int, hidden_dim: int = 32, embedding_dim: int = 8):
        super().__init__()
        self.view_embedding = nn.Embedding(views, embedding_dim)
        self.net = nn.Sequential(
            nn.Linear(3 + FEATURE_DIM + 3 + embedding_dim + in_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 1),
        )
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)
            self.net[-1].bias.fill_(-4.0)

    def forward(self, features: Tensor, view: Tensor) -> Tensor:
        return torch.sigmoid(
            self.net(torch.cat([features, self.view_embedding(view)], dim=1))[:, 0]
        )
