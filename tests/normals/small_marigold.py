"""A tiny Marigold pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..diffusion.models import randomised

TEXT_DIM = 16
STEPS = 2


def save_small_marigold(
    path: Path,
    set_unet: Callable[[nn.Module], nn.Module] = lambda unet: unet,
    set_vae: Callable[[nn.Module], nn.Module] = lambda vae: vae,
    size_px: int = 64,
) -> None:
    """Saves a tiny pipeline, as published ones are; a folder `words` appears next to it.

    Its weights are random, and then changed by the given functions.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        MarigoldNormalsPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = path.parent / "words"
    words.mkdir(parents=True)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (words / "vocab.json").write_text(json.dumps(vocabulary))
    (words / "merges.txt").write_text("#version: 0.2\n")
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=4, layers_per_block=1,
        block_out_channels=(16, 32), norm_num_groups=8, cross_attention_dim=TEXT_DIM,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=3, hidden_size=TEXT_DIM, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", beta_schedule="scaled_linear", beta_start=0.00085,
        beta_end=0.012, timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    pipeline = MarigoldNormalsPipeline(
        set_unet(randomised(unet, 0)), set_vae(randomised(vae, 1)), scheduler,
        randomised(text, 2),
        CLIPTokenizer(
            str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=77
        ),
        prediction_type="normals", use_full_z_range=True,
        default_denoising_steps=STEPS, default_processing_resolution=size_px,
    )  # fmt: skip
    pipeline.save_pretrained(path)
