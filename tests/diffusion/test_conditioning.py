"""What each network is told, against the facts of how it was trained."""

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


def waves(value: float, size: int) -> torch.Tensor:
    """The sinusoid by its definition, in double."""
    half = size // 2
    angles = [value * math.exp(-math.log(1e4) * k / half) for k in range(half)]
    return torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("sv3d_u", [1e-5]), ("v3d", [1, 300, 0.02]), ("nova3d", [0.02])],
)
def test_shared_numbers_come_in_the_familys_order(name, numbers):
    family = FAMILIES[name]
    added = added_embeds(family, plan_trajectory(family, 64))
    known = torch.cat([waves(number, 256) for number in numbers])
    torch.testing.assert_close(added, known.expand(family.views, -1), atol=1e-4, rtol=0)


def test_sv3d_p_is_told_the_polar_angle_and_the_azimuth_of_every_view():
    orbit = OrbitConfig(RigConfig(count=21, elevation_deg=10.0), "sine", 30.0)
    trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=cameras_from_orbit(orbit))
    added = added_embeds(FAMILIES["sv3d_p"], trajectory)
    assert added.shape == (21, 256 + 512 + 512)
    for view in range(21):
        turn = (view + 1) / 21
        polar = math.radians(90.0 - 10.0 - 30.0 * math.sin(2 * math.pi * turn))
        azimuth = math.radians(360.0 * turn % 360.0)
        known = torch.cat([waves(1e-5, 256), waves(polar, 512), waves(azimuth, 512)])
        torch.testing.assert_close(added[view], known, atol=1e-4, rtol=0)


def test_nova3d_is_told_cameras_from_the_front_and_the_task():
    family = FAMILIES["nova3d"]
    tasks = camera_task_embeds(family, plan_trajectory(family, 64, elevation_deg=15.0))
    assert tasks.shape == (2, 16, 10)
    for domain, task in enumerate(((0.0, 1.0), (1.0, 0.0))):
        for view in range(16):
            plain = torch.tensor([0.0, 0.0, view * math.pi / 8, *task], dtype=torch.float64)
            known = torch.cat([plain.sin(), plain.cos()]).float()
            torch.testing.assert_close(tasks[domain, view], known, atol=1e-5, rtol=0)


def told(name: str, image: torch.Tensor, seed: int = 0):
    model = small_model(name)
    trajectory = plan_trajectory(model.family, SIZE)
    draws = draw_noise_inputs(model, SIZE, seed)
    place = OneDevice(model, torch.device("cpu"))
    with torch.no_grad():
        result = make_conditioning(model, image, trajectory, draws, place, SILENT)
    return model, draw_noise_inputs(model, SIZE, seed), result


def test_noise_goes_into_the_image_and_the_embedding_stays_clean():
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5))
    signed = image.movedim(-1, 0)[None] * 2 - 1
    for name in ("nova3d", "sv3d_p"):
        model, draws, result = told(name, image)
        strength = model.family.noise_aug_strength
        assert draws.augmentation.shape == (1, 3, SIZE, SIZE)
        with torch.no_grad():
            noisy = model.codec.encode(signed + strength * draws.augmentation)
            assert result.latent.equal(noisy)  # the mode, not scaled
            assert result.context.equal(model.image_encoder.embed(signed))


def test_v3d_gets_noise_on_a_sample_of_the_latent():
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5))
    signed = image.movedim(-1, 0)[None] * 2 - 1
    model, draws, result = told("v3d", image)
    assert draws.augmentation.shape == (1, 4, SIZE // 2, SIZE // 2)
    with torch.no_grad():
        sampled = model.codec.encode(signed, draws.generator)
        assert result.latent.equal(sampled + 0.02 * draws.augmentation)
        assert not result.latent.equal(model.codec.encode(signed))
        assert result.context.equal(model.image_encoder.embed(signed))


def test_the_unconditional_half_lacks_the_image_and_nothing_else():
    image = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5))
    _, _, result = told("nova3d", image)
    uncond = result.unconditional()
    assert not uncond.latent.any() and not uncond.context.any()
    assert uncond.added is result.added and uncond.camera_task is result.camera_task
    both = result.concat(uncond)
    for name, axis in (("latent", 0), ("context", 0), ("added", 0), ("camera_task", 1)):
        first, second = getattr(both, name).chunk(2, dim=axis)
        assert first.equal(getattr(result, name)) and second.equal(getattr(uncond, name))


def test_a_seed_means_the_same_noise_and_another_one_does_not():
    model = small_model("nova3d")
    first, again, other = (
        draw_noise_inputs(model, SIZE, 4),
        draw_noise_inputs(model, SIZE, 4),
        draw_noise_inputs(model, SIZE, 5),
    )
    assert first.start.equal(again.start) and first.augmentation.equal(again.augmentation)
    assert not first.start.equal(other.start)
    assert first.start.shape == (2, 1, 16, 4, SIZE // 2, SIZE // 2)
    assert first.start.device.type == "cpu"
