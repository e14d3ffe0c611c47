"""Validation metrics: ideal for the ground truth, and each kind of error affects its own metric."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.progress import Progress
from nova3d_core.training.object_sources import held_out_objects
from nova3d_core.training.train_module import init_train_module
from nova3d_core.training.validation import (
    VALIDATING,
    ValidationSample,
    generate_views,
    mean_over_unseen_views,
    sample_grid,
    silhouettes,
    validate,
    validation_sample,
    view_metrics,
)

from .parts import SIZE, SMALL, VIEWS, objects, of

FAMILY = FAMILIES["nova3d-mini"]
SIDE = 24


@pytest.fixture
def truth() -> ValidationSample:
    """A grey ball on white in all views, with true normals in the frame of view 0."""
    row = (torch.arange(SIDE) - (SIDE - 1) / 2) / (SIDE * 0.4)
    y, x = torch.meshgrid(-row, row, indexing="ij")
    inside = x**2 + y**2 < 1
    z = (1 - x**2 - y**2).clamp_min(0).sqrt()
    normals = torch.where(inside[..., None], torch.stack([x, y, z], -1) * 0.5 + 0.5, 1.0)
    colours = torch.where(inside[..., None], 0.3, 1.0).expand(-1, -1, 3)
    return ValidationSample(
        *(part.expand(4, *part.shape) for part in (colours, normals, inside.float()))
    )


def metrics(truth, colour=None, normal=None):
    generated = torch.stack(
        [truth.colour if colour is None else colour, truth.normal if normal is None else normal]
    )
    return mean_over_unseen_views(view_metrics(generated, truth))


def test_ground_truth_is_perfect(truth):
    found = metrics(truth)
    assert found["psnr"] == 99.0
    assert found["ssim"] == pytest.approx(1.0)
    assert found["normal_error_deg"] == pytest.approx(0.0, abs=1e-4)
    assert found["silhouette_iou"] == found["agreement_iou"] == 1.0


def test_colours_off_by_a_tenth_have_20_db(truth):
    assert metrics(truth, truth.colour - 0.1)["psnr"] == pytest.approx(20.0, abs=1e-3)


def test_normals_rotated_by_ten_degrees_are_ten_degrees_off(truth):
    angle = torch.deg2rad(torch.tensor(10.0))
    rotation = torch.tensor(
        [[1, 0, 0], [0, angle.cos(), -angle.sin()], [0, angle.sin(), angle.cos()]]
    )
    rotated = (truth.normal * 2 - 1) @ rotation.T * 0.5 + 0.5
    rotated = torch.where(truth.mask[..., None] > 0, rotated, 1.0)
    mean = metrics(truth, normal=rotated)["normal_error_deg"]
    assert 6.0 < mean < 10.0  # normals along the rotation axis change less
    flipped = torch.where(truth.mask[..., None] > 0, 1 - truth.normal, 1.0)
    assert metrics(truth, normal=flipped)["normal_error_deg"] == pytest.approx(180, abs=0.1)


def test_white_normals_count_as_wrong_and_empty(truth):
    found = metrics(truth, normal=torch.ones_like(truth.normal))
    assert found["normal_error_deg"] > 40.0
    assert found["silhouette_iou"] == found["agreement_iou"] == 0.0


def test_half_a_silhouette_has_iou_one_half(truth):
    half = truth.normal.clone()
    half[:, : SIDE // 2] = 1.0
    found = metrics(truth, normal=half)
    assert found["silhouette_iou"] == pytest.approx(0.5)
    assert found["agreement_iou"] == pytest.approx(0.5)


def test_white_surfaces_do_not_lower_agreement(truth):
    white = truth.colour.clone()
    white[:, : SIDE // 2] = 1.0
    pale = ValidationSample(white, truth.normal, truth.mask)
    assert metrics(pale)["agreement_iou"] == 1.0


def test_input_view_does_not_count(truth):
    colour = truth.colour.clone()
    colour[0] = 0.0
    assert metrics(truth, colour)["psnr"] == 99.0


def test_silhouettes_separate_white_from_every_unit_normal():
    directions = torch.nn.functional.normalize(
        torch.randn(1000, 1, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    worst = torch.full((1, 1, 3), 3**-0.5)
    normals = torch.cat([directions, worst]) * 0.5 + 0.5
    assert float(silhouettes(normals).min()) == 1.0
    assert float(silhouettes(normals * 0.1 + 0.9).max()) == 0.0
    assert float(silhouettes(torch.ones(1, 1, 3))) == 0.0


@pytest.fixture
def model():
    module = init_train_module(SMALL.network, FAMILY, 0)
    module.unet.out[2].weight.data.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    return module.model("in training")


def test_generation_is_repeatable_and_validation_averages_objects(model):
    truths = [validation_sample(item) for item in objects(2)]
    placement = OneDevice(model, torch.device("cpu"))
    events = []
    found = validate(model, truths, placement, 2, Progress(lambda event: events.append(event)))
    assert [(event.stage, event.step) for event in events] == [
        (VALIDATING, 0), (VALIDATING, 1), (VALIDATING, 2)
    ]  # fmt: skip
    assert found.generated[0].shape == (2, VIEWS, SIZE, SIZE, 3)
    again = generate_views(model, truths[1].colour[0], placement, 1, 2)
    assert torch.equal(again, found.generated[1])
    psnrs = [each["psnr"] for each in found.objects]
    assert found.means["psnr"] == pytest.approx(sum(psnrs) / 2)
    image = sample_grid(truths, found.generated)
    assert image.shape == (8 * SIZE, VIEWS * SIZE, 3)
    assert torch.equal(image[SIZE : 2 * SIZE, :SIZE], truths[0].colour[0])
    assert torch.equal(image[6 * SIZE : 7 * SIZE, SIZE : 2 * SIZE], found.generated[1][1, 1])


def test_skips_objects_whose_output_is_not_finite(model):
    model.unet.out[2].weight.data.fill_(float("nan"))
    truths = [validation_sample(item) for item in objects(2)]
    found = validate(model, truths, OneDevice(model, torch.device("cpu")), 1)
    assert found.means == {} and found.generated == []


def test_held_out_objects_repeat_and_differ_from_training_objects():
    from nova3d_core.training.object_sources import make_object_stream

    config = of(SMALL, data__size_px=SIZE)
    held_out = held_out_objects(config, FAMILY, 2)
    again = held_out_objects(of(config, seed=5), FAMILY, 2)
    assert all(torch.equal(a.colour, b.colour) for a, b in zip(held_out, again, strict=True))
    trained = {
        item["key"] for item, _ in zip(make_object_stream(config, 0, 1), range(3), strict=False)
    }
    assert not trained & {truth.key for truth in held_out}
    assert held_out_objects(config, FAMILY, 0) == []
