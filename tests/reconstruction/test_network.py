"""LGM's network: keys, noise level, attention across views, equality with the authors' code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.reconstruction.activations import activate
from nova3d_core.reconstruction.config import FAMILIES, LgmConfig
from nova3d_core.reconstruction.network import Lgm

from . import lgm_reference as reference
from .conftest import EIGHTH, EIGHTH_WITH_TIME, random_network


def is_of_time(name: str) -> bool:
    return ".time_embed." in name or ".emb_layers." in name


@pytest.mark.parametrize(
    ("time_channels", "tensors", "parameters"), [(0, 376, 415_042_848), (128, 438, 424_039_200)]
)
def test_keys_and_shapes_are_those_of_the_published_files(
    manifest, time_channels, tensors, parameters
):
    published = {
        name: shape
        for name, shape in manifest("ouroboros3d_recon_model").items()
        if time_channels or not is_of_time(name)
    }
    network = Lgm(LgmConfig(time_channels=time_channels), device="meta")
    ours = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert ours == published and len(ours) == tensors
    assert sum(value.numel() for value in network.parameters()) == parameters


def random_input(objects: int = 1, size_px: int = 64, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(objects, 4, 9, size_px, size_px, generator=generator)


def test_one_splat_per_pixel_at_half_the_size():
    out = random_network(EIGHTH)(random_input(size_px=256))
    assert out.shape == (1, 4, 14, 128, 128) and out.dtype == torch.float32
    assert bool(torch.isfinite(out).all())
    assert activate(out).positions.shape == (1, 65_536, 3)


def test_zero_time_layers_change_no_bit():
    timed = random_network(EIGHTH_WITH_TIME)
    for name, value in timed.named_parameters():
        if ".emb_layers." in name:
            value.zero_()
    plain = Lgm(EIGHTH).eval()
    plain.load_state_dict(
        {name: value for name, value in timed.state_dict().items() if not is_of_time(name)}
    )
    x = random_input()
    with torch.no_grad():
        expected = plain(x)
    assert torch.equal(timed(x, torch.tensor([1.7])), expected)
    assert torch.equal(timed(x), expected)


def test_time_is_the_noise_level_of_each_object():
    network, x = random_network(EIGHTH_WITH_TIME), random_input(objects=2)
    both = network(x, torch.tensor([0.0, 1.5]))
    torch.testing.assert_close(network(x[:1]), both[:1])  # no level: clean views
    torch.testing.assert_close(network(x[1:], torch.tensor([1.5])), both[1:])
    assert float((network(x[1:]) - both[1:]).abs().max()) > 1e-3


def test_permuted_views_permute_the_splats():
    network, x, order = random_network(EIGHTH), random_input(), [0, 3, 1, 2]
    torch.testing.assert_close(network(x[:, order]), network(x)[:, order], rtol=1e-4, atol=1e-5)


def test_attention_sees_the_other_views_but_no_other_object():
    network, x = random_network(EIGHTH), random_input(objects=2)
    changed = x.clone()
    changed[0, 3] += 1.0
    difference = (network(changed) - network(x)).abs().amax(dim=(2, 3, 4))  # (B, V)
    assert bool((difference[0] > 1e-4).all())
    assert bool((difference[1] < 1e-6).all())


def test_rejects_input_of_other_shapes():
    network = random_network(EIGHTH)
    with pytest.raises(InputError, match="V = 4"):
        network(torch.zeros(1, 8, 9, 64, 64))
    with pytest.raises(InputError, match="multiples of 32"):
        network(torch.zeros(1, 4, 9, 72, 64))
    with pytest.raises(InputError, match="c_noise has shape"):
        random_network(EIGHTH_WITH_TIME)(torch.zeros(2, 4, 9, 64, 64), torch.zeros(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_widths": (8, 16)}, "attention flags"),
        ({"up_widths": (32,) * 7, "up_attention": (False,) * 7}, "more than its encoder"),
        ({"num_heads": 3}, "cannot be divided"),
    ],
)
def test_rejects_impossible_architectures(changes, message):
    with pytest.raises(InputError, match=message):
        LgmConfig(**changes)


def reference_network(time_channels: int) -> Lgm:
    """The network of the recorded outputs."""
    config = LgmConfig(
        down_widths=reference.DOWN_WIDTHS,
        down_attention=reference.DOWN_ATTENTION,
        up_widths=reference.UP_WIDTHS,
        up_attention=reference.UP_ATTENTION,
        time_channels=time_channels,
    )
    network = Lgm(config, device="meta")
    state = {
        name: torch.tensor(reference.weight(name, tuple(value.shape)))
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(Path(__file__).parents[1] / "data" / "lgm.npz") as file:
        return {name: torch.tensor(value) for name, value in file.items()}


def reference_input(family: str) -> torch.Tensor:
    """The input (1, 4, 9, S, S) from our own cameras and normalisation."""
    from nova3d_core.cameras.cameras import cameras_at
    from nova3d_core.cameras.orbits import focal_for_fov
    from nova3d_core.cameras.rigs import RigConfig
    from nova3d_core.reconstruction.reconstruct import network_input

    cameras = FAMILIES[family]
    rig = RigConfig(
        radius=cameras.radius,
        focal_per_width=focal_for_fov(cameras.fov_deg),
        width_px=reference.SIZE_PX,
        height_px=reference.SIZE_PX,
    )
    orbit = cameras_at(reference.AZIMUTHS_DEG, [0.0] * 4, rig)
    return network_input(torch.tensor(reference.images())[None], orbit)


def packed(splats) -> torch.Tensor:
    """(N, 14) in the authors' order."""
    return torch.cat(
        [
            splats.positions[0],
            splats.opacities[0][:, None],
            splats.scales[0],
            splats.rotations[0],
            splats.colours[0],
        ],
        dim=1,
    )


def test_equals_the_authors_lgm(recorded):
    x = reference_input("lgm")
    torch.testing.assert_close(x[0, :, 3:], recorded["rays"], rtol=0.0, atol=1e-6)
    features = reference_network(0)(x)
    torch.testing.assert_close(features[0], recorded["features"], rtol=0.0, atol=2e-5)
    torch.testing.assert_close(packed(activate(features)), recorded["splats"], rtol=0.0, atol=2e-5)


def test_equals_the_authors_ouroboros3d(recorded):
    features = reference_network(128)(
        reference_input("ouroboros3d"), torch.tensor([reference.C_NOISE])
    )
    splats = packed(activate(features, has_rotations=False))
    expected = recorded["ouroboros3d_splats"]
    others = [*range(7), *range(11, 14)]
    torch.testing.assert_close(splats[:, others], expected[:, others], rtol=0.0, atol=2e-5)
    # theirs are normalised along the wrong axis: each component over all splats
    torch.testing.assert_close(expected[:, 7:11].norm(dim=0), torch.ones(4))
    assert torch.equal(splats[:, 7:11], torch.eye(4)[:1].expand(len(splats), 4))
