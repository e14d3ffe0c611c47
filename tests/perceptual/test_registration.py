"""Registration recovers known warps and gains."""

from __future__ import annotations

import torch

from nova3d_core.imaging.warps import warp_image
from nova3d_core.perceptual.registration import Registration, register_view

from .procedural import image


def disc(size: int = 64, radius_px: float = 24.0, seed: int = 3) -> torch.Tensor:
    """(H, W, 4) a textured disc on white, and its mask with a soft border."""
    centre = torch.arange(size) + 0.5 - size / 2
    distance = (centre[:, None].square() + centre.square()).sqrt()
    mask = (radius_px + 0.5 - distance).clamp(0.0, 1.0)[..., None]
    small = image(size // 6, size // 6, seed).movedim(-1, 0)[None]
    colour = torch.nn.functional.interpolate(small, (size, size), mode="bicubic")[0]
    colour = colour.movedim(0, -1).clamp(0.0, 1.0)
    return torch.cat([mask * colour + (1.0 - mask), mask], dim=-1)


def known_nodes(seed: int, sigma_px: float) -> torch.Tensor:
    """(2, 3, 3) displacements."""
    return sigma_px * torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(seed))


def test_known_warp_and_gain_are_recovered():
    view = disc()
    truth = Registration(known_nodes(1, 1.5), torch.tensor([1.1, 0.95, 0.9]))
    render = truth.apply_to(view)
    found = register_view(view, render, (render[..., 3] > 0.99).float())
    expected, actual = (each.displacement_px(64, 64) for each in (truth, found))
    inside = render[..., 3] > 0.5
    error = (actual - expected)[inside].norm(dim=-1)
    assert float(expected[inside].norm(dim=-1).mean()) > 1.0
    assert float(error.mean()) < 0.1
    torch.testing.assert_close(found.gain, truth.gain, atol=0.01, rtol=0.0)


def test_equal_images_are_not_moved():
    view = disc()
    found = register_view(view, view, view[..., 3])
    assert float(found.nodes_px.abs().max()) < 1e-3
    torch.testing.assert_close(found.gain, torch.ones(3), atol=1e-3, rtol=0.0)


def test_silhouette_alone_fixes_a_translation():
    """A uniform object: only its mask shows where it is."""
    mask = disc()[..., 3:]
    view = torch.cat([(1.0 - 0.5 * mask).expand(-1, -1, 3), mask], dim=-1)
    moved = warp_image(view, torch.tensor([2.0, -1.0]).expand(64, 64, 2))
    found = register_view(view, moved, torch.zeros(64, 64)).displacement_px(64, 64)
    ring = (moved[..., 3] > 0.0) & (moved[..., 3] < 1.0)
    torch.testing.assert_close(
        found[ring].mean(dim=0), torch.tensor([2.0, -1.0]), atol=0.2, rtol=0.0
    )


def test_gain_leaves_the_white_background_white():
    view = disc()
    result = Registration(torch.zeros(2, 3, 3), torch.tensor([0.5, 0.5, 0.5])).apply_to(view)
    assert torch.equal(result[0, 0], torch.ones(4) * torch.tensor([1.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(result[32, 32, :3], 0.5 * view[32, 32, :3])
