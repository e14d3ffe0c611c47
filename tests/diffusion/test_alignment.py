"""Cross-domain alignment attention: which images attend to each other, and which never do."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.embeddings import camera_task_embedding, sinusoidal_embedding
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.errors import InputError
from nova3d_core.training.init_from_svd import nova3d_from_svd

from .conftest import inputs_for, small_unet


def influence(unet: VideoUNet, given: dict, chosen: tuple) -> torch.Tensor:
    """(D, B, V) gradient magnitude of the chosen output images with respect to each input image."""
    x = given["x"].clone().requires_grad_()
    unet(**{**given, "x": x})[chosen].sum().backward()
    return x.grad.abs().amax(dim=(3, 4, 5))


def test_swapping_domains_swaps_outputs(nova3d_unet):
    given = inputs_for(nova3d_unet)
    swapped = {**given, "x": given["x"].flip(0), "camera_task": given["camera_task"].flip(0)}
    with torch.no_grad():
        plain, other = nova3d_unet(**given), nova3d_unet(**swapped)
    assert (plain[0] - plain[1]).abs().max() > 0.1
    torch.testing.assert_close(other.flip(0), plain, atol=1e-5, rtol=1e-4)


def test_objects_are_independent(nova3d_unet):
    given = inputs_for(nova3d_unet, objects=3)
    gradient = influence(nova3d_unet, given, (slice(None), 1))
    assert bool((gradient[:, 1] > 0).all())
    assert float(gradient[:, [0, 2]].max()) == 0.0


def test_domains_interact_only_through_alignment(nova3d_unet):
    given = inputs_for(nova3d_unet)
    assert float(influence(nova3d_unet, given, (0, 0))[1, 0].min()) > 0.0
    unaligned = small_unet(domains=2, camera_task_dim=10, add_embed_dim=8)
    assert float(influence(unaligned, given, (0, 0))[1].max()) == 0.0


@pytest.mark.parametrize("kind", ["transformer_blocks", "time_stack"])
def test_spatial_alignment_is_per_view_and_temporal_alignment_per_position(nova3d_unet, kind):
    from nova3d_core.diffusion.network.blocks import BatchLayout

    block = getattr(nova3d_unet.middle_block[1], kind)[0]
    tokens = torch.randn(2 * 2 * 3, 6, 128, requires_grad=True)  # D B V images of 6 positions
    layout = BatchLayout(2, 2, 3, torch.zeros(12, 128), torch.zeros(2, 1, 48))
    block(tokens, layout).unflatten(0, layout.sizes)[0, 1, 2, 4].sum().backward()
    reached = tokens.grad.abs().amax(dim=-1).unflatten(0, layout.sizes) > 0  # (D, B, V, n)
    expected = torch.zeros(2, 2, 3, 6, dtype=torch.bool)
    if kind == "transformer_blocks":
        expected[:, 1, 2, :] = True
    else:
        expected[:, 1, :, 4] = True
    assert torch.equal(reached, expected)


def test_spatial_kind_has_no_temporal_alignment(nova3d_unet):
    config = UNetConfig(**{**vars(nova3d_unet.config), "alignment": "spatial"})
    names = set(VideoUNet(config, device="meta").state_dict())
    removed = {
        name for name in nova3d_unet.state_dict() if "_align." in name and ".time_stack." in name
    }
    assert removed and names == set(nova3d_unet.state_dict()) - removed
    unet = small_unet(domains=2, alignment="spatial", camera_task_dim=10, add_embed_dim=8)
    assert float(influence(unet, inputs_for(unet), (0, 0))[1, 0].min()) > 0.0


def test_initial_alignment_is_exactly_identity(svd_unet):
    nova3d = nova3d_from_svd(svd_unet)
    config = UNetConfig(**{**vars(nova3d.config), "alignment": "none"})
    without = VideoUNet(config)
    without.load_state_dict({n: t for n, t in nova3d.state_dict().items() if "_align." not in n})
    given = inputs_for(nova3d)
    with torch.no_grad():
        assert torch.equal(nova3d(**given), without(**given))


def test_initialised_network_equals_svd_in_both_domains(svd_unet):
    nova3d = nova3d_from_svd(svd_unet)
    given = inputs_for(nova3d, objects=1)
    strength = torch.tensor([0.02])
    given["added_embeds"] = sinusoidal_embedding(strength, 8)[:, None].expand(1, 5, 8)
    svd_added = sinusoidal_embedding(torch.tensor([6.0, 127.0, 0.02]), 8).flatten().expand(1, 5, 24)
    with torch.no_grad():
        result = nova3d(**given)
        for domain in range(2):
            svd = svd_unet(given["x"][domain][None], given["c_noise"], given["context"], svd_added)
            torch.testing.assert_close(result[domain], svd[0], atol=1e-5, rtol=1e-4)


def test_initialised_network_learns_alignment(svd_unet):
    """The zero initialisation still has gradients: one SGD step couples the domains."""
    nova3d = nova3d_from_svd(svd_unet)
    given = inputs_for(nova3d, objects=1, views=3, size=8)
    assert float(influence(nova3d, given, (0, 0))[1].max()) == 0.0
    optimiser = torch.optim.SGD(nova3d.parameters(), lr=1e-2)
    optimiser.zero_grad()
    nova3d(**given).square().mean().backward()
    optimiser.step()
    assert float(influence(nova3d, given, (0, 0))[1].max()) > 0.0


def test_initialisation_is_deterministic_and_copies_weights(svd_unet):
    before = {name: tensor.clone() for name, tensor in svd_unet.state_dict().items()}
    first, second = nova3d_from_svd(svd_unet, seed=3), nova3d_from_svd(svd_unet, seed=3)
    for (name, one), other in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    for name, tensor in svd_unet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_rejects_networks_other_than_svd():
    with pytest.raises(InputError, match="is not an SVD"):
        nova3d_from_svd(small_unet(add_embed_dim=8))


def test_camera_task_embedding():
    azimuths = torch.deg2rad(torch.tensor([30.0, 120.0, 210.0]))
    elevations = torch.deg2rad(torch.tensor([10.0, 10.0, 40.0]))
    embedding = camera_task_embedding(elevations, azimuths)  # (2, 3, 10)
    assert embedding.shape == (2, 3, 10)
    sines, cosines = embedding[..., :5], embedding[..., 5:]
    torch.testing.assert_close(sines**2 + cosines**2, torch.ones(2, 3, 5))
    angles = torch.atan2(sines, cosines)
    torch.testing.assert_close(
        torch.rad2deg(angles[0, :, 1:3]), torch.tensor([[0.0, 0], [0, 90], [30, 180]])
    )
    torch.testing.assert_close(angles[0, :, 3:], torch.tensor([[0.0, 1.0]] * 3))  # colour
    torch.testing.assert_close(angles[1, :, 3:], torch.tensor([[1.0, 0.0]] * 3))  # normals
    last = camera_task_embedding(elevations, azimuths, domains=1, input_view=-1)
    torch.testing.assert_close(last[0, -1, 1:3], torch.zeros(2))


def test_sinusoidal_embedding():
    vectors = sinusoidal_embedding(torch.tensor([0.0, 2.0]), 256)
    torch.testing.assert_close(vectors[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert float(vectors[1, 0]) == pytest.approx(-0.4161468)  # cos 2
    assert float(vectors[1, 128]) == pytest.approx(0.9092974)  # sin 2
    assert float(vectors[1, 255]) == pytest.approx(2.0 * 10000.0 ** (-127 / 128), rel=1e-5)
