"""Conditioning of a batch: augmentation, dropout, noise strength, cameras."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.network.embeddings import camera_task_embedding, sinusoidal_embedding
from nova3d_core.errors import InputError
from nova3d_core.training.config import ConditioningConfig
from nova3d_core.training.data.batches import collate_images, domain_images, to_signed
from nova3d_core.training.data.conditioning import (
    dropout_masks,
    input_images,
    sample_conditioning,
)
from nova3d_core.training.data.config import AugmentationConfig
from nova3d_core.training.step_rng import draw_step_randomness

from .parts import SIZE, VIEWS, objects

COUNT = 6


@pytest.fixture
def batch():
    return collate_images(objects(COUNT), VIEWS, SIZE)


@pytest.fixture
def randomness():
    return draw_step_randomness(0, 0, range(COUNT), (2, VIEWS, 48, 4, 4), SIZE)


def test_domain_images_keep_all_values(batch):
    images = domain_images(batch)
    assert images.shape == (2, COUNT, VIEWS, 3, SIZE, SIZE)
    back = ((images + 1) * 127.5).round().to(torch.uint8).movedim(3, -1)
    assert torch.equal(back[0], batch.colour)
    assert torch.equal(back[1], batch.normal)
    assert float(images.max()) == 1.0


def test_random_background_replaces_white_by_the_mask_in_the_input_only(batch, randomness):
    before = batch.colour.clone()
    white = input_images(batch, randomness, AugmentationConfig(random_background_fraction=0.0))
    assert torch.equal(white, to_signed(batch.colour[:, 0]))
    changed = input_images(batch, randomness, AugmentationConfig(random_background_fraction=1.0))
    mask = batch.mask[:, None].float() / 255
    assert torch.equal(changed * (mask == 1), white * (mask == 1))
    colours = randomness.background[:, :, None, None] * 2 - 1
    torch.testing.assert_close(changed * (mask == 0), (colours * (mask == 0)))
    # at edges, the object's part is composited over the new background
    foreground = white - (1 - mask)
    torch.testing.assert_close(changed, foreground + (1 - mask) * colours)
    assert torch.equal(batch.colour, before)


def test_fraction_of_random_backgrounds(batch):
    randomness = draw_step_randomness(1, 0, range(4000), (1, 1, 1, 1, 1), 1)
    fraction = float((randomness.variant < 0.3).float().mean())
    assert abs(fraction - 0.3) < 0.03


def test_dropout_masks_drop_ten_percent_each():
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    embedding, latent = dropout_masks(uniforms, 0.1)
    fractions = {
        (e, z): float(((embedding == e) & (latent == z)).float().mean())
        for e in (0.0, 1.0)
        for z in (0.0, 1.0)
    }
    expected = {(0.0, 1.0): 0.1, (0.0, 0.0): 0.1, (1.0, 0.0): 0.1, (1.0, 1.0): 0.7}
    assert fractions == pytest.approx(expected, abs=1e-6)
    embedding, latent = dropout_masks(uniforms, 0.0)
    assert float(embedding.min()) == float(latent.min()) == 1.0


def test_added_embeds_encode_the_noise_strength_of_the_input(batch, randomness):
    config = ConditioningConfig(augmentation=AugmentationConfig(random_background_fraction=0.0))
    conditioning = sample_conditioning(batch, randomness, config, FAMILIES["nova3d"])
    noise = (conditioning.noisy_image - conditioning.image).flatten(1)
    strength = torch.exp(-3.0 + 0.5 * randomness.strength)
    torch.testing.assert_close(noise, strength[:, None] * randomness.image_noise.flatten(1))
    assert torch.equal(
        conditioning.added_embeds,
        sinusoidal_embedding(strength, 256)[:, None].expand(-1, VIEWS, -1),
    )


def test_cameras_are_relative_to_the_input_view(randomness):
    items = objects(COUNT)
    for index, item in enumerate(items):
        item["azimuth_deg"] = (item["azimuth_deg"] + 30 * index) % 360
        item["elevation_deg"] = torch.full((VIEWS,), 5.0 * index)
    conditioning = sample_conditioning(
        collate_images(items, VIEWS, SIZE), randomness, ConditioningConfig(), FAMILIES["nova3d"]
    )
    angles = torch.arange(VIEWS) * torch.pi / 8
    expected = camera_task_embedding(torch.zeros(VIEWS), angles, 2)
    for index in range(COUNT):
        torch.testing.assert_close(conditioning.camera_task[:, index], expected, rtol=0, atol=1e-5)


def test_rejects_objects_of_another_size_or_number_of_views():
    with pytest.raises(InputError, match=r"object disc-0-0 .*\(16, 16, 16, 3\).*\(16, 32, 32, 3\)"):
        collate_images(objects(1), VIEWS, 32)
    with pytest.raises(InputError, match="disc-0-0"):
        collate_images(objects(1), 8, SIZE)
