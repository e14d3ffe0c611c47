"""NormalCrafter against diffusers' network with the same random weights, step by step."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nova3d_core.diffusion.codecs.clip import CLIP_MEAN, CLIP_STD, ClipEncoder, build_clip
from nova3d_core.diffusion.codecs.vae import LATENT_SCALE, VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.model import MultiviewModel, OneDevice
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.errors import Cancelled
from nova3d_core.normals.config import EstimateConfig
from nova3d_core.normals.normalcrafter import (
    NORMALCRAFTER,
    NormalCrafterEstimator,
    pad_to_multiple,
    set_diffusers_norm_eps,
    window_spans,
)
from nova3d_core.progress import SILENT, Progress
from nova3d_core.weights.keymaps.unet import sgm_unet_names

from ..diffusion.models import CLIP, randomised

SIZE, VIEWS = 64, 21
ENCODER = replace(CLIP, image_size=224, patch_size=56)
WIDTHS = (32, 32, 32)


@pytest.fixture(scope="module")
def reference():
    """diffusers' UNet, VAE and transformers' CLIP with random weights."""
    from diffusers import UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=768,
        cross_attention_dim=CLIP.projection_dim,
        num_attention_heads=(2, 4),
    )
    vae = randomised(build_vae(VaeConfig(WIDTHS, 1)), 1)
    return randomised(unet, 3), vae, randomised(build_clip(ENCODER), 2)


@pytest.fixture(scope="module")
def ours(reference) -> MultiviewModel:
    """The same weights as a model."""
    state = reference[0].state_dict()
    unet = VideoUNet(
        UNetConfig(
            model_channels=32,
            channel_mult=(1, 2),
            attention_levels=(True, False),
            num_head_channels=16,
            context_dim=CLIP.projection_dim,
            add_embed_dim=768,
        )
    )
    unet.load_state_dict({name: state[other] for other, name in sgm_unet_names(state).items()})
    set_diffusers_norm_eps(unet)
    return MultiviewModel(
        NORMALCRAFTER, unet.eval(), VaeCodec(reference[1]), ClipEncoder(reference[2])
    )


def images_of(views: int, size: int = SIZE) -> Tensor:
    return torch.rand(views, size, size, 3, generator=torch.Generator().manual_seed(7))


def forward_per_view(unet, sample: Tensor, timestep: Tensor, context: Tensor, ids: Tensor):
    """diffusers' forward pass with one embedding per frame, as NormalCrafter's class runs it.

    Args:
        sample: (1, V, 8, h, w).
        timestep: ().
        context: (V, 1, C).
        ids: (1, 3).
    """
    frames = sample.shape[1]
    dtype = sample.dtype  # sinusoids are float32 in any case
    embedding = unet.time_embedding(unet.time_proj(timestep[None]).to(dtype))
    added = unet.add_time_proj(ids.flatten()).reshape(1, -1)
    embedding = embedding + unet.add_embedding(added.to(dtype))
    embedding = embedding.repeat_interleave(frames, dim=0)
    hidden = unet.conv_in(sample.flatten(0, 1))
    flag = torch.zeros(1, frames, dtype=dtype)
    skips = (hidden,)
    for block in unet.down_blocks:
        arguments = {"hidden_states": hidden, "temb": embedding, "image_only_indicator": flag}
        if getattr(block, "has_cross_attention", False):
            arguments["encoder_hidden_states"] = context
        hidden, residuals = block(**arguments)
        skips += residuals
    hidden = unet.mid_block(
        hidden_states=hidden,
        temb=embedding,
        encoder_hidden_states=context,
        image_only_indicator=flag,
    )
    for block in unet.up_blocks:
        count = len(block.resnets)
        arguments = {
            "hidden_states": hidden,
            "temb": embedding,
            "res_hidden_states_tuple": skips[-count:],
            "image_only_indicator": flag,
        }
        skips = skips[:-count]
        if getattr(block, "has_cross_attention", False):
            arguments["encoder_hidden_states"] = context
        hidden = block(**arguments)
    hidden = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return hidden.reshape(1, frames, *hidden.shape[1:])


def reference_latents(reference, images: Tensor, size: int, stride: int) -> Tensor:
    """(1, V, 4, h, w): the authors' windows, one-step scheduler and blending, transcribed."""
    from diffusers import EulerDiscreteScheduler
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
        _resize_with_antialiasing,
    )

    unet, vae, clip = reference
    dtype = unet.dtype
    signed = images.movedim(-1, 1) * 2.0 - 1.0
    pixels = (_resize_with_antialiasing(signed, (224, 224)) + 1.0) / 2.0
    mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    context = clip(((pixels - mean) / std).to(dtype)).image_embeds[:, None]  # (V, 1, C)
    latent = vae.encode(signed.to(dtype)).latent_dist.mode()[None]  # not scaled
    scheduler = EulerDiscreteScheduler(
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, timestep_type="continuous",
        prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1,
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
    )  # fmt: skip
    ids = torch.tensor([[7.0, 127.0, 0.0]])
    count = len(images)
    spans = [[i, i + size] for i in range(0, count, stride) if i + size <= count]
    if spans[-1][1] < count:
        spans.append([count - size, count])
    pred = None
    for index, (start, end) in enumerate(spans):
        scheduler.set_timesteps(1)
        (timestep,) = scheduler.timesteps
        x = torch.zeros(1, size, 4, *latent.shape[-2:], dtype=dtype)
        before = None
        if index and stride != size:
            before = pred[:, -(spans[index - 1][1] - start) :]
            x[:, : before.shape[1]] = before
        scaled = torch.cat([scheduler.scale_model_input(x, timestep), latent[:, start:end]], dim=2)
        v = forward_per_view(unet, scaled, timestep, context[start:end], ids)
        x = scheduler.step(v, timestep, x).prev_sample
        if before is not None:
            shared = before.shape[1]
            weight = torch.linspace(1.0, 0.0, shared + 2)[1:-1][None, :, None, None, None]
            x[:, :shared] = before * weight + x[:, :shared] * (1 - weight)
        pred = x if pred is None else torch.cat([pred[:, :start], x], dim=1)
    return pred


@pytest.mark.parametrize(
    ("window", "size", "stride"), [("overlapping", 14, 10), ("all views", 21, 21)]
)
def test_latents_and_images_match_the_reference(ours, reference, window, size, stride):
    images = images_of(VIEWS)
    estimator = NormalCrafterEstimator(ours, config=EstimateConfig(window=window))
    with torch.no_grad():
        expected = reference_latents(reference, images, size, stride)[0]
        conditioning = estimator.conditioning(images, SILENT)
        result = estimator.latents(conditioning, SILENT)
        maps = estimator.estimate(images, SILENT)
        decoded = reference[1].decode(expected / LATENT_SCALE, num_frames=VIEWS).sample
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0.0)
    decoded = (decoded * 0.5 + 0.5).clamp(0.0, 1.0).movedim(1, -1)
    assert maps.shape == images.shape
    torch.testing.assert_close(maps, decoded, atol=3e-4, rtol=0.0)


def test_latents_in_float64_match_the_reference(ours, reference):
    """Tight enough to notice another eps in the norms; the VAE still encodes in float32."""
    images = images_of(6)
    unet, vae, clip = (copy.deepcopy(part).double() for part in reference)
    model = MultiviewModel(
        NORMALCRAFTER, copy.deepcopy(ours.unet).double(), VaeCodec(vae), ClipEncoder(clip)
    )
    placement = OneDevice(model, torch.device("cpu"), torch.float64)
    estimator = NormalCrafterEstimator(model, placement)
    with torch.no_grad():
        expected = reference_latents((unet, vae, clip), images, 6, 6)[0]
        result = estimator.latents(estimator.conditioning(images, SILENT), SILENT)
    assert expected.dtype == torch.float64 and float(expected.abs().max()) > 1.0
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0.0)


def test_context_and_latent_of_each_view_matter(ours):
    """Only the first view's context reaches the layers across views, as in diffusers."""
    images = images_of(4)
    estimator = NormalCrafterEstimator(ours)
    with torch.no_grad():
        conditioning = estimator.conditioning(images, SILENT)
        before = estimator.latents(conditioning, SILENT)
        context = conditioning.context.clone()
        context[:, 2] += 1.0
        changed = estimator.latents(replace(conditioning, context=context), SILENT)
        latent = conditioning.latent.clone()
        latent[:, 3] += 1.0
        other = estimator.latents(replace(conditioning, latent=latent), SILENT)
    assert float((changed - before)[2].abs().max()) > 1e-3
    assert float((other - before)[3].abs().max()) > 1e-3


def test_windows_cover_every_view():
    assert window_spans(21, 14, 10) == [(0, 14), (7, 21)]
    assert window_spans(24, 14, 10) == [(0, 14), (10, 24)]
    assert window_spans(14, 14, 10) == [(0, 14)]
    assert window_spans(6, 14, 10) == [(0, 6)]
    assert window_spans(21, 21, 21) == [(0, 21)]


@pytest.mark.parametrize("size", [64, 90, 101])
def test_padding_is_white_and_removed(ours, size):
    padded, (top, left) = pad_to_multiple(images_of(2, size), 64)
    side = -(-size // 64) * 64
    assert padded.shape == (2, side, side, 3)
    assert torch.equal(padded[:, top : top + size, left : left + size], images_of(2, size))
    if side > size:
        assert bool((padded[:, :top] == 1.0).all()) and bool((padded[:, top + size :] == 1.0).all())
    if size < 100:
        with torch.no_grad():
            maps = NormalCrafterEstimator(ours).estimate(images_of(2, size), SILENT)
        assert maps.shape == (2, size, size, 3)


def test_cancel_takes_effect_within_a_pass(ours):
    """The network has a block more than the number of checks before the cancel."""
    calls = 0

    def is_cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > 10

    estimator = NormalCrafterEstimator(ours)
    with torch.no_grad():
        conditioning = estimator.conditioning(images_of(3), SILENT)
        with pytest.raises(Cancelled):
            estimator.latents(conditioning, Progress(is_cancelled=is_cancelled))
        assert calls == 11
        with pytest.raises(Cancelled):
            estimator.conditioning(images_of(3), Progress(is_cancelled=lambda: True))
