"""The conditioning of each family against the facts of its training."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import OrbitConfig
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.diffusion.sampling.conditioning import added_embeds, camera_task_embeds
from nova3d_core.diffusion.sampling.pipeline import draw_noise_inputs, make_conditioning
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.progress import SILENT

from .models import SIZE, small_model


def reference_embedding(value: float, size: int) -> torch.Tensor:
    """The sinusoidal embedding by its definition, in double precision."""
    half = size // 2
    angles = [value * math.exp(-math.log(1e4) * k / half) for k in range(half)]
    return torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])


@pytest.mark.parametrize(
    ("name", "values"),
    [("sv3d_u", [1e-5]), ("v3d", [1, 300, 0.02]), ("nova3d", [0.02])],
)
def test_added_conditions_follow_the_familys_order(name, values):
    family = FAMILIES[name]
    result = added_embeds(family, plan_trajectory(family, 64))
    expected = torch.cat([reference_embedding(value, 256) for value in values])
    torch.testing.assert_close(result, expected.expand(family.views, -1), atol=1e-4, rtol=0)


def test_sv3d_p_gets_polar_angle_and_azimuth_of_every_view():
    orbit = OrbitConfig(RigConfig(count=21, elevation_deg=10.0), "sine", 30.0)
    trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=cameras_from_orbit(orbit))
    result = added_embeds(FAMILIES["sv3d_p"], trajectory)
    assert result.shape == (21, 256 + 512 + 512)
    for view in range(21):
        fraction = (view + 1) / 21
        polar = math.radians(90.0 - 10.0 - 30.0 * math.sin(2 * math.pi * fraction))
        azimuth = math.radians(360.0 * fraction % 360.0)
        expected = torch.cat(
            [
                reference_embedding(1e-5, 256),
                reference_embedding(polar, 512),
                reference_embedding(azimuth, 512),
            ]
        )
        torch.testing.assert_close(result[view], expected, atol=1e-4, rtol=0)


def test_nova3d_gets_relative_cameras_and_the_task():
    family = FAMILIES["nova3d"]
    tasks = camera_task_embeds(family, plan_trajectory(family, 64, elevation_deg=15.0))
    assert tasks.shape == (2, 16, 10)
    for domain, task in enumerate(((0.0, 1.0), (1.0, 0.0))):
        for view in range(16):
            values = torch.tensor([0.0, 0.0, view * math.pi / 8, *task], dtype=torch.float64)
            expected = torch.cat([values.sin(), values.cos()]).float()
            torch.testing.assert_close(tasks[domain, view], expected, atol=1e-5, rtol=0)


def condition(name: str, image: torch.Tensor, seed: int = 0):
    """A small model, the noise of a seed, and its conditioning on an image."""
    model = small_model(name)
    trajectory = plan_trajectory(model.family, SIZE)
    noise = draw_noise_inputs(model, SIZE, seed)
    placement = OneDevice(model, torch.device("cpu"))
    with torch.no_grad():
        result = make_conditioning(model, image, trajectory, noise, placement, SILENT)
    return model, draw_noise_inputs(model, SIZE, seed), result


def test_noise_is_added_to_the_image_but_not_to_the_embedding():
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5))
    signed = image.movedim(-1, 0)[None] * 2 - 1
    for name in ("nova3d", "sv3d_p"):
        model, noise, result = condition(name, image)
        strength = model.family.noise_aug_strength
        assert noise.augmentation.shape == (1, 3, SIZE, SIZE)
        with torch.no_grad():
            noisy = model.codec.encode(signed + strength * noise.augmentation)
            assert result.latent.equal(noisy)  # the unscaled mode
            assert result.context.equal(model.image_encoder.embed(signed))


def test_v3d_adds_noise_to_a_sample_of_the_latent():
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5))
    signed = image.movedim(-1, 0)[None] * 2 - 1
    model, noise, result = condition("v3d", image)
    assert noise.augmentation.shape == (1, 4, SIZE // 2, SIZE // 2)
    with torch.no_grad():
        sampled = model.codec.encode(signed, noise.generator)
        assert result.latent.equal(sampled + 0.02 * noise.augmentation)
        assert not result.latent.equal(model.codec.encode(signed))
        assert result.context.equal(model.image_encoder.embed(signed))


def test_unconditional_conditioning_lacks_only_the_image():
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5))
    _, _, result = condition("nova3d", image)
    uncond = result.unconditional()
    assert not uncond.latent.any() and not uncond.context.any()
    assert uncond.added_embeds is result.added_embeds and uncond.camera_task is result.camera_task
    both = result.concat(uncond)
    for name, axis in (("latent", 0), ("context", 0), ("added_embeds", 0), ("camera_task", 1)):
        first, second = getattr(both, name).chunk(2, dim=axis)
        assert first.equal(getattr(result, name)) and second.equal(getattr(uncond, name))


def test_noise_depends_on_the_seed_alone():
    model = small_model("nova3d")
    first, again, other = (draw_noise_inputs(model, SIZE, seed) for seed in (4, 4, 5))
    assert first.latents.equal(again.latents) and first.augmentation.equal(again.augmentation)
    assert not first.latents.equal(other.latents)
    assert first.latents.shape == (2, 1, 16, 4, SIZE // 2, SIZE // 2)
    assert first.latents.device.type == "cpu"
