"""Masks and normal maps that belong to other images."""

from __future__ import annotations

import logging

import pytest
import torch

from nova3d_core.conventions import encode_normals
from nova3d_core.errors import InputError
from nova3d_core.imaging.match_checks import check_normal_maps, warn_if_masks_mismatch


def discs(centres: list[tuple[int, int]], radius: float = 12.0) -> torch.Tensor:
    """(V, 64, 64) masks of discs."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return torch.stack([((rows - y).hypot(columns - x) < radius).float() for y, x in centres])


MASKS = discs([(20, 20), (20, 44), (44, 44), (44, 20)])
IMAGES = torch.lerp(torch.ones(4, 64, 64, 3), torch.tensor([1.0, 0.9, 0.1]), MASKS[..., None])


def test_matching_masks_pass(caplog):
    with caplog.at_level(logging.WARNING):
        warn_if_masks_mismatch(IMAGES, MASKS)
        warn_if_masks_mismatch(IMAGES, discs([(20, 20), (20, 44), (44, 44), (44, 20)], 9.0))
        warn_if_masks_mismatch(1.0 - IMAGES, MASKS.flip(0))  # not on white: nothing to compare
    assert not caplog.records


@pytest.mark.parametrize("order", [[1, 2, 3, 0], [3, 2, 1, 0]])
def test_order_of_masks_is_compared(caplog, order):
    with caplog.at_level(logging.WARNING):
        warn_if_masks_mismatch(IMAGES, MASKS[order])
    assert "the masks are in another order than the images" in caplog.text
    assert "in another order by 100 %" in caplog.text


def test_masks_of_other_places_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        warn_if_masks_mismatch(IMAGES, discs([(20, 44), (20, 44), (20, 44), (20, 44)]))
    assert "the masks do not match the images" in caplog.text


def test_normal_maps_are_told_from_colours():
    random = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(4, 64, 64, 3, generator=random), dim=-1)
    check_normal_maps(encode_normals(normals), IMAGES, MASKS)
    check_normal_maps(encode_normals(normals), encode_normals(normals), MASKS)  # normals as colours
    with pytest.raises(InputError, match="the same as the colour images"):
        check_normal_maps(IMAGES, IMAGES, MASKS)
    greyish = torch.full_like(IMAGES, 0.7)
    with pytest.raises(InputError, match="are not normal maps: only 0%"):
        check_normal_maps(greyish, IMAGES, MASKS)
