"""Inputs of the network and the loss: one noise level and one dropout decision per object."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.sampling.schedule import preconditioning
from nova3d_core.training.data.batches import collate_images, domain_images
from nova3d_core.training.losses import velocity_target
from nova3d_core.training.objective import Objective
from nova3d_core.training.step_rng import draw_step_randomness
from nova3d_core.training.train_module import init_train_module

from .parts import FACTOR, SIZE, SMALL, VIEWS, objects, of

COUNT = 8
CPU = torch.device("cpu")
LATENT = 3 * FACTOR**2
SHAPE = (2, VIEWS, LATENT, SIZE // FACTOR, SIZE // FACTOR)


class Spy(torch.nn.Module):
    """Records its inputs; returns a given output, or zeros."""

    def __init__(self, output=None):
        super().__init__()
        self.output = output

    def forward(self, *inputs):
        names = ("x", "c_noise", "image", "keep_embedding", "added_embeds", "camera_task")
        self.inputs = dict(zip(names, inputs, strict=True))
        return torch.zeros_like(inputs[0][:, :, :, :LATENT]) if self.output is None else self.output


@pytest.fixture
def batch():
    return collate_images(objects(COUNT), VIEWS, SIZE)


@pytest.fixture
def randomness():
    return draw_step_randomness(0, 0, range(COUNT), SHAPE, SIZE)


def evaluate(config, batch, randomness, output=None):
    module = init_train_module(config.network, FAMILIES[config.family], 0)
    spy = Spy(output)
    losses, sigmas = Objective(config, module, spy, CPU).losses(batch, randomness, 0)
    return module, spy.inputs, losses, sigmas


def test_one_noise_level_for_all_views_and_both_domains(batch, randomness):
    config = of(SMALL, optimiser__batch_size=COUNT)
    module, inputs, _, sigmas = evaluate(config, batch, randomness)
    assert sigmas.shape == (COUNT,)
    assert len(set(sigmas.tolist())) == COUNT
    torch.testing.assert_close(inputs["c_noise"], 0.25 * sigmas.log())
    images = domain_images(batch).flatten(0, 2)
    clean = module.codec.encode_scaled(images).unflatten(0, (2, COUNT, VIEWS))
    for index, sigma in enumerate(sigmas.tolist()):
        c_in = preconditioning(sigma).c_in
        expected = c_in * (clean[:, index] + sigma * randomness.noise[:, index])
        torch.testing.assert_close(inputs["x"][:, index, :, :LATENT], expected)


def test_dropout_applies_to_all_views_and_both_domains(batch, randomness):
    config = of(SMALL, optimiser__batch_size=COUNT, conditioning__dropout=0.25)
    _, inputs, _, _ = evaluate(config, batch, randomness)
    latents = inputs["x"][:, :, :, LATENT:]  # (D, B, V, C, h, w)
    for index in range(COUNT):
        first = latents[0, index, 0]
        assert torch.equal(latents[:, index], first.expand(2, VIEWS, -1, -1, -1))
        dropout = float(randomness.dropout[index])
        assert bool((first == 0).all()) == (0.25 <= dropout < 0.75)
        assert float(inputs["keep_embedding"][index]) == float(dropout >= 0.5)
    assert 0 < float(inputs["keep_embedding"].sum()) < COUNT


def test_concatenated_latent_is_the_noisy_images_unscaled_one(batch, randomness):
    config = of(
        SMALL, conditioning__dropout=0.0, conditioning__augmentation__random_background_fraction=0.0
    )
    module, inputs, _, _ = evaluate(config, batch, randomness)
    strength = torch.exp(-3 + 0.5 * randomness.strength)[:, None, None, None]
    image = batch.colour[:, 0].movedim(-1, 1).float() / 127.5 - 1
    expected = module.codec.encode(image + strength * randomness.image_noise)
    torch.testing.assert_close(inputs["x"][0, :, 3, LATENT:], expected)
    torch.testing.assert_close(inputs["image"], image)  # the embedding is of the clean image


def test_loss_is_the_error_of_the_velocity(batch, randomness):
    config = of(SMALL, optimiser__batch_size=COUNT)
    module, _, losses, sigmas = evaluate(config, batch, randomness)
    clean = Objective(config, module, None, CPU).encode(domain_images(batch))
    target = velocity_target(clean, randomness.noise, sigmas)
    torch.testing.assert_close(losses, target.square().mean(dim=(2, 3, 4, 5)))
    _, _, losses, _ = evaluate(config, batch, randomness, target)
    assert losses.shape == (2, COUNT)
    assert float(losses.max()) == 0.0


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
def test_low_precision_is_close_with_float32_weights_and_gradients(batch, randomness, precision):
    module = init_train_module(of(SMALL).network, FAMILIES[SMALL.family], 0)
    generator = torch.Generator().manual_seed(1)
    for weight in module.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    losses = {}
    for name in ("float32", precision):
        objective = Objective(of(SMALL, precision=name), module, module, CPU)
        losses[name], _ = objective.losses(batch, randomness, 0)
    torch.testing.assert_close(losses[precision], losses["float32"], rtol=0.03, atol=0.0)
    losses[precision].mean().backward()
    for name, weight in module.named_parameters():
        assert weight.dtype == torch.float32
        assert weight.grad is None or weight.grad.dtype == torch.float32, name
