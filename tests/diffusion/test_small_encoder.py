"""The small image encoder: one token, of any image, in any number format."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nova3d_core.diffusion.codecs.small_encoder import SmallEncoder
from nova3d_core.errors import InputError


def encoder(**settings) -> SmallEncoder:
    torch.manual_seed(0)
    return SmallEncoder(**settings).eval().requires_grad_(False)


def images(height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_one_token_and_few_parameters():
    made = encoder()
    assert made.embed(images()).shape == (2, 1, 256)
    assert sum(weight.numel() for weight in made.parameters()) <= 500_000


def test_its_settings_make_it_again():
    made = encoder(channels=16, embed_dim=40)
    again = SmallEncoder(**made.settings())
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.embed(images()), made.embed(images()))


def test_images_of_any_size_are_seen_alike():
    made = encoder()
    smooth = functional.avg_pool2d(images(), 16)  # (2, 3, 4, 4)
    sizes = [
        functional.interpolate(smooth, size=size, mode="bicubic", align_corners=True)
        for size in ((64, 64), (256, 256), (128, 192))
    ]
    plain, *others = (made.embed(each) for each in sizes)
    apart = (plain[0] - plain[1]).norm()
    for other in others:
        assert float((other - plain).norm()) < 0.1 * float(apart)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype):
    made = encoder()
    plain = made.embed(images())
    half = made.to(dtype).embed(images())
    assert half.dtype == torch.float32
    assert float((half - plain).norm()) < 0.03 * float(plain.norm())


def test_large_weights_stay_in_float16s_range():
    """Norms stand before every convolution, so numbers do not pile up from layer to layer."""
    made = encoder()
    for weight in made.parameters():
        if weight.dim() == 4:
            weight.mul_(200.0)
    assert bool(torch.isfinite(made.half().embed(images())).all())


def test_it_tells_images_apart_and_learns_from_each_layer():
    made = SmallEncoder()
    embed_dim = made.embed(images())
    assert float((embed_dim[0] - embed_dim[1]).detach().abs().max()) > 1e-3
    embed_dim.square().sum().backward()
    assert all(float(weight.grad.abs().max()) > 0.0 for weight in made.parameters())


def test_wrong_settings_and_shapes_are_told():
    for settings, told in (({"channels": 12}, "channels"), ({"embed_dim": 0}, "embed_dim")):
        with pytest.raises(InputError, match=told):
            SmallEncoder(**settings)
    with pytest.raises(InputError, match="images to embed"):
        encoder().embed(torch.zeros(2, 1, 64, 64))
