"""The module to train: identity at initialisation, a gradient for every trained weight."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.errors import InputError
from nova3d_core.training.data.batches import collate_images
from nova3d_core.training.objective import Objective
from nova3d_core.training.step_rng import draw_step_randomness
from nova3d_core.training.train_module import UNUSED_LAYERS, init_train_module

from .parts import SIZE, SMALL, VIEWS, objects, of

FAMILY = FAMILIES["nova3d-mini"]
CPU = torch.device("cpu")


def losses(module, config=SMALL):
    batch = collate_images(objects(2), VIEWS, SIZE)
    randomness = draw_step_randomness(0, 0, range(2), (2, VIEWS, 48, 4, 4), SIZE)
    return Objective(config, module, module, CPU).losses(batch, randomness, 0)[0]


def test_initial_network_outputs_zero():
    module = init_train_module(SMALL.network, FAMILY, 0)
    x = torch.randn(2, 1, VIEWS, 96, 4, 4)
    inputs = (torch.zeros(1), torch.zeros(1, 3, SIZE, SIZE), torch.ones(1))
    output = module(x, *inputs, torch.zeros(1, VIEWS, 256), torch.zeros(2, 1, VIEWS, 10))
    assert output.shape == (2, 1, VIEWS, 48, 4, 4)
    assert float(output.detach().abs().max()) == 0.0


def test_weights_depend_on_the_seed_only():
    def weights(seed):
        return init_train_module(SMALL.network, FAMILY, seed).state_dict()

    torch.manual_seed(5)
    one = weights(0)
    torch.manual_seed(6)
    two, other = weights(0), weights(1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["unet.time_embed.0.weight"], other["unet.time_embed.0.weight"])


@pytest.mark.parametrize("alignment", ["gta", "spatial", "none"])
def test_every_trained_weight_has_a_gradient_and_only_unused_ones_are_frozen(alignment):
    unet = replace(SMALL.network.unet, alignment=alignment)
    config = of(SMALL, network__unet=unet, conditioning__dropout=0.0)
    module = init_train_module(config.network, FAMILY, 0)
    generator = torch.Generator().manual_seed(1)
    for weight in module.parameters():  # zeros of the initialisation would block gradients
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    losses(module, config).mean().backward()
    for name, weight in module.named_parameters():
        unused = any(part in f".{name}" for part in UNUSED_LAYERS)
        assert weight.requires_grad == (not unused), name
        if not unused:
            assert weight.grad is not None and bool((weight.grad != 0).any()), name


def test_unused_weights_have_no_effect():
    module = init_train_module(SMALL.network, FAMILY, 0)
    generator = torch.Generator().manual_seed(1)
    for weight in module.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    before = losses(module)
    for weight in module.parameters():
        if not weight.requires_grad:
            weight.data.normal_(generator=generator)
    assert torch.equal(losses(module), before)


def test_gradient_checkpointing_keeps_gradients():
    gradients = []
    for enabled in (False, True):
        module = init_train_module(of(SMALL, network__residual_init_scale=0.5).network, FAMILY, 0)
        module.unet.out[2].weight.data.normal_(generator=torch.Generator().manual_seed(0))
        module.unet.gradient_checkpointing = enabled
        losses(module).mean().backward()
        gradients.append([w.grad for w in module.parameters() if w.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_rejects_incompatible_parts():
    unet = replace(SMALL.network.unet, in_channels=8)
    with pytest.raises(InputError, match="in_channels = 8"):
        init_train_module(replace(SMALL.network, unet=unet), FAMILY, 0)
