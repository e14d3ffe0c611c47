"""Training on latents equals training on the images that they were made of."""

from __future__ import annotations

import pytest
import torch
from nova3d_core.training.data.latent_batches import collate_latents, has_latents

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.errors import InputError
from nova3d_core.training.data.batches import collate_images
from nova3d_core.training.data.config import PrecomputeConfig
from nova3d_core.training.data.precompute_latents import Encoders, latents_of
from nova3d_core.training.objective import Objective
from nova3d_core.training.step_rng import draw_step_randomness
from nova3d_core.training.train_module import TrainModule, init_train_module

from ..diffusion.models import small_model
from .parts import FACTOR, SIZE, SMALL, VIEWS, objects, of

CPU = torch.device("cpu")


def ready(item: dict, encoders: Encoders, variants: int = 1) -> dict:
    angles = {name: item[name] for name in ("elevation_deg", "azimuth_deg", "key")}
    return {**latents_of(item, 0, encoders, PrecomputeConfig(variants=variants)), **angles}


def test_the_loss_on_latents_is_the_loss_on_images():
    model = small_model("nova3d")
    trainee = TrainModule(model.unet, model.image_encoder, model.codec, model.family)
    encoders = Encoders(model.codec, model.image_encoder, "small")
    item = objects(1)[0]
    channels, side = model.codec.latent_channels, SIZE // model.codec.factor
    shape = (2, VIEWS, channels, side, side)
    # object 0 of seed 0 is precomputed with the numbers that step 0 draws at place 0
    randomness = draw_step_randomness(0, 0, range(1), shape, SIZE)
    objective = Objective(of(SMALL, optimiser__batch_size=1), trainee, trainee, CPU)
    with torch.no_grad():
        want, sigmas = objective.losses(collate_images([item], VIEWS, SIZE), randomness, 0)
        made = [ready(item, encoders)]
        assert has_latents(made) and not has_latents([item])
        found, same = objective.losses(collate_latents(made, shape), randomness, 0)
    assert torch.equal(sigmas, same)
    torch.testing.assert_close(found, want, rtol=2e-3, atol=1e-4)  # kept in float16


def test_each_draw_is_chosen_and_parts_are_parts():
    model = small_model("nova3d")
    encoders = Encoders(model.codec, model.image_encoder, "small")
    made = [ready(item, encoders, 3) for item in objects(4)]
    side = SIZE // model.codec.factor
    batch = collate_latents(made, (2, VIEWS, model.codec.latent_channels, side, side))
    assert len(batch) == 4 and len(batch.part(1, 3)) == 2
    assert torch.equal(batch.part(1, 3).clean, batch.clean[:, 1:3])


def test_a_run_that_trains_its_encoder_needs_images():
    trainee = init_train_module(SMALL.network, FAMILIES["nova3d-mini"], 0)
    encoders = Encoders(trainee.codec, trainee.image_encoder, "mini")
    side = SIZE // FACTOR
    shape = (2, VIEWS, trainee.codec.latent_channels, side, side)
    with torch.no_grad():
        batch = collate_latents([ready(objects(1)[0], encoders)], shape)
    objective = Objective(SMALL, trainee, trainee, CPU)
    with pytest.raises(InputError, match="the image encoder is trained too"):
        objective.losses(batch, draw_step_randomness(0, 0, range(1), shape, SIZE), 0)


def test_latents_of_another_model_are_refused():
    model = small_model("nova3d")
    encoders = Encoders(model.codec, model.image_encoder, "small")
    made = [ready(objects(1)[0], encoders)]
    with pytest.raises(InputError, match=r"object disc-0-0 .* latents of shape \(16, 4, 8, 8\)"):
        collate_latents(made, (2, VIEWS, 4, 32, 32))
