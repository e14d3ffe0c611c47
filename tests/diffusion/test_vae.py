"""The codec: diffusers' VAEs as SVD uses them, in chunks, with the right scale on each way."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

from nova3d_core.diffusion.codecs.vae import (
    LATENT_SCALE,
    WORKSPACE_BYTES,
    VaeCodec,
    build_vae,
    max_chunk_size,
)
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.errors import InputError

WIDTHS = (32, 32, 64)


@pytest.fixture(scope="module", params=["video", "frame"])
def codec(request) -> VaeCodec:
    return make_codec(request.param == "video")


def make_codec(temporal: bool) -> VaeCodec:
    """A small codec around a VAE that diffusers made itself, with weights that all count."""
    kind = AutoencoderKLTemporalDecoder if temporal else AutoencoderKL
    ways = {} if temporal else {"up_block_types": ("UpDecoderBlock2D",) * len(WIDTHS)}
    torch.manual_seed(0)
    vae = kind(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
        layers_per_block=2,
        latent_channels=4,
        **ways,
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "mix_factor" in name or "norm" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return VaeCodec(vae.eval().requires_grad_(False))


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_it_knows_its_latents(codec):
    assert (codec.factor, codec.latent_channels) == (4, 4)


def test_training_aims_at_what_decoding_takes(codec):
    images = noise(2, 3, 16, 16).clamp(-1, 1)
    scaled = codec.encode_scaled(images)
    assert torch.equal(scaled, LATENT_SCALE * codec.encode(images))
    frames = {"num_frames": 2} if codec.temporal else {}
    expected = codec.vae.decode(codec.encode(images), **frames).sample
    torch.testing.assert_close(codec.decode(scaled, views=2), expected, atol=1e-4, rtol=1e-4)


def test_encodes_the_mode_unscaled(codec):
    images = noise(3, 3, 16, 24).clamp(-1, 1)
    expected = codec.vae.encode(images).latent_dist.mode()
    assert torch.equal(codec.encode(images), expected)
    assert expected.shape == (3, 4, 4, 6)


def test_encodes_a_sample_that_repeats_with_the_seed(codec):
    images = noise(2, 3, 16, 16).clamp(-1, 1)
    posterior = codec.vae.encode(images).latent_dist
    expected = posterior.sample(generator=torch.Generator().manual_seed(5))
    for _ in range(2):
        got = codec.encode(images, torch.Generator().manual_seed(5))
        assert torch.allclose(got, expected, atol=1e-6)
    other = codec.encode(images, torch.Generator().manual_seed(6))
    assert not torch.allclose(other, expected, atol=1e-3)


def test_decodes_scaled_latents_whole_walks_apart(codec):
    latents = noise(6, 4, 4, 4)
    got = codec.decode(latents, views=3)
    assert got.shape == (6, 3, 16, 16)
    frames = {"num_frames": 3} if codec.temporal else {}
    for walk in (slice(0, 3), slice(3, 6)):
        expected = codec.vae.decode(latents[walk] / LATENT_SCALE, **frames).sample
        assert torch.allclose(got[walk], expected, atol=1e-5)


def test_walks_do_not_see_each_other(codec):
    latents = noise(6, 4, 4, 4)
    changed = torch.cat([latents[:3], noise(3, 4, 4, 4, seed=2)])
    assert torch.allclose(codec.decode(latents, 3)[:3], codec.decode(changed, 3)[:3], atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 8])
def test_chunks_of_single_images_equal_the_whole(chunk_size):
    codec = make_codec(temporal=False)
    latents = noise(10, 4, 4, 4)
    whole = codec.decode(latents, 5, chunk_size=100)
    assert torch.allclose(codec.decode(latents, 5, chunk_size), whole, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_chunks_across_time_are_those_of_the_original(chunk_size):
    """Each chunk is decoded as a short walk of its own, and none crosses two walks."""
    codec = make_codec(temporal=True)
    latents = noise(10, 4, 4, 4)
    got = codec.decode(latents, 5, chunk_size)
    start = 0
    for length in {1: [1] * 10, 2: [2, 2, 1] * 2, 4: [4, 1] * 2}[chunk_size]:
        chunk = latents[start : start + length] / LATENT_SCALE
        expected = codec.vae.decode(chunk, num_frames=length).sample
        assert torch.allclose(got[start : start + length], expected, atol=1e-5)
        start += length
    assert not torch.allclose(got, codec.decode(latents, 5), atol=1e-3)


@pytest.mark.parametrize("temporal", [True, False])
def test_a_full_size_vae_is_built_without_memory(temporal):
    vae = build_vae(VaeConfig(temporal=temporal))
    assert all(value.is_meta or value.numel() == 1 for value in vae.state_dict().values())
    codec = VaeCodec(vae)
    assert (codec.factor, codec.temporal) == (8, temporal)


def test_half_weights_give_near_images():
    codec, latents = make_codec(temporal=True), noise(2, 4, 4, 4)
    expected = codec.decode(latents, 2)
    got = codec.to(torch.bfloat16).decode(latents, 2)
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.05 * expected.norm()


def test_as_many_are_decoded_together_as_memory_allows(codec):
    one = codec.decode_peak_bytes(64, 64, 1, torch.float32) - WORKSPACE_BYTES
    assert one > 0
    assert codec.decode_peak_bytes(64, 128, 3, torch.float32) == 6 * one + WORKSPACE_BYTES
    assert codec.decode_peak_bytes(64, 64, 1, torch.float16) == one // 2 + WORKSPACE_BYTES
    for images, count in ((-9, 1), (0, 1), (2.5, 2), (4, 4), (1e9, 16)):
        memory = images * one + WORKSPACE_BYTES
        assert max_chunk_size(codec, 64, 64, torch.float32, memory, most=16) == count


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda c: c.encode(torch.zeros(1, 3, 18, 16)), "16x18 pixels, expected multiples of 4"),
        (lambda c: c.encode(torch.zeros(3, 16, 16)), "the images to encode has shape"),
        (lambda c: c.decode(torch.zeros(5, 4, 4, 4), 3), "5 latents .* walks of 3 views"),
        (lambda c: c.decode(torch.zeros(4, 3, 4, 4), 4), "the latents to decode has shape"),
        (lambda c: c.decode(torch.zeros(4, 4, 4, 4), 4, 0), "at_once is 0"),
    ],
)
def test_wrong_input_is_told(codec, call, told):
    with pytest.raises(InputError, match=told):
        call(codec)
