"""Fixtures shared by the training tests."""

from __future__ import annotations

import pytest
import torch

from .parts import SMALL, of, run, state


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights and EMA of the small run, without interruption."""
    return state(run(of(SMALL, run__checkpoint_steps=2), tmp_path_factory.mktemp("run")))
