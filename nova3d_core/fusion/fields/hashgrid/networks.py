"""The small networks of the paper's field: distance, colour, and the conflict of eq. 4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 13
"""How many numbers f_g holds."""


class SDFNetwork(nn.Module):
    """Encoded places to a shift of the distance, which starts as 0, and features f_g."""

    def __init__(self, width: int, hidden: int = 64):
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, 1 + FEATURES)
        with torch.no_grad():
            self.outer.weight[0].zero_()
            self.outer.bias[0].zero_()

    def hidden(self, encoded: Tensor) -> Tensor:
        return F.softplus(self.inner(encoded), beta=100.0)

    def forward(self, encoded: Tensor) -> Tensor:
        """(N, 1 + 13) from (N, width)."""
        return self.outer(self.hidden(encoded))

    def shift(self, encoded: Tensor) -> Tensor:
        """(N,) the first output alone."""
        return F.linear(self.hidden(encoded), self.outer.weight[:1], self.outer.bias[:1])[:, 0]


class ColorNetwork(nn.Sequential):
    """Features, normal and encoded place to a colour in 0..1."""

    def __init__(self, width: int, hidden: int = 64):
        super().__init__(
            nn.Linear(FEATURES + 3 + width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 3),
            nn.Sigmoid(),
        )


class ConflictNetwork(nn.Module):
    """f_psi of eq. 4: the conflict h from colour, features, ray direction, view and place.

    It is small and sees the coarse levels only, so that h is smooth; it starts near .02.
    """

    def __init__(self, width: int, views: int, hidden: int = 32, code: int = 8):
        super().__init__()
        self.view_embedding = nn.Embedding(views, code)
        self.net = nn.Sequential(
            nn.Linear(3 + FEATURES + 3 + code + width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)
            self.net[-1].bias.fill_(-4.0)

    def forward(self, known: Tensor, view: Tensor) -> Tensor:
        return torch.sigmoid(self.net(torch.cat([known, self.view_embedding(view)], dim=1))[:, 0])
