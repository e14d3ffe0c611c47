"""The token transformer: geometry of its rays, equivariance, attention spans, conditions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.network.embeddings import camera_task_embedding
from nova3d_core.diffusion.network.token_transformer import (
    TokenTransformer,
    init_token_transformer,
    orbit_rays,
    velocity_from_clean,
)
from nova3d_core.diffusion.network.token_transformer_config import TokenTransformerConfig
from nova3d_core.diffusion.sampling.cost import forward_flops
from nova3d_core.diffusion.sampling.schedule import preconditioning
from nova3d_core.errors import InputError
from nova3d_core.training.attention import math_attention

CONFIG = TokenTransformerConfig(
    in_channels=6,
    out_channels=3,
    channels=32,
    depth=3,
    num_head_channels=16,
    spans=("view", "row", "full"),
    context_dim=12,
    add_embed_dim=16,
)
KINDS = [
    pytest.param(CONFIG, id="joint"),
    pytest.param(replace(CONFIG, joint_domains=False, prediction="v"), id="two tokens"),
]
AZIMUTHS_DEG = (0.0, 30.0, 100.0, 260.0)


def make_network(config, **options):
    torch.manual_seed(0)
    return TokenTransformer(config, **options)


def make_inputs(config, objects=2):
    """Latents of 4 x 8, so that rows and columns cannot be confused."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    azimuths, views = torch.tensor(AZIMUTHS_DEG).deg2rad(), len(AZIMUTHS_DEG)
    tasks = camera_task_embedding(0.3 * azimuths.sin(), azimuths, config.domains)
    return {
        "x": draw(config.domains, objects, views, config.in_channels, 4, 8),
        "c_noise": draw(objects) * 0.3,
        "context": draw(objects, 1, config.context_dim),
        "added_embeds": draw(objects, views, config.add_embed_dim),
        "camera_task": tasks[:, None].expand(-1, objects, -1, -1),
    }


def test_rays_are_those_of_the_orbits_cameras():
    elevations, azimuths = [0.0, 20.0, -10.0], [0.0, 40.0, 200.0]
    size, patches = 64, 8
    cameras = cameras_at(azimuths, elevations, RigConfig(width_px=size, height_px=size))
    task = camera_task_embedding(*(torch.tensor(each).deg2rad() for each in (elevations, azimuths)))
    rays = orbit_rays(task[0], patches, patches)  # (V, 8, 8, 8)
    origins = cameras.camera_to_world[:, :3, 3].float()
    directions, moments = rays[..., 5:], rays[..., 2:5]
    torch.testing.assert_close(
        moments, torch.linalg.cross(origins[:, None, None].expand_as(directions), directions)
    )
    points = origins[:, None, None] + 2.0 * directions  # project back to the patches' centres
    camera_points = (
        torch.einsum("vij,vrcj->vrci", cameras.world_to_camera[:, :3, :3].float(), points)
        + cameras.world_to_camera[:, None, None, :3, 3].float()
    )
    pixels = torch.einsum("vij,vrcj->vrci", cameras.intrinsics.float(), camera_points)
    pixels = pixels[..., :2] / pixels[..., 2:]
    centres = (torch.arange(patches) + 0.5) * size / patches
    torch.testing.assert_close(pixels[..., 0], centres.expand(3, 8, 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(pixels[..., 1], centres[:, None].expand(3, 8, 8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("config", KINDS)
def test_views_may_be_permuted(config):
    network, inputs = make_network(config), make_inputs(config)
    order = torch.tensor([2, 0, 3, 1])
    out = network(**inputs)
    permuted = inputs | {
        "x": inputs["x"][:, :, order],
        "added_embeds": inputs["added_embeds"][:, order],
        "camera_task": inputs["camera_task"][:, :, order],
    }
    torch.testing.assert_close(network(**permuted), out[:, :, order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", KINDS)
def test_objects_are_independent(config):
    network, inputs = make_network(config), make_inputs(config)
    second = {
        name: value[:, 1:] if name in ("x", "camera_task") else value[1:]
        for name, value in inputs.items()
    }
    torch.testing.assert_close(network(**second), network(**inputs)[:, 1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", KINDS)
def test_unfused_attention_gives_the_same(config):
    inputs = make_inputs(config)
    fused = make_network(config)(**inputs)
    unfused = make_network(config, attention=math_attention)(**inputs)
    torch.testing.assert_close(unfused, fused, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("span", ["view", "row", "full"])
def test_attention_reaches_its_span_in_both_domains_and_nothing_else(span, joint):
    config = replace(CONFIG, depth=1, spans=(span,), joint_domains=joint, prediction="v")
    network, inputs = make_network(config), make_inputs(config, objects=1)
    changed = inputs["x"].clone()
    changed[0, 0, 1, :, :2, :2] += 1.0  # colours of the first patch of view 1
    difference = network(**(inputs | {"x": changed})) - network(**inputs)
    reached = difference.abs().amax(dim=(0, 1, 3)) > 1e-7  # (V, h, w)
    expected = torch.zeros_like(reached)
    if span == "view":
        expected[1] = True
    elif span == "row":
        expected[:, :2] = True
    else:
        expected[:] = True
    assert torch.equal(reached, expected)
    per_domain = difference.abs().amax(dim=(1, 3)) > 1e-7  # (D, V, h, w)
    assert torch.equal(per_domain[0], per_domain[1])


@pytest.mark.parametrize("config", KINDS)
def test_gradient_reaches_all_weights(config):
    network = make_network(config)
    network(**make_inputs(config)).square().mean().backward()
    without = [n for n, w in network.named_parameters() if not w.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("name", ["c_noise", "context", "added_embeds", "camera_task"])
def test_every_condition_has_an_effect(name):
    network, inputs = make_network(replace(CONFIG, prediction="v")), make_inputs(CONFIG)
    changed = inputs | {name: inputs[name] + 0.5}
    assert (network(**changed) - network(**inputs)).abs().max() > 1e-3


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = make_network(CONFIG)
        network.gradient_checkpointing = checkpointing
        network(**make_inputs(CONFIG)).square().mean().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_velocity_gives_the_predicted_latents():
    generator = torch.Generator().manual_seed(0)
    noisy, clean = torch.randn(2, 2, 2, 1, 3, 2, 2, generator=generator)
    sigmas = torch.tensor([0.1, 40.0])
    scaled = noisy / torch.sqrt(1 + sigmas**2)[None, :, None, None, None, None]
    velocity = velocity_from_clean(scaled, clean, sigmas.log() / 4)
    for index, sigma in enumerate(sigmas.tolist()):
        edm = preconditioning(sigma)
        denoised = edm.c_skip * noisy[:, index] + edm.c_out * velocity[:, index]
        torch.testing.assert_close(denoised, clean[:, index], atol=1e-4, rtol=1e-4)


def test_starts_with_a_prediction_of_zero():
    network = make_network(CONFIG)
    init_token_transformer(network, 0.3)
    inputs = make_inputs(CONFIG)
    expected = velocity_from_clean(
        inputs["x"][:, :, :, :3], torch.zeros(2, 2, 4, 3, 4, 8), inputs["c_noise"]
    )
    torch.testing.assert_close(network(**inputs), expected)


@pytest.mark.parametrize("config", KINDS)
def test_counted_flops(config):
    network = make_network(config, attention=math_attention)  # fused kernels are not counted
    inputs = make_inputs(config, objects=1)
    with FlopCounterMode(display=False) as counted:
        network(**inputs)
    assert forward_flops(network, 4, 4, 8) == pytest.approx(counted.get_total_flops(), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 2, 4, 5, 4, 8)}, "x has shape"),
        ({"x": torch.zeros(2, 2, 4, 6, 3, 8)}, "multiples of 2"),
        ({"camera_task": None}, "camera_task"),
        ({"context": torch.zeros(2, 1, 5)}, "context"),
    ],
)
def test_wrong_inputs(change, message):
    with pytest.raises(InputError, match=message):
        make_network(CONFIG)(**(make_inputs(CONFIG) | change))


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": 30},
        {"spans": ()},
        {"spans": ("column",)},
        {"prediction": "noise"},
        {"out_channels": 7},
        {"depth": 0},
    ],
)
def test_wrong_settings(settings):
    with pytest.raises(InputError):
        replace(CONFIG, **settings)
