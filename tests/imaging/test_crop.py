"""Cropping: framing, background, and the source of the mask."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.imaging.crop import (
    CropConfig,
    composite_on_white,
    object_bounds,
    prepare_images,
)

RED = torch.tensor([0.8, 0.1, 0.1])


def box_image(size=(120, 200), rows=(30, 70), columns=(20, 120), background=1.0):
    """A red box (1, H, W, 3) on a grey background, and its mask."""
    image = torch.full((*size, 3), background)
    mask = torch.zeros(size)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = 1.0
    image[mask > 0] = RED
    return image[None], mask[None]


def extent(mask):
    rows, columns = (mask > 0.5).nonzero().unbind(dim=1)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


@pytest.mark.parametrize("background", [1.0, 0.0, 0.4])
def test_object_is_centred_with_the_foreground_ratio(background):
    image, mask = box_image(background=background)
    colour, framed = prepare_images(image, mask, CropConfig(200, 0.7))
    top, bottom, left, right = extent(framed[0])
    assert right - left == pytest.approx(140, abs=1)
    assert bottom - top == pytest.approx(56, abs=1)
    assert (left + right) / 2 == pytest.approx(100, abs=1)
    assert (top + bottom) / 2 == pytest.approx(100, abs=1)
    assert (colour[0][framed[0] <= 0] == 1.0).all()
    inside = colour[0, 100, 100]
    torch.testing.assert_close(inside, RED, atol=1e-4, rtol=0)


def test_object_at_the_border_is_centred_with_white_padding():
    image, mask = box_image(rows=(0, 40), columns=(150, 200))
    colour, framed = prepare_images(image, mask, CropConfig(100, 0.5))
    top, bottom, left, right = extent(framed[0])
    assert (bottom - top, right - left) == (pytest.approx(40, abs=1), pytest.approx(50, abs=1))
    assert (colour[0, 0] == 1.0).all()


def test_alpha_is_the_mask_and_hides_the_background():
    image, mask = box_image(background=0.0)
    with_alpha = torch.cat([image, mask[..., None]], dim=-1)
    by_alpha = prepare_images(with_alpha)
    by_mask = prepare_images(box_image()[0], mask)
    for one, other in zip(by_alpha, by_mask, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_white_is_background_without_a_mask():
    image, mask = box_image()
    for no_mask in (None, torch.ones_like(mask)):
        colour, found = composite_on_white(image, no_mask)
        assert torch.equal(found, mask)
        assert torch.equal(colour, image)


def test_large_images_are_antialiased():
    stripes = torch.ones(1, 640, 640, 3)
    mask = torch.zeros(1, 640, 640)
    mask[:, 64:576, 64:576] = 1.0
    stripes[:, 64:576, 64:576] = (torch.arange(512) % 2).float()[None, :, None]
    colour, _ = prepare_images(stripes, mask, CropConfig(64, 0.8))
    middle = colour[0, 16:48, 16:48]
    assert (middle - 0.5).abs().max() < 0.05


def test_soft_edges_are_blended_with_white_once():
    """Edges already blended with white are kept; those blended with black get white added."""
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:24, 8:24] = 1.0
    mask[:, 8, 8:24] = 0.5
    on_white = RED * mask[..., None] + 1.0 - mask[..., None]
    assert torch.equal(composite_on_white(on_white, mask)[0], on_white)
    on_black = RED * mask[..., None]
    colour = composite_on_white(on_black, mask)[0]
    torch.testing.assert_close(colour[0, 8, 10], 0.25 * RED + 0.5, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (torch.zeros(1, 64, 64, 3), torch.zeros(1, 64, 64), "mask of image 0 is empty"),
        (torch.zeros(1, 64, 64, 3), None, "border of the image is not white"),
        (torch.zeros(2, 64, 64, 3), torch.zeros(1, 64, 64), "there is 1 mask but 2 images"),
        (torch.zeros(1, 64, 64, 3), torch.zeros(1, 32, 64), "masks are 64x32 px"),
        (torch.full((1, 64, 64, 3), torch.nan), None, "images has 12288 values that are NaN"),
    ],
)
def test_invalid_inputs_are_errors(images, masks, message):
    with pytest.raises(InputError, match=message):
        prepare_images(images, masks)


def test_settings_out_of_range_are_errors():
    with pytest.raises(InputError, match="size_px"):
        CropConfig(size_px=4)
    with pytest.raises(InputError, match="foreground_ratio"):
        CropConfig(foreground_ratio=1.5)


def test_soft_parts_are_inside_the_frame_and_floaters_are_not():
    """Glass, hair and soft shadows cover pixels by little; floaters of a matte are small."""
    image, mask = box_image(rows=(40, 80), columns=(60, 100))
    mask[:, 40:80, 100:140] = 0.1  # a soft shadow
    mask[:, 5:7, 5:7] = 1.0  # 4 of 3200 pixels
    mask[:, 40:80, 40:60] = 0.04  # noise of a matte
    assert object_bounds(mask[0]) == (40, 80, 60, 140)
    _, framed = prepare_images(image, mask, CropConfig(160, 0.5))
    solid, soft = ((framed[0] > level).nonzero() for level in (0.5, 0.08))
    assert (int(soft[:, 1].min()), int(soft[:, 1].max()) + 1) == (40, 120)  # half of the width
    assert (int(solid[:, 1].min()), int(solid[:, 1].max()) + 1) == (40, 80)


def test_transparent_object_is_not_empty():
    image, mask = box_image()
    _, framed = prepare_images(image, 0.3 * mask, CropConfig(200, 0.7))
    rows, columns = (framed[0] > 0.15).nonzero().unbind(dim=1)
    assert int(columns.max()) + 1 - int(columns.min()) == pytest.approx(140, abs=1)
    assert (int(rows.min()) + int(rows.max()) + 1) / 2 == pytest.approx(100, abs=1)


def test_soft_edge_is_not_cut_off():
    """A disc with a soft rim of 8 pixels is as large in the frame as its alpha, not its core."""
    y, x = torch.meshgrid(torch.arange(200) + 0.5, torch.arange(200) + 0.5, indexing="ij")
    distance = ((y - 100) ** 2 + (x - 100) ** 2).sqrt()
    mask = ((64.0 - distance) / 16.0).clamp(0.0, 1.0)[None]  # full at 48, half at 56, 0 at 64
    top, bottom, left, right = object_bounds(mask[0])
    assert (bottom - top, right - left) == (126, 126)  # alpha > 0.05 within 63.2


def test_many_small_parts_are_kept_together():
    mask = torch.zeros(200, 200)
    mask[10:190:9, 20:180:9] = 1.0  # each far below 1 % of all
    assert object_bounds(mask) == (10, 182, 20, 174)
    assert object_bounds(torch.zeros(8, 8)) is None


def test_framing_may_be_kept():
    image, mask = box_image(size=(120, 200), rows=(30, 70), columns=(20, 120))
    colour, framed = prepare_images(image, mask, CropConfig(200, keep_framing=True))
    assert extent(framed[0]) == (70, 110, 20, 120)  # padded by 40 rows above and below
    assert (colour[0, :39] == 1.0).all()
    square, own = box_image(size=(64, 64), rows=(5, 30), columns=(8, 40))
    same, same_mask = prepare_images(square, own, CropConfig(64, keep_framing=True))
    assert torch.equal(same, square) and torch.equal(same_mask, own)
