"""The VAE codec: diffusers' VAEs as SVD uses them, chunked and with SVD's latent scale."""

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
    """A codec around a small diffusers VAE, with weights that all have an effect."""
    kind = AutoencoderKLTemporalDecoder if temporal else AutoencoderKL
    blocks = {} if temporal else {"up_block_types": ("UpDecoderBlock2D",) * len(WIDTHS)}
    torch.manual_seed(0)
    vae = kind(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
        layers_per_block=2,
        latent_channels=4,
        **blocks,
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "mix_factor" in name or "norm" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return VaeCodec(vae.eval().requires_grad_(False))


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_factor_and_latent_channels(codec):
    assert (codec.factor, codec.latent_channels) == (4, 4)


def test_scaled_latents_are_the_input_of_decode(codec):
    images = noise(2, 3, 16, 16).clamp(-1, 1)
    scaled = codec.encode_scaled(images)
    assert torch.equal(scaled, LATENT_SCALE * codec.encode(images))
    frames = {"num_frames": 2} if codec.temporal else {}
    expected = codec.vae.decode(codec.encode(images), **frames).sample
    torch.testing.assert_close(codec.decode(scaled, views=2), expected, atol=1e-4, rtol=1e-4)


def test_encodes_the_unscaled_mode(codec):
    images = noise(3, 3, 16, 24).clamp(-1, 1)
    expected = codec.vae.encode(images).latent_dist.mode()
    assert torch.equal(codec.encode(images), expected)
    assert expected.shape == (3, 4, 4, 6)


def test_encodes_a_sample_determined_by_the_seed(codec):
    images = noise(2, 3, 16, 16).clamp(-1, 1)
    posterior = codec.vae.encode(images).latent_dist
    expected = posterior.sample(generator=torch.Generator().manual_seed(5))
    for _ in range(2):
        result = codec.encode(images, torch.Generator().manual_seed(5))
        assert torch.allclose(result, expected, atol=1e-6)
    other = codec.encode(images, torch.Generator().manual_seed(6))
    assert not torch.allclose(other, expected, atol=1e-3)


def test_decodes_scaled_latents_object_by_object(codec):
    latents = noise(6, 4, 4, 4)
    result = codec.decode(latents, views=3)
    assert result.shape == (6, 3, 16, 16)
    frames = {"num_frames": 3} if codec.temporal else {}
    for chosen in (slice(0, 3), slice(3, 6)):
        expected = codec.vae.decode(latents[chosen] / LATENT_SCALE, **frames).sample
        assert torch.allclose(result[chosen], expected, atol=1e-5)


def test_objects_are_decoded_independently(codec):
    latents = noise(6, 4, 4, 4)
    changed = torch.cat([latents[:3], noise(3, 4, 4, 4, seed=2)])
    assert torch.allclose(codec.decode(latents, 3)[:3], codec.decode(changed, 3)[:3], atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 8])
def test_chunks_without_temporal_layers_equal_one_batch(chunk_size):
    codec = make_codec(temporal=False)
    latents = noise(10, 4, 4, 4)
    whole = codec.decode(latents, 5, chunk_size=100)
    assert torch.allclose(codec.decode(latents, 5, chunk_size), whole, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_temporal_chunks_match_the_original(chunk_size):
    """Each chunk is decoded as a short sequence of its own, and none spans two objects."""
    codec = make_codec(temporal=True)
    latents = noise(10, 4, 4, 4)
    result = codec.decode(latents, 5, chunk_size)
    start = 0
    for length in {1: [1] * 10, 2: [2, 2, 1] * 2, 4: [4, 1] * 2}[chunk_size]:
        chunk = latents[start : start + length] / LATENT_SCALE
        expected = codec.vae.decode(chunk, num_frames=length).sample
        assert torch.allclose(result[start : start + length], expected, atol=1e-5)
        start += length
    assert not torch.allclose(result, codec.decode(latents, 5), atol=1e-3)


@pytest.mark.parametrize("temporal", [True, False])
def test_full_size_vae_is_built_without_allocating(temporal):
    vae = build_vae(VaeConfig(temporal=temporal))
    assert all(value.is_meta or value.numel() == 1 for value in vae.state_dict().values())
    codec = VaeCodec(vae)
    assert (codec.factor, codec.temporal) == (8, temporal)


def test_half_precision_decoding_is_close():
    codec, latents = make_codec(temporal=True), noise(2, 4, 4, 4)
    expected = codec.decode(latents, 2)
    result = codec.to(torch.bfloat16).decode(latents, 2)
    assert result.dtype == torch.float32
    assert (result - expected).norm() < 0.05 * expected.norm()


def test_max_chunk_size_follows_the_memory_budget(codec):
    one = codec.decode_peak_bytes(64, 64, 1, torch.float32) - WORKSPACE_BYTES
    assert one > 0
    assert codec.decode_peak_bytes(64, 128, 3, torch.float32) == 6 * one + WORKSPACE_BYTES
    assert codec.decode_peak_bytes(64, 64, 1, torch.float16) == one // 2 + WORKSPACE_BYTES
    for images, count in ((-9, 1), (0, 1), (2.5, 2), (4, 4), (1e9, 16)):
        memory = images * one + WORKSPACE_BYTES
        assert max_chunk_size(codec, 64, 64, torch.float32, memory, views=16) == count


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.encode(torch.zeros(1, 3, 18, 16)), "16x18 pixels, expected multiples of 4"),
        (lambda c: c.encode(torch.zeros(3, 16, 16)), "the images to encode has shape"),
        (lambda c: c.decode(torch.zeros(5, 4, 4, 4), 3), "5 latents .* objects of 3 views"),
        (lambda c: c.decode(torch.zeros(4, 3, 4, 4), 4), "the latents to decode has shape"),
        (lambda c: c.decode(torch.zeros(4, 4, 4, 4), 4, 0), "chunk_size is 0"),
    ],
)
def test_rejects_wrong_input(codec, call, message):
    with pytest.raises(InputError, match=message):
        call(codec)
