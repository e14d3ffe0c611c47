"""Sampling against the authors' code: SV3D's guidance, and the dtypes of encoding and decoding."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nova3d_core.diffusion.codecs.chunks import CONTEXT_VIEWS, decode_chunks
from nova3d_core.diffusion.codecs.vae import LATENT_SCALE
from nova3d_core.diffusion.model import CODEC, OneDevice
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import (
    decode_latents,
    draw_noise_inputs,
    make_conditioning,
    sample,
    sample_latents,
)
from nova3d_core.diffusion.sampling.preprocess import preprocess_image
from nova3d_core.diffusion.sampling.process import sampling_process
from nova3d_core.diffusion.sampling.sampler import evaluation_sigmas
from nova3d_core.diffusion.sampling.schedule import karras_sigmas
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.errors import Cancelled
from nova3d_core.progress import SILENT, Progress

from .models import SIZE, image_and_mask, randomised, small_config, small_model
from .test_guidance import SV3D_GUIDER_SCALES

CPU = torch.device("cpu")


NARROW = {
    "model_channels": 16,
    "channel_mult": (1,),
    "attention_levels": (True,),
    "num_res_blocks": 1,
    "norm_num_groups": 8,
}
"""Fewer layers, for many steps."""


def conditioned(name: str, unet_settings: dict):
    """A small model with the inputs of `sample_latents`."""
    model = small_model(name)
    config = replace(small_config(model.family), **unet_settings)
    model.unet = randomised(VideoUNet(config, device="meta"), 0)
    trajectory = plan_trajectory(model.family, SIZE // 2)
    noise, placement = draw_noise_inputs(model, SIZE // 2, 0), OneDevice(model, CPU)
    image = preprocess_image(*image_and_mask(), SIZE).image[::2, ::2]
    conditioning = make_conditioning(model, image, trajectory, noise, placement, SILENT)
    return model, conditioning, trajectory, noise.latents, placement


@torch.no_grad()
def test_fifty_sv3d_steps_equal_the_authors_guider_and_sampler():
    """SGM's EulerEDMSampler with TrianglePredictionGuider, written out, on a random network."""
    model, conditioning, trajectory, noise, placement = conditioned("sv3d_u", NARROW)
    scale = torch.tensor(SV3D_GUIDER_SCALES)[:, None, None, None]
    zeros = torch.zeros_like
    sigmas = karras_sigmas(50)
    x = noise * torch.sqrt(1.0 + sigmas[0] ** 2)

    def network(x, sigma, latent, context):
        repeated = latent[None, :, None].expand(1, 1, 21, -1, -1, -1)
        given = torch.cat([x / torch.sqrt(sigma**2 + 1.0), repeated], dim=3)
        c_noise = 0.25 * sigma.log()[None]
        return model.unet(given, c_noise, context, conditioning.added_embeds, None)

    for sigma, sigma_next in pairwise(sigmas):
        latent, context = conditioning.latent, conditioning.context
        cond = network(x, sigma, latent, context)
        uncond = network(x, sigma, zeros(latent), zeros(context))
        skip, out = 1.0 / (sigma**2 + 1.0), -sigma / torch.sqrt(sigma**2 + 1.0)
        cond, uncond = (skip * x + out * each for each in (cond, uncond))
        denoised = uncond + scale * (cond - uncond)  # the guider combines denoised estimates
        x = x + (x - denoised) / sigma * (sigma_next - sigma)
    result = sample_latents(
        model, conditioning, trajectory, noise, SampleConfig(), placement, SILENT
    )
    torch.testing.assert_close(result, x, atol=2e-5 * float(x.std()), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["nova3d", "sv3d_u", "v3d"])
def test_condition_image_is_encoded_in_float32_in_any_precision(few_views, name):
    def latent(dtype: torch.dtype) -> torch.Tensor:
        model = small_model(name, views=4)
        model.codec = model.codec.cast(decode=dtype)  # as ComfyUI loads it
        dtypes = []
        hook = model.codec.vae.encoder.register_forward_hook(
            lambda _, given, out: dtypes.append((given[0].dtype, out.dtype))
        )
        trajectory = plan_trajectory(model.family, SIZE)
        image = preprocess_image(*image_and_mask(), SIZE).image
        noise = draw_noise_inputs(model, SIZE, 0)
        with hook:
            placement = OneDevice(model, CPU, dtype)
            result = make_conditioning(model, image, trajectory, noise, placement, SILENT)
        assert dtypes == [(torch.float32, torch.float32)]
        return result.latent

    assert latent(torch.bfloat16).equal(latent(torch.float32))


@torch.no_grad()
def test_weights_stored_in_half_precision_are_encoded_in_float32(few_views):
    model = small_model("sv3d_u", views=4)
    model.codec.to(torch.float16)
    trajectory, noise = plan_trajectory(model.family, SIZE), draw_noise_inputs(model, SIZE, 0)
    image = preprocess_image(*image_and_mask(), SIZE).image
    result = make_conditioning(model, image, trajectory, noise, OneDevice(model, CPU), SILENT)
    assert model.codec.vae.encoder.conv_in.weight.dtype == torch.float16  # unchanged
    model.codec.float()  # the same values
    signed = image.movedim(-1, 0)[None] * 2 - 1
    noisy = signed + model.family.noise_aug_strength * noise.augmentation
    assert result.latent.equal(model.codec.encode(noisy))


@torch.no_grad()
def test_latents_are_scaled_before_the_cast(few_views):
    codec = small_model("v3d", views=4).codec.cast(decode=torch.bfloat16)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = []
    hook = codec.vae.decoder.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with hook:
        codec.decode(latents, 4)
    assert inputs[0].equal((latents / LATENT_SCALE).to(torch.bfloat16))
    assert not inputs[0].equal(latents.to(torch.bfloat16) / LATENT_SCALE)


def test_cast_shares_what_it_does_not_change():
    codec = small_model("v3d").codec
    both = codec.cast(encode=torch.float32, decode=torch.float32)
    assert both.vae.encoder is codec.vae.encoder and both.vae.decoder is codec.vae.decoder
    half = codec.cast(decode=torch.bfloat16)
    assert half.vae.encoder is codec.vae.encoder
    assert (half.dtype, codec.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("views", [1, 2, 5, 16, 18])
@pytest.mark.parametrize("max_views", [1, 2, 3, 5, 10, 12, 18, 100])
@pytest.mark.parametrize("context", [0, 1, 3])
def test_decode_chunks_are_even_and_keep_each_view_once(views, max_views, context):
    chunks = decode_chunks(views, max_views, context)
    assert [view for each in chunks for view in range(each.first, each.last)] == [*range(views)]
    sizes = [each.last - each.first for each in chunks]
    assert max(sizes) - min(sizes) <= 1
    decoded = [range(each.start, each.stop) for each in chunks]
    assert max(map(len, decoded)) <= max_views
    for each in chunks:
        assert 0 <= each.start <= each.first and each.last <= each.stop <= views
        assert [*range(each.start, each.stop)][each.kept] == [*range(each.first, each.last)]
    if max_views >= views:
        assert len(chunks) == 1
    if not context:
        assert len(chunks) == -(-views // max_views)


def test_v3d_chunks_where_twelve_images_fit():
    sizes = [each.last - each.first for each in decode_chunks(18, 12, CONTEXT_VIEWS)]
    assert sizes == [9, 9]  # 12 and 6 once


class Budget(OneDevice):
    """A device with memory for `count` images to decode."""

    count = 0

    def activation_budget(self, part: str) -> int:
        assert part == CODEC
        return self.model.codec.decode_peak_bytes(SIZE, SIZE, self.count, torch.float32)


@torch.no_grad()
def test_chunks_with_context_are_closer_to_decoding_all_views_at_once():
    model = small_model("v3d")
    placement = Budget(model, CPU)
    latents = draw_noise_inputs(model, SIZE, 0).latents  # (1, 1, 18, 4, h, w)

    def decoded(count: int, **settings) -> tuple[torch.Tensor, list[int]]:
        lengths = []
        hook = model.codec.vae.decoder.register_forward_pre_hook(
            lambda _, given: lengths.append(len(given[0]))
        )
        placement.count = count
        with hook:
            images = decode_latents(model, latents, SampleConfig(**settings), placement, SILENT)
        return images[0], lengths

    whole, lengths = decoded(18)
    assert lengths == [18]  # as V3D's script
    chunked, lengths = decoded(12)
    assert lengths == [9 + CONTEXT_VIEWS, 9 + CONTEXT_VIEWS]
    plain = torch.cat(
        [model.codec.decode(part, len(part)) for part in latents[0, 0].split(9)]
    ).movedim(1, -1)
    plain = (plain * 0.5 + 0.5).clamp(0.0, 1.0)
    seam = slice(8, 10)
    error, plain_error = ((each - whole)[seam].abs().mean() for each in (chunked, plain))
    assert float(error) < 0.5 * float(plain_error)
    _, lengths = decoded(18, decode_chunk_size=1)  # V3D's app; the user's choice wins
    assert lengths == [1] * 18


@pytest.mark.parametrize(
    ("name", "sampler"), [("v3d", "heun"), ("nova3d", "dpmpp_2m"), ("nova3d-mini", "heun")]
)
def test_every_sampler_reports_evaluations_and_can_be_cancelled(few_views, name, sampler):
    model, passes, events = small_model(name, views=4), [], []
    config = SampleConfig(steps=2, sampler=sampler, seed=1)
    total = 3 if sampler == "heun" else 2
    with model.unet.register_forward_hook(lambda *_: passes.append(1)):
        images = sample(model, *image_and_mask(), config, progress=Progress(events.append)).images
    reported = [(event.step, event.total) for event in events if event.stage == "sampling"]
    assert reported == [(done, total) for done in range(total + 1)]  # known before the start
    assert len(passes) == 2 * total  # with and without the condition
    assert any(event.preview is not None for event in events)
    assert bool(torch.isfinite(images).all())
    passes.clear()
    with (
        model.unet.register_forward_hook(lambda *_: passes.append(1)),
        pytest.raises(Cancelled),
    ):
        progress = Progress(None, lambda: len(passes) >= 3)
        sample(model, *image_and_mask(), config, progress=progress)
    assert len(passes) == 3  # within an evaluation, in the middle of Heun's step


def test_estimated_cost_counts_the_evaluations_of_the_sampler(few_views):
    from nova3d_core.diffusion.sampling.pipeline import _SamplingCost

    model = small_model("nova3d", views=4)
    noise = draw_noise_inputs(model, SIZE, 0).latents
    sigmas, scales = karras_sigmas(10), torch.tensor([1.0, 2.0, 2.0, 2.0])

    def passes(**settings) -> int:
        config = SampleConfig(**settings)
        levels = evaluation_sigmas(config.sampler, sigmas)
        return _SamplingCost(model, noise, config).passes(levels, scales)

    assert passes() == passes(sampler="dpmpp_2m") == 20
    assert passes(sampler="heun") == 38
    # without guidance at the first level, which Heun evaluates once
    levels = (0.0, float(sigmas[0]) - 1.0)
    assert passes(guidance_interval=levels) == 19
    assert passes(sampler="heun", guidance_interval=levels) == 37


def test_too_few_steps_of_heun_are_a_warning(caplog):
    family = small_model("nova3d-mini").family  # 8 steps by default
    for settings in ({"sampler": "dpmpp_2m"}, {"sampler": "heun", "steps": 10}, {}):
        sampling_process(family, SampleConfig(**settings))
    assert caplog.text == ""
    sampling_process(family, SampleConfig(sampler="heun"))
    assert "heun is unusable with 8 steps: use at least 10" in caplog.text


def test_keeping_the_framing_pads_the_image_to_a_square():
    image, mask = torch.ones(60, 120, 3), torch.zeros(60, 120)
    image[10:40, 20:50], mask[10:40, 20:50] = 0.2, 1.0
    kept = preprocess_image(image, mask, 120, 0.5, keep_framing=True)
    assert kept.image.shape == (120, 120, 3)
    expected = torch.zeros(120, 120)
    expected[40:70, 20:50] = 1.0  # padded by 30 rows above and below
    torch.testing.assert_close(kept.mask, expected, atol=1e-5, rtol=0)
    large = preprocess_image(
        image.repeat_interleave(8, 0).repeat_interleave(8, 1),
        mask.repeat_interleave(8, 0).repeat_interleave(8, 1),
        120,
        keep_framing=True,
    )
    assert float((large.mask - expected).abs().mean()) < 0.01  # averaged, then resized
