"""The pixel codec: lossless pixels or weighted DCT coefficients, of unit variance when scaled."""

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
def test_round_trip_is_exact(factor):
    codec = PixelCodec(factor, mean=(0.7, 0.6, 0.8), std=(0.5, 0.4, 0.6))
    given = images()
    latents = codec.encode_scaled(given)
    assert latents.shape == (3, codec.latent_channels, 16 // factor, 24 // factor)
    torch.testing.assert_close(codec.decode(latents, views=3), given, atol=3e-7, rtol=0.0)


def test_round_trip_without_normalisation_is_bit_exact():
    codec, given = PixelCodec(mean=0.0, std=1.0), images()
    assert torch.equal(codec.decode(codec.encode_scaled(given), views=1), given)
    assert torch.equal(codec.encode(given), codec.encode_scaled(given))


def test_latent_holds_its_block_of_pixels():
    codec, given = PixelCodec(4), images()
    block = given[1, :, 8:12, 4:8]  # (3, 4, 4)
    assert torch.equal(codec.encode(given)[1, :, 2, 1], block.flatten())


def test_scaled_latents_are_normalised():
    given = 0.6 + 0.3 * torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scaled = PixelCodec(4, mean=0.6, std=0.3).encode_scaled(given)
    assert abs(float(scaled.mean())) < 0.01
    assert abs(float(scaled.std()) - 1.0) < 0.01


def test_white_stays_white():
    codec = PixelCodec()
    white = codec.decode(codec.encode_scaled(torch.ones(1, 3, 8, 8)), views=1)
    assert float((white - 1.0).abs().max()) < 1e-6


def test_computes_in_float32_for_any_dtype():
    codec = PixelCodec().half()
    latents = codec.encode_scaled(images().half())
    assert latents.dtype == codec.encode(images().half()).dtype == torch.float32
    assert codec.decode(latents.half(), views=3).dtype == torch.float32


def test_has_no_weights_and_is_rebuilt_from_its_settings():
    codec = PixelCodec(8, mean=0.1 + 0.2, std=(0.3, 0.4, 1.0 / 3.0))
    assert not list(codec.parameters()) and not codec.state_dict()
    again = PixelCodec(**json.loads(json.dumps(codec.settings())))
    assert torch.equal(again.encode_scaled(images()), codec.encode_scaled(images()))
    assert (again.factor, again.latent_channels) == (8, 192)


WEIGHTS = (1.0, 2.1, 3.1)


def test_coefficients_match_scipy_in_ascending_order():
    codec, given = PixelCodec(4, cosines=WEIGHTS), images()
    block = given[1, 2, 8:12, 4:8].double().numpy()
    waves = dctn(block, norm="ortho") / 4.0
    orders = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]
    expected = [waves[u, v] * WEIGHTS[u + v] for u, v in orders]
    blue = codec.encode(given)[1, 12:, 2, 1]
    torch.testing.assert_close(blue, torch.tensor(expected).float(), atol=1e-6, rtol=0.0)


def test_all_coefficients_are_lossless():
    codec, given = (
        PixelCodec(4, std=0.24, cosines=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)),
        images(),
    )
    assert codec.latent_channels == 48
    torch.testing.assert_close(
        codec.decode(codec.encode_scaled(given), 1), given, atol=2e-6, rtol=0.0
    )


def test_few_coefficients_keep_smooth_images_and_are_idempotent():
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


def test_coefficients_of_objects_have_unit_variance_and_high_psnr():
    codec = PixelCodec(4, std=0.24, cosines=WEIGHTS)
    renders = [render_object(procedural_object(seed), 64) for seed in range(9000, 9012)]
    batch = torch.cat(
        [torch.as_tensor(one[kind]) for one in renders for kind in ("colour", "normal")]
    )
    given = batch.movedim(-1, 1).float() / 127.5 - 1.0
    scaled = codec.encode_scaled(given)
    assert 0.8 < float(scaled.square().mean().sqrt()) < 1.2
    error = (codec.decode(scaled, 16).clamp(-1.0, 1.0) - given) / 2.0
    assert float(-10.0 * error.square().mean().log10()) > 29.0


def test_settings_include_the_cosines():
    codec = PixelCodec(4, std=0.24, cosines=WEIGHTS)
    again = PixelCodec(**json.loads(json.dumps(codec.settings())))
    assert torch.equal(again.encode_scaled(images()), codec.encode_scaled(images()))


def test_all_views_fit_into_little_memory():
    assert max_chunk_size(PixelCodec(), 64, 64, torch.float32, 1 << 24, 16) == 16


@pytest.mark.parametrize(
    ("settings", "message"),
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
def test_rejects_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        PixelCodec(**settings)


def test_rejects_wrong_shapes():
    codec = PixelCodec(4)
    with pytest.raises(InputError, match="24x18 pixels, expected multiples of 4"):
        codec.encode(images(1, 18, 24))
    with pytest.raises(InputError, match="latents to decode"):
        codec.decode(torch.zeros(1, 12, 4, 4), views=1)
