"""Training on precomputed latents equals training on their images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.network.embeddings import sinusoidal_embedding
from nova3d_core.diffusion.sampling.conditioning import SCALAR_EMBED_DIM
from nova3d_core.errors import InputError
from nova3d_core.training.config import ConditioningConfig
from nova3d_core.training.data.batches import collate_images, collate_latents, has_latents
from nova3d_core.training.data.conditioning import sample_conditioning
from nova3d_core.training.data.config import PrecomputeConfig
from nova3d_core.training.data.precompute_latents import Encoders, encode_object
from nova3d_core.training.objective import Objective
from nova3d_core.training.step_rng import draw_step_randomness
from nova3d_core.training.train_module import TrainModule, init_train_module

from ..diffusion.models import small_model
from .parts import FACTOR, SIZE, SMALL, VIEWS, objects, of

CPU = torch.device("cpu")


def precomputed(item: dict, encoders: Encoders, variants: int = 1) -> dict:
    angles = {name: item[name] for name in ("elevation_deg", "azimuth_deg", "key")}
    return {**encode_object(item, 0, encoders, PrecomputeConfig(variants=variants)), **angles}


def test_loss_on_latents_equals_loss_on_images():
    model = small_model("nova3d")
    module = TrainModule(model.unet, model.image_encoder, model.codec, model.family)
    encoders = Encoders(model.codec, model.image_encoder, "small")
    item = objects(1)[0]
    channels, side = model.codec.latent_channels, SIZE // model.codec.factor
    shape = (2, VIEWS, channels, side, side)
    # object 0 of seed 0 is precomputed with the random numbers of step 0 at index 0
    randomness = draw_step_randomness(0, 0, range(1), shape, SIZE)
    objective = Objective(of(SMALL, optimiser__batch_size=1), module, module, CPU)
    with torch.no_grad():
        expected, sigmas = objective.losses(collate_images([item], VIEWS, SIZE), randomness, 0)
        latents = [precomputed(item, encoders)]
        assert has_latents(latents) and not has_latents([item])
        found, same = objective.losses(collate_latents(latents, shape), randomness, 0)
    assert torch.equal(sigmas, same)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4)  # stored in float16


def test_collates_and_slices_variants():
    model = small_model("nova3d")
    encoders = Encoders(model.codec, model.image_encoder, "small")
    latents = [precomputed(item, encoders, 3) for item in objects(4)]
    side = SIZE // model.codec.factor
    batch = collate_latents(latents, (2, VIEWS, model.codec.latent_channels, side, side))
    assert len(batch) == 4 and len(batch.slice(1, 3)) == 2
    assert torch.equal(batch.slice(1, 3).clean, batch.clean[:, 1:3])


def test_each_object_is_conditioned_on_one_of_its_variants():
    model = small_model("nova3d")
    encoders = Encoders(model.codec, model.image_encoder, "small")
    latents = [precomputed(item, encoders, 3) for item in objects(4)]
    side = SIZE // model.codec.factor
    shape = (2, VIEWS, model.codec.latent_channels, side, side)
    batch = collate_latents(latents, shape)
    randomness = draw_step_randomness(0, 0, range(4), shape, SIZE)
    randomness = replace(randomness, variant=torch.tensor([0.0, 0.4, 0.7, 1.0]))
    conditioning = sample_conditioning(batch, randomness, ConditioningConfig(), FAMILIES["nova3d"])
    row, chosen = torch.arange(4), torch.tensor([0, 1, 2, 2])
    assert len(set(batch.strength[0].tolist())) == 3
    assert torch.equal(conditioning.latent, batch.image_latent[row, chosen].float())
    assert torch.equal(conditioning.embedding[:, 0], batch.embedding[row, chosen].float())
    strength = sinusoidal_embedding(batch.strength[row, chosen], SCALAR_EMBED_DIM)
    assert torch.equal(conditioning.added_embeds[:, 0], strength)


def test_rejects_latents_if_the_encoder_is_trained():
    module = init_train_module(SMALL.network, FAMILIES["nova3d-mini"], 0)
    encoders = Encoders(module.codec, module.image_encoder, "mini")
    side = SIZE // FACTOR
    shape = (2, VIEWS, module.codec.latent_channels, side, side)
    with torch.no_grad():
        batch = collate_latents([precomputed(objects(1)[0], encoders)], shape)
    objective = Objective(SMALL, module, module, CPU)
    with pytest.raises(InputError, match="the image encoder is trained too"):
        objective.losses(batch, draw_step_randomness(0, 0, range(1), shape, SIZE), 0)


def test_rejects_latents_of_another_model():
    model = small_model("nova3d")
    encoders = Encoders(model.codec, model.image_encoder, "small")
    latents = [precomputed(objects(1)[0], encoders)]
    with pytest.raises(InputError, match=r"object disc-0-0 .* latents of shape \(16, 4, 8, 8\)"):
        collate_latents(latents, (2, VIEWS, 4, 32, 32))
