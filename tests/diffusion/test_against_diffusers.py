"""Complete sampling compared with diffusers' SVD pipeline on the same small random components."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.diffusion.codecs.clip import ClipEncoder, build_clip
from nova3d_core.diffusion.codecs.vae import VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.families import Family, GuidanceConfig
from nova3d_core.diffusion.model import MultiviewModel, OneDevice
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.diffusion.sampling.conditioning import Conditioning
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import (
    NoiseInputs,
    decode_latents,
    make_conditioning,
    sample_latents,
)
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.progress import SILENT
from nova3d_core.weights.keymaps.unet import sgm_unet_names

from .models import CLIP, WIDTHS, randomised, small_config

VIEWS, SIZE, STEPS = 5, 32, 4
IMAGE_ENCODER = replace(
    CLIP, image_size=224, patch_size=56
)  # diffusers resizes images to 224 pixels


@pytest.fixture(scope="module")
def family(few_views):
    """SVD with its original sampling settings, but five frames."""
    return Family("svd", "SVD", VIEWS, SIZE, "of 5", STEPS, GuidanceConfig("linear", 1.0, 3.0))


@pytest.fixture(scope="module")
def reference():
    """diffusers' pipeline with random weights."""
    from diffusers import (
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor

    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=768,
        cross_attention_dim=CLIP.projection_dim,
        num_attention_heads=(2, 4),
        num_frames=VIEWS,
    )
    scheduler = EulerDiscreteScheduler(
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, timestep_type="continuous",
        prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1,
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
    )  # fmt: skip
    pipeline = StableVideoDiffusionPipeline(
        vae=randomised(build_vae(VaeConfig(WIDTHS, 1)), 1),
        image_encoder=randomised(build_clip(IMAGE_ENCODER), 2),
        unet=randomised(unet, 3),
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours(family, reference):
    """The same weights as a `MultiviewModel`."""
    unet = VideoUNet(small_config(family))
    state = reference.unet.state_dict()
    unet.load_state_dict({name: state[other] for other, name in sgm_unet_names(state).items()})
    return MultiviewModel(
        family, unet.eval(), VaeCodec(reference.vae), ClipEncoder(reference.image_encoder)
    )


def test_latents_and_images_match_diffusers(ours, reference):
    generator = torch.Generator().manual_seed(11)
    levels = (torch.rand(SIZE, SIZE, 3, generator=generator) * 255).to(torch.uint8)
    start = torch.randn(1, 1, VIEWS, 4, SIZE // 2, SIZE // 2, generator=generator)

    def run_diffusers(kind: str) -> torch.Tensor:
        # diffusers subtracts 1 from fps and draws the noise augmentation from `generator`
        return reference(
            Image.fromarray(levels.numpy()), height=SIZE, width=SIZE, num_frames=VIEWS,
            num_inference_steps=STEPS, min_guidance_scale=1.0, max_guidance_scale=3.0, fps=7,
            motion_bucket_id=127, noise_aug_strength=0.02, decode_chunk_size=2,
            generator=torch.Generator().manual_seed(5), latents=start[0], output_type=kind,
        ).frames  # fmt: skip

    expected_latents, expected_images = run_diffusers("latent"), run_diffusers("pt")
    augmentation = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    image = torch.from_numpy(np.asarray(levels, dtype=np.float32) / 255.0)
    config, placement = SampleConfig(decode_chunk_size=2), OneDevice(ours, torch.device("cpu"))
    trajectory = plan_trajectory(ours.family, SIZE)
    with torch.no_grad():
        noise = NoiseInputs(start, augmentation, generator)
        conditioning = make_conditioning(ours, image, trajectory, noise, placement, SILENT)
        _assert_same_conditioning(conditioning, reference, levels)
        latents = sample_latents(ours, conditioning, trajectory, start, config, placement, SILENT)
        images = decode_latents(ours, latents, config, placement, SILENT)
    assert latents.shape == (1, 1, VIEWS, 4, SIZE // 2, SIZE // 2)
    scale = float(expected_latents.std())
    assert scale > 0.1
    # a guidance scale of 3 on random weights amplifies rounding errors at every step
    torch.testing.assert_close(latents[0], expected_latents, atol=5e-4 * scale, rtol=0)
    expected = expected_images[0].movedim(1, -1)  # (V, S, S, 3)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(images[0], expected, atol=3e-4, rtol=0)


def _assert_same_conditioning(conditioning: Conditioning, reference, levels: torch.Tensor) -> None:
    """Compares the conditioning alone, to locate differences early."""
    embedding = reference._encode_image(Image.fromarray(levels.numpy()), "cpu", 1, True)
    torch.testing.assert_close(conditioning.context, embedding[1:], atol=1e-5, rtol=1e-5)
    assert not embedding[:1].any()
    time_ids = reference._get_add_time_ids(6, 127, 0.02, torch.float32, 1, 1, False)  # (1, 3)
    embeds = reference.unet.add_time_proj(time_ids.flatten()).reshape(1, 1, -1)
    torch.testing.assert_close(
        conditioning.added_embeds, embeds.expand(1, VIEWS, -1), atol=1e-5, rtol=0
    )
