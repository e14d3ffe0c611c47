"""Conditions of a batch: what is left out, added and told, and for whom."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.network.embeddings import camera_task_embedding, sinusoidal_embedding
from nova3d_core.errors import InputError
from nova3d_core.training.config import ConditioningConfig
from nova3d_core.training.data.batches import (
    collate_images,
    domain_images,
    dropout_masks,
    input_images,
    sample_conditioning,
    to_signed,
)
from nova3d_core.training.step_rng import draw_step_randomness

from .parts import SIZE, VIEWS, objects

COUNT = 6


@pytest.fixture
def batch():
    return collate_images(objects(COUNT), VIEWS, SIZE)


@pytest.fixture
def randomness():
    return draw_step_randomness(0, 0, range(COUNT), (2, VIEWS, 48, 4, 4), SIZE)


def test_images_keep_every_grey_value(batch):
    images = domain_images(batch)
    assert images.shape == (2, COUNT, VIEWS, 3, SIZE, SIZE)
    back = ((images + 1) * 127.5).round().to(torch.uint8).movedim(3, -1)
    assert torch.equal(back[0], batch.colour)
    assert torch.equal(back[1], batch.normal)
    assert float(images.max()) == 1.0


def test_a_background_shows_where_the_mask_lets_it_through_and_only_in_the_input(batch, randomness):
    before = batch.colour.clone()
    white = input_images(
        batch,
        randomness,
        ConditioningConfig(augmentation=AugmentationConfig(random_background_fraction=0.0)),
    )
    assert torch.equal(white, to_signed(batch.colour[:, 0]))
    changed = input_images(
        batch,
        randomness,
        ConditioningConfig(augmentation=AugmentationConfig(random_background_fraction=1.0)),
    )
    mask = batch.mask[:, None].float() / 255
    assert torch.equal(changed * (mask == 1), white * (mask == 1))
    colours = randomness.background[:, :, None, None] * 2 - 1
    torch.testing.assert_close(changed * (mask == 0), (colours * (mask == 0)))
    # on the edge, the object's own share over the new background
    unmixed = white - (1 - mask)
    torch.testing.assert_close(changed, unmixed + (1 - mask) * colours)
    assert torch.equal(batch.colour, before)


def test_the_share_of_backgrounds(batch):
    many = draw_step_randomness(1, 0, range(4000), (1, 1, 1, 1, 1), 1)
    share = float((many.plain < 0.3).float().mean())
    assert abs(share - 0.3) < 0.03


def test_left_out_by_the_ten_percent_scheme():
    dropped = (torch.arange(10_000) + 0.5) / 10_000
    embedding, latent = dropout_masks(dropped, 0.1)
    shares = {
        (e, z): float(((embedding == e) & (latent == z)).float().mean())
        for e in (0.0, 1.0)
        for z in (0.0, 1.0)
    }
    expected = {(0.0, 1.0): 0.1, (0.0, 0.0): 0.1, (1.0, 0.0): 0.1, (1.0, 1.0): 0.7}
    assert shares == pytest.approx(expected, abs=1e-6)
    embedding, latent = dropout_masks(dropped, 0.0)
    assert float(embedding.min()) == float(latent.min()) == 1.0


def test_the_noise_on_the_input_is_told_to_the_network(batch, randomness):
    config = ConditioningConfig(augmentation=AugmentationConfig(random_background_fraction=0.0))
    told = sample_conditioning(batch, randomness, config, 2)
    noise = (told.noisy_image - told.image).flatten(1)
    strength = torch.exp(-3.0 + 0.5 * randomness.strength)
    torch.testing.assert_close(noise, strength[:, None] * randomness.image_noise.flatten(1))
    assert torch.equal(
        told.added, sinusoidal_embedding(strength, 256)[:, None].expand(-1, VIEWS, -1)
    )


def test_cameras_are_relative_to_the_input_view_of_each_object(randomness):
    items = objects(COUNT)
    for index, item in enumerate(items):
        item["azimuth_deg"] = (item["azimuth_deg"] + 30 * index) % 360
        item["elevation_deg"] = torch.full((VIEWS,), 5.0 * index)
    told = sample_conditioning(
        collate_images(items, VIEWS, SIZE), randomness, ConditioningConfig(), 2
    )
    angles = torch.arange(VIEWS) * torch.pi / 8
    expected = camera_task_embedding(torch.zeros(VIEWS), angles, 2)
    for index in range(COUNT):
        torch.testing.assert_close(told.camera_task[:, index], expected, rtol=0, atol=1e-5)


def test_objects_of_another_size_or_number_of_views_are_named():
    with pytest.raises(InputError, match=r"object disc-0-0 .*\(16, 16, 16, 3\).*\(16, 32, 32, 3\)"):
        collate_images(objects(1), VIEWS, 32)
    with pytest.raises(InputError, match="disc-0-0"):
        collate_images(objects(1), 8, SIZE)
