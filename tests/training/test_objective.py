"""What the network is shown and what it costs: one level and one choice for a whole object."""

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


class Spy(torch.nn.Module):
    """Keeps what it is called with, and answers what it is told to."""

    def __init__(self, answer=None):
        super().__init__()
        self.answer = answer

    def forward(self, *shown):
        self.shown = dict(
            zip(("x", "c_noise", "seen", "kept", "added", "camera_task"), shown, strict=True)
        )
        return torch.zeros_like(shown[0][:, :, :, :LATENT]) if self.answer is None else self.answer


@pytest.fixture
def batch():
    return collate_images(objects(COUNT), VIEWS, SIZE)


@pytest.fixture
def randomness():
    return draw_step_randomness(
        0, 0, range(COUNT), (2, VIEWS, LATENT, SIZE // FACTOR, SIZE // FACTOR), SIZE
    )


def shown(config, batch, randomness, answer=None):
    trainee = init_train_module(config.network, FAMILIES[config.family], 0)
    spy = Spy(answer)
    losses, sigmas = Objective(config, trainee, spy, CPU).losses(batch, randomness, 0)
    return trainee, spy.shown, losses, sigmas


def test_one_level_for_all_views_and_both_domains(batch, randomness):
    config = of(SMALL, optimiser__batch_size=COUNT)
    trainee, seen, _, sigmas = shown(config, batch, randomness)
    assert sigmas.shape == (COUNT,)
    assert len(set(sigmas.tolist())) == COUNT
    torch.testing.assert_close(seen["c_noise"], 0.25 * sigmas.log())
    clean = trainee.codec.encode_scaled(domain_images(batch).flatten(0, 2)).unflatten(
        0, (2, COUNT, VIEWS)
    )
    for index, sigma in enumerate(sigmas.tolist()):
        into = preconditioning(sigma).c_in
        expected = into * (clean[:, index] + sigma * randomness.noise[:, index])
        torch.testing.assert_close(seen["x"][:, index, :, :LATENT], expected)


def test_what_is_left_out_is_left_out_of_all_views_and_both_domains(batch, randomness):
    config = of(SMALL, optimiser__batch_size=COUNT, conditioning__dropout=0.25)
    _, seen, _, _ = shown(config, batch, randomness)
    latents = seen["x"][:, :, :, LATENT:]  # (D, B, V, C, h, w)
    for index in range(COUNT):
        first = latents[0, index, 0]
        assert torch.equal(latents[:, index], first.expand(2, VIEWS, -1, -1, -1))
        dropped = float(randomness.dropped[index])
        assert bool((first == 0).all()) == (0.25 <= dropped < 0.75)
        assert float(seen["kept"][index]) == float(dropped >= 0.5)
    assert 0 < float(seen["kept"].sum()) < COUNT


def test_the_latent_beside_the_noise_is_the_noisy_images_unscaled_one(batch, randomness):
    config = of(
        SMALL, conditioning__dropout=0.0, conditioning__augmentation__random_background_fraction=0.0
    )
    trainee, seen, _, _ = shown(config, batch, randomness)
    strength = torch.exp(-3 + 0.5 * randomness.strength)[:, None, None, None]
    image = batch.colour[:, 0].movedim(-1, 1).float() / 127.5 - 1
    expected = trainee.codec.encode(image + strength * randomness.image_noise)
    torch.testing.assert_close(seen["x"][0, :, 3, LATENT:], expected)
    torch.testing.assert_close(seen["seen"], image)  # the embedding is of the clean image


def test_the_loss_is_that_of_the_velocity(batch, randomness):
    config = of(SMALL, optimiser__batch_size=COUNT)
    trainee, _, losses, sigmas = shown(config, batch, randomness)
    clean = Objective(config, trainee, None, CPU).latents(domain_images(batch))
    right = velocity_target(clean, randomness.noise, sigmas)
    torch.testing.assert_close(losses, right.square().mean(dim=(2, 3, 4, 5)))
    _, _, losses, _ = shown(config, batch, randomness, right)
    assert losses.shape == (2, COUNT)
    assert float(losses.max()) == 0.0


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
def test_lower_precision_is_close_and_weights_and_gradients_stay_float32(
    batch, randomness, precision
):
    trainee = init_train_module(of(SMALL).network, FAMILIES[SMALL.family], 0)
    generator = torch.Generator().manual_seed(1)
    for weight in trainee.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    losses = {}
    for name in ("float32", precision):
        objective = Objective(of(SMALL, precision=name), trainee, trainee, CPU)
        losses[name], _ = objective.losses(batch, randomness, 0)
    torch.testing.assert_close(losses[precision], losses["float32"], rtol=0.03, atol=0.0)
    losses[precision].mean().backward()
    for name, weight in trainee.named_parameters():
        assert weight.dtype == torch.float32
        assert weight.grad is None or weight.grad.dtype == torch.float32, name
