"""A small pair with random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nova3d_core.reconstruction.config import FAMILIES
from nova3d_core.reconstruction.model import ReconstructionModel
from nova3d_core.recursion.model import RecursiveModel

from ..diffusion.models import small_model
from ..reconstruction.conftest import EIGHTH_WITH_TIME, random_network
from ..weights.conftest import manifest, write_model

__all__ = ["manifest", "write_model"]


def small_pair(seed: int = 0) -> RecursiveModel:
    """Eight views of 16 px, reconstructed from four images of 64 px."""
    model = small_model("ouroboros3d", seed)
    family = replace(FAMILIES["ouroboros3d"], size_px=64)
    network = random_network(EIGHTH_WITH_TIME, seed)
    own = ReconstructionModel(family, network, "recon.safetensors", has_rotations=False)
    return RecursiveModel(
        model.family,
        model.unet,
        model.codec,
        model.image_encoder,
        model.source,
        reconstruction=own,
    )


@pytest.fixture(scope="session")
def pair() -> RecursiveModel:
    return small_pair()
