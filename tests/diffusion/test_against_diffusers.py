"""The whole sampling equals diffusers' own pipeline on the same small random parts."""

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
READER = replace(CLIP, image_size=224, patch_size=56)  # diffusers brings images to 224 pixels


@pytest.fixture(scope="module")
def family(few_views):
    """SVD itself, as its authors sample it, with five images."""
    return Family("svd", "SVD", VIEWS, SIZE, "of 5", STEPS, GuidanceConfig("linear", 1.0, 3.0))


@pytest.fixture(scope="module")
def theirs():
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
        image_encoder=randomised(build_clip(READER), 2),
        unet=randomised(unet, 3),
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours(family, theirs):
    unet = VideoUNet(small_config(family))
    state = theirs.unet.state_dict()
    unet.load_state_dict({name: state[other] for other, name in sgm_unet_names(state).items()})
    return MultiviewModel(
        family, unet.eval(), VaeCodec(theirs.vae), ClipEncoder(theirs.image_encoder)
    )


def test_latents_and_images_equal_those_of_diffusers(ours, theirs):
    generator = torch.Generator().manual_seed(11)
    levels = (torch.rand(SIZE, SIZE, 3, generator=generator) * 255).to(torch.uint8)
    start = torch.randn(1, 1, VIEWS, 4, SIZE // 2, SIZE // 2, generator=generator)

    def of_diffusers(kind: str) -> torch.Tensor:
        # theirs takes fps and subtracts 1, and draws the augmentation from its own generator
        return theirs(
            Image.fromarray(levels.numpy()), height=SIZE, width=SIZE, num_frames=VIEWS,
            num_inference_steps=STEPS, min_guidance_scale=1.0, max_guidance_scale=3.0, fps=7,
            motion_bucket_id=127, noise_aug_strength=0.02, decode_chunk_size=2,
            generator=torch.Generator().manual_seed(5), latents=start[0], output_type=kind,
        ).frames  # fmt: skip

    their_latents, their_images = of_diffusers("latent"), of_diffusers("pt")
    augmentation = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    image = torch.from_numpy(np.asarray(levels, dtype=np.float32) / 255.0)
    config, place = SampleConfig(decode_chunk_size=2), OneDevice(ours, torch.device("cpu"))
    trajectory = plan_trajectory(ours.family, SIZE)
    with torch.no_grad():
        draws = NoiseInputs(start, augmentation, generator)
        told = make_conditioning(ours, image, trajectory, draws, place, SILENT)
        _assert_tells_the_same(told, theirs, levels)
        latents = sample_latents(ours, told, trajectory, start, config, place, SILENT)
        images = decode_latents(ours, latents, config, place, SILENT)
    assert latents.shape == (1, 1, VIEWS, 4, SIZE // 2, SIZE // 2)
    scale = float(their_latents.std())
    assert scale > 0.1
    # guidance of 3 on random weights multiplies rounding from the highest noise level on
    torch.testing.assert_close(latents[0], their_latents, atol=5e-4 * scale, rtol=0)
    expected = their_images[0].movedim(1, -1)  # (V, S, S, 3)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(images[0], expected, atol=3e-4, rtol=0)


def _assert_tells_the_same(told: Conditioning, theirs, levels: torch.Tensor) -> None:
    """The conditions alone, so that a difference is found where it arises."""
    embedding = theirs._encode_image(Image.fromarray(levels.numpy()), "cpu", 1, True)
    torch.testing.assert_close(told.context, embedding[1:], atol=1e-5, rtol=1e-5)
    assert not embedding[:1].any()
    numbers = theirs._get_add_time_ids(6, 127, 0.02, torch.float32, 1, 1, False)  # (1, 3)
    sinusoids = theirs.unet.add_time_proj(numbers.flatten()).reshape(1, 1, -1)
    torch.testing.assert_close(told.added, sinusoids.expand(1, VIEWS, -1), atol=1e-5, rtol=0)
