"""Equality with Ouroboros3D's own code, whose outputs with random weights are recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.diffusion.coordinate_maps import coordinate_maps
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.embeddings import sinusoidal_embedding
from nova3d_core.diffusion.network.feedback_unet import Feedback, FeedbackUNet
from nova3d_core.weights.keymaps.unet import ouroboros3d_unet_names

from . import ouroboros3d_reference as shared

RECORDED = Path(__file__).parents[1] / "data" / "ouroboros3d.npz"


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(RECORDED) as data:
        return {name: torch.tensor(data[name]) for name in data}


@pytest.fixture
def public_names(checkpoint_manifests) -> dict[str, str]:
    """The name in the public file of each of our parameters."""
    manifest = json.loads((checkpoint_manifests / "ouroboros3d_mv_model_unet.json").read_text())
    return {own: public for public, own in ouroboros3d_unet_names(manifest).items()}


def test_the_unet_equals_the_authors(recorded, public_names):
    config = UNetConfig(
        model_channels=32,
        num_head_channels=16,
        context_dim=shared.CONTEXT_DIM,
        add_embed_dim=3 * shared.SCALAR_DIM,
        feedback_factor=shared.FACTOR,
    )
    unet = FeedbackUNet(config, device="meta").eval()
    state = {
        own: torch.tensor(shared.weight(public_names[own], tuple(value.shape)))
        for own, value in unet.state_dict().items()
    }
    unet.load_state_dict(state, assign=True)
    given = {name: torch.tensor(value) for name, value in shared.inputs().items()}
    rig = cameras_from_orbit(preset_orbit("ouroboros3d", 512, 512))[list(shared.CAMERAS)]
    feedback = Feedback(
        given["colours"],
        given["coordinates"],
        rig.camera_to_world[None],
        torch.full((1, shared.VIEWS), shared.FOCAL),
    )
    added = sinusoidal_embedding(torch.tensor(shared.ADDED_IDS), shared.SCALAR_DIM).flatten()
    with torch.no_grad():
        output = unet(
            given["x"][None],
            torch.tensor([shared.C_NOISE]),
            given["context"],
            added.expand(1, shared.VIEWS, -1),
            feedback=feedback,
        )
    assert recorded["output"].abs().max() > 0.5
    torch.testing.assert_close(output[0], recorded["output"], atol=1e-4, rtol=0.0)


def test_the_released_coordinate_maps_equal_the_authors(recorded):
    rig = cameras_from_orbit(preset_orbit("ouroboros3d", 512, 512))[list(shared.CAMERAS)]
    depth = torch.tensor(shared.inputs()["depth"])
    focal = torch.full((shared.VIEWS,), shared.FOCAL)
    maps = coordinate_maps(depth, (depth > 0).float(), rig.camera_to_world, focal)
    torch.testing.assert_close(maps, recorded["maps"][0], atol=1e-6, rtol=0)
