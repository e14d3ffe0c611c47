"""The codec without weights: pixels or cosines, of unit variance where the network paints."""

from __future__ import annotations

import json

import pytest
import torch
from scipy.fft import dctn
from torch.nn import functional

from nova3d_core.diffusion.codecs.pixels import PixelCodec
from nova3d_core.diffusion.codecs.vae import max_chunk_size
from nova3d_core.errors import InputError
from nova3d_core.training.data.render import render_object
from nova3d_core.training.procedural import procedural_object


def images(count: int = 3, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_the_way_there_and_back_is_exact(factor):
    codec = PixelCodec(factor, mean=(0.7, 0.6, 0.8), std=(0.5, 0.4, 0.6))
    given = images()
    latents = codec.encode_scaled(given)
    assert latents.shape == (3, codec.latent_channels, 16 // factor, 24 // factor)
    torch.testing.assert_close(codec.decode(latents, views=3), given, atol=3e-7, rtol=0.0)


def test_without_mean_and_deviation_it_is_exact_bit_for_bit():
    codec, given = PixelCodec(mean=0.0, std=1.0), images()
    assert torch.equal(codec.decode(codec.encode_scaled(given), views=1), given)
    assert torch.equal(codec.encode(given), codec.encode_scaled(given))


def test_a_place_holds_its_own_block_of_pixels():
    codec, given = PixelCodec(4), images()
    block = given[1, :, 8:12, 4:8]  # (3, 4, 4)
    assert torch.equal(codec.encode(given)[1, :, 2, 1], block.flatten())


def test_scaled_latents_have_the_mean_and_deviation_taken_out():
    given = 0.6 + 0.3 * torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scaled = PixelCodec(4, mean=0.6, std=0.3).encode_scaled(given)
    assert abs(float(scaled.mean())) < 0.01
    assert abs(float(scaled.std()) - 1.0) < 0.01


def test_white_is_white_again():
    codec = PixelCodec()
    white = codec.decode(codec.encode_scaled(torch.ones(1, 3, 8, 8)), views=1)
    assert float((white - 1.0).abs().max()) < 1e-6


def test_it_computes_in_float32_whatever_it_is_given():
    codec = PixelCodec().half()
    latents = codec.encode_scaled(images().half())
    assert latents.dtype == codec.encode(images().half()).dtype == torch.float32
    assert codec.decode(latents.half(), views=3).dtype == torch.float32


def test_it_has_no_weights_and_its_settings_make_it_again():
    codec = PixelCodec(8, mean=0.1 + 0.2, std=(0.3, 0.4, 1.0 / 3.0))
    assert not list(codec.parameters()) and not codec.state_dict()
    again = PixelCodec(**json.loads(json.dumps(codec.settings())))
    assert torch.equal(again.encode_scaled(images()), codec.encode_scaled(images()))
    assert (again.factor, again.latent_channels) == (8, 192)


WEIGHTS = (1.0, 2.1, 3.1)


def test_cosines_are_those_of_scipy_lowest_first():
    codec, given = PixelCodec(4, cosines=WEIGHTS), images()
    block = given[1, 2, 8:12, 4:8].double().numpy()
    waves = dctn(block, norm="ortho") / 4.0
    orders = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]
    expected = [waves[u, v] * WEIGHTS[u + v] for u, v in orders]
    blue = codec.encode(given)[1, 12:, 2, 1]
    torch.testing.assert_close(blue, torch.tensor(expected).float(), atol=1e-6, rtol=0.0)


def test_all_cosines_lose_nothing():
    codec, given = (
        PixelCodec(4, std=0.24, cosines=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)),
        images(),
    )
    assert codec.latent_channels == 48
    torch.testing.assert_close(
        codec.decode(codec.encode_scaled(given), 1), given, atol=2e-6, rtol=0.0
    )


def test_few_cosines_keep_what_is_smooth_and_never_change_it_again():
    codec, given = PixelCodec(4, std=(0.2, 0.3, 0.4), cosines=WEIGHTS), images()
    assert codec.latent_channels == 18
    flat = functional.interpolate(given[:, :, ::4, ::4], scale_factor=4.0)
    torch.testing.assert_close(
        codec.decode(codec.encode_scaled(flat), 1), flat, atol=1e-6, rtol=0.0
    )
    once = codec.decode(codec.encode_scaled(given), 1)
    assert float((once - given).abs().max()) > 0.1
    torch.testing.assert_close(
        codec.decode(codec.encode_scaled(once), 1), once, atol=1e-6, rtol=0.0
    )


def test_cosines_of_objects_have_unit_variance_and_lose_little():
    codec = PixelCodec(4, std=0.24, cosines=WEIGHTS)
    shown = [render_object(procedural_object(seed), 64) for seed in range(9000, 9012)]
    batch = torch.cat(
        [torch.as_tensor(one[kind]) for one in shown for kind in ("colour", "normal")]
    )
    given = batch.movedim(-1, 1).float() / 127.5 - 1.0
    scaled = codec.encode_scaled(given)
    assert 0.8 < float(scaled.square().mean().sqrt()) < 1.2
    lost = (codec.decode(scaled, 16).clamp(-1.0, 1.0) - given) / 2.0
    assert float(-10.0 * lost.square().mean().log10()) > 29.0


def test_cosines_are_kept_in_the_settings():
    codec = PixelCodec(4, std=0.24, cosines=WEIGHTS)
    again = PixelCodec(**json.loads(json.dumps(codec.settings())))
    assert torch.equal(again.encode_scaled(images()), codec.encode_scaled(images()))


def test_many_images_fit_into_little_memory():
    assert max_chunk_size(PixelCodec(), 64, 64, torch.float32, 1 << 24, 16) == 16


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"factor": 0}, "factor is 0"),
        ({"std": 0.0}, "std is"),
        ({"std": (0.5, -0.1, 0.5)}, "std is"),
        ({"mean": (0.5, 0.5)}, "mean is"),
        ({"mean": float("nan")}, "mean is"),
        ({"cosines": ()}, "cosines are"),
        ({"cosines": (1.0, 0.0)}, "cosines are"),
        ({"factor": 2, "cosines": (1.0,) * 4}, "cosines are"),
    ],
)
def test_wrong_settings_are_told(settings, told):
    with pytest.raises(InputError, match=told):
        PixelCodec(**settings)


def test_wrong_shapes_are_told():
    codec = PixelCodec(4)
    with pytest.raises(InputError, match="24x18 pixels, expected multiples of 4"):
        codec.encode(images(1, 18, 24))
    with pytest.raises(InputError, match="latents to decode"):
        codec.decode(torch.zeros(1, 12, 4, 4), views=1)
