"""Random positions that repeat."""

from __future__ import annotations

import torch
from torch import Tensor


def random_unit_cube(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))
