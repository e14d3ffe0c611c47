"""Depth offsets that keep the details of a surface and move it as a whole."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.fusion.stereo.broad_offsets import broad_offsets

PIXEL = 0.01
SHAPE = (2, 40, 48)


def noise(scale: float) -> torch.Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shift", [2.0 * PIXEL, -2.0 * PIXEL])
def test_a_common_shift_is_found_despite_noise(shift):
    offset, confidence = broad_offsets(shift + noise(PIXEL), torch.full(SHAPE, 0.8), PIXEL)
    assert (offset - shift).abs().max() < 0.6 * PIXEL  # a quarter of the window at a corner
    assert (offset - shift).square().mean().sqrt() < 0.2 * PIXEL
    assert 0.7 < float(confidence.mean()) < 0.8


def test_noise_without_a_shift_has_no_confidence():
    _, confidence = broad_offsets(noise(PIXEL), torch.full(SHAPE, 0.8), PIXEL)
    assert float(confidence.mean()) < 0.1
    _, exact = broad_offsets(torch.zeros(SHAPE), torch.ones(SHAPE), PIXEL)
    assert not exact.any()


def test_patches_without_a_depth_take_that_of_their_neighbours():
    known = torch.zeros(SHAPE)
    known[:, :, :24] = 1.0
    offset, confidence = broad_offsets(known * 3.0 * PIXEL, known, PIXEL)
    near, far = offset[:, :, 24:28], confidence[:, :, 44:]
    assert torch.allclose(near, torch.full_like(near, 3.0 * PIXEL), rtol=1e-4)
    assert not far.any() and not offset[:, :, 44:].any()


def test_scales_with_the_pixel():
    shifted = 0.5 * PIXEL + noise(PIXEL)
    offset, confidence = broad_offsets(shifted, torch.full(SHAPE, 0.8), PIXEL)
    scaled_offset, scaled_confidence = broad_offsets(
        10.0 * shifted, torch.full(SHAPE, 0.8), 10.0 * PIXEL
    )
    assert torch.allclose(scaled_offset, 10.0 * offset, rtol=1e-3, atol=1e-6)
    assert torch.allclose(scaled_confidence, confidence, rtol=1e-3, atol=1e-5)


def test_no_offsets():
    offset, confidence = broad_offsets(torch.zeros(SHAPE), torch.zeros(SHAPE), PIXEL)
    assert not offset.any() and not confidence.any()
