"""Preprocessing of user images: consistent framing, or a clear error."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.diffusion.sampling.preprocess import preprocess_image
from nova3d_core.errors import InputError
from nova3d_core.imaging.resize import downscale_on_white
from nova3d_core.io.images.images import read_image

SIZE = 64


def disc(height: int = 120, width: int = 120, radius: float = 30.0, at=(0.5, 0.5)):
    """A red disc on white and its soft mask."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    distance = ((y - at[0] * height) ** 2 + (x - at[1] * width) ** 2).sqrt()
    mask = (radius + 0.5 - distance).clamp(0.0, 1.0)
    red = torch.tensor([0.8, 0.1, 0.2])
    return red * mask[..., None] + (1.0 - mask[..., None]), mask


def bounding_box(mask):
    rows, columns = ((mask > 0.5).any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_object_is_centred_and_scaled_to_the_foreground_ratio(ratio):
    image, mask = disc(90, 200, 20.0, at=(0.6, 0.2))
    result = preprocess_image(image, mask, SIZE, ratio)
    top, bottom, left, right = bounding_box(result.mask)
    assert result.image.shape == (SIZE, SIZE, 3) and result.mask.shape == (SIZE, SIZE)
    assert bottom - top == pytest.approx(ratio * SIZE, abs=1.5)
    assert abs(top + bottom - SIZE) <= 2 and abs(left + right - SIZE) <= 2
    assert result.notes == ()
    assert float(result.image[0, 0].min()) == 1.0


def test_mask_alpha_and_white_background_are_equivalent():
    image, mask = disc()
    red = torch.tensor([0.8, 0.1, 0.2]).expand(120, 120, 3)
    by_mask = preprocess_image(image, mask, SIZE)
    by_alpha = preprocess_image(torch.cat([red, mask[..., None]], dim=-1), None, SIZE)
    by_white = preprocess_image(image, None, SIZE)
    by_old_background = preprocess_image(
        red * mask[..., None] + 0.3 * (1.0 - mask[..., None]), mask, SIZE
    )
    for other in (by_alpha, by_white, by_old_background):
        assert float((other.mask - by_mask.mask).abs().max()) < 0.03
        inside = by_mask.mask > 0.99
        assert float((other.image - by_mask.image)[inside].abs().max()) < 0.02
    assert torch.equal(by_alpha.image, by_mask.image)


def test_image_formats_are_equivalent(tmp_path):
    image, mask = disc()
    grey = image.mean(dim=-1)
    expected = preprocess_image(grey[..., None].repeat(1, 1, 3), mask, SIZE).image
    levels = (grey * 65535).round().numpy().astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey16.png")
    from_file = preprocess_image(read_image(tmp_path / "grey16.png"), mask, SIZE).image
    assert float((from_file - expected).abs().max()) < 1e-4
    integers = torch.from_numpy(levels.astype(np.int32))
    eight = (grey * 255).round().to(torch.uint8)
    for each, tolerance in ((grey, 0), (grey[..., None], 0), (integers, 1e-4), (eight, 3e-3)):
        assert float((preprocess_image(each, mask, SIZE).image - expected).abs().max()) <= tolerance
    with_alpha = torch.stack([torch.full_like(mask, 0.3), mask], dim=-1)
    assert preprocess_image(with_alpha, None, SIZE).mask.equal(
        preprocess_image(image, mask, SIZE).mask
    )
    assert preprocess_image(image.half(), mask > 0.5, SIZE).image.dtype == torch.float32


def test_two_objects_are_treated_as_one_with_a_note(caplog):
    left, left_mask = disc(100, 300, 30.0, at=(0.5, 0.2))
    right, right_mask = disc(100, 300, 25.0, at=(0.5, 0.8))
    result = preprocess_image(torch.minimum(left, right), left_mask + right_mask, SIZE)
    assert len(result.notes) == 1 and "2 separate objects" in result.notes[0]
    assert "2 separate objects" in caplog.text
    _, _, first, last = bounding_box(result.mask)
    assert last - first == pytest.approx(0.7 * SIZE, abs=1.5)
    speck, speck_mask = disc(100, 300, 3.0, at=(0.5, 0.8))
    assert preprocess_image(torch.minimum(left, speck), left_mask + speck_mask, SIZE).notes == ()


def test_tiny_image_is_upscaled_with_a_note():
    image, mask = disc(8, 8, 2.5)
    result = preprocess_image(image, mask, SIZE)
    assert "8x8 px" in result.notes[0]
    assert bool(torch.isfinite(result.image).all())
    assert float(result.mask.max()) > 0.9


@pytest.mark.parametrize("keep_framing", [True, False])
def test_object_that_nearly_vanishes_is_noted(keep_framing):
    image, mask = disc(64, 64, 20.0)
    faint = preprocess_image(image, mask * 0.2, SIZE, keep_framing=keep_framing)
    assert len(faint.notes) == 1 and "hardly visible to the model" in faint.notes[0]
    assert preprocess_image(image, mask * 0.6, SIZE, keep_framing=keep_framing).notes == ()


def test_kept_framing_off_the_centre_is_noted():
    off, off_mask = disc(64, 64, 10.0, at=(0.5, 0.75))
    kept = preprocess_image(off, off_mask, SIZE, keep_framing=True)
    assert len(kept.notes) == 1 and "25% of the image's side off its centre" in kept.notes[0]
    assert preprocess_image(off, off_mask, SIZE).notes == ()
    centred = disc(64, 64, 10.0)
    assert preprocess_image(*centred, SIZE, keep_framing=True).notes == ()


def test_huge_image_equals_its_downscaled_copy():
    for transparent in (False, True):
        big, big_mask = disc(1600, 1000, 300.0, at=(0.4, 0.55))
        small, small_mask = disc(160, 100, 30.0, at=(0.4, 0.55))
        if transparent:
            big, small = (
                torch.cat([torch.full_like(each, 0.4), own[..., None]], dim=-1)
                for each, own in ((big, big_mask), (small, small_mask))
            )
            big_mask = small_mask = None
        large, little = (
            preprocess_image(big, big_mask, SIZE),
            preprocess_image(small, small_mask, SIZE),
        )
        assert float((large.mask - little.mask).abs().mean()) < 0.01
        assert float((large.image - little.image).abs().mean()) < 0.01


def test_downscaling_averages_blocks_and_keeps_partial_ones():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(301, 203, 3, generator=generator) * 0.9
    small, mask = downscale_on_white(image, None, 30)
    assert mask is None
    assert small.shape == (31, 21, 3)  # blocks of 10
    torch.testing.assert_close(
        small[:30, :20], image[:300, :200].unfold(0, 10, 10).unfold(1, 10, 10).mean(dim=(-1, -2))
    )
    assert downscale_on_white(image, None, 400)[0].equal(image)


PEAK = """
import resource, torch
from nova3d_core.diffusion.sampling.preprocess import preprocess_image
image = torch.full((1, 1, 3), 0.4).expand(20000, 5000, 3)
mask = torch.zeros(20000, 1, dtype=torch.bool)
mask[4000:15000] = True
mask = mask.expand(20000, 5000)
preprocess_image(torch.full((64, 64, 3), 0.4), torch.eye(64), 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = preprocess_image(image, mask, 256)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(grown, float(result.mask.sum()))
"""


def test_memory_of_a_twenty_thousand_pixel_image():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    grown_mib, area = map(float, done.stdout.split())
    assert grown_mib < 400  # the image's floats alone would be 1200
    # an object of 5000 x 11000 pixels becomes 81 x 179 of 256
    assert area == pytest.approx(0.7 * 256 * 0.7 * 256 * 5 / 11, rel=0.03)


def test_rejects_bad_images_with_the_reason():
    image, mask = disc()
    for bad, bad_mask, word in (
        (image, torch.zeros_like(mask), "empty"),
        (torch.ones(50, 50, 3), None, "is entirely white"),
        (torch.cat([image, torch.zeros(120, 120, 1)], dim=-1), None, "empty"),
        (torch.full((50, 50, 3), 0.2), None, "not white"),
        (image * 255.0, mask, "0 to 1"),
        (image.where(mask[..., None] < 0.5, float("nan")), mask, "NaN"),
        (image, mask[:50], "px"),
        (image, mask[..., None], "shape"),
        (image[None], mask, "shape"),
        (torch.rand(10, 10, 5), None, "shape"),
        (torch.rand(0, 10, 3), None, "shape"),
        (torch.zeros(10, 10, 3, dtype=torch.int64), None, "int64"),
    ):
        with pytest.raises(InputError, match=word):
            preprocess_image(bad, bad_mask, SIZE)
