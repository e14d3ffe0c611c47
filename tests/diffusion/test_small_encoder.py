"""The small image encoder: one embedding for images of any size, with weights of any dtype."""

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


def test_output_shape_and_parameter_count():
    model = encoder()
    assert model.embed(images()).shape == (2, 1, 256)
    assert sum(weight.numel() for weight in model.parameters()) <= 500_000


def test_is_rebuilt_from_its_settings():
    model = encoder(channels=16, embed_dim=40)
    again = SmallEncoder(**model.settings())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.embed(images()), model.embed(images()))


def test_embedding_is_robust_to_image_size():
    model = encoder()
    smooth = functional.avg_pool2d(images(), 16)  # (2, 3, 4, 4)
    sizes = [
        functional.interpolate(smooth, size=size, mode="bicubic", align_corners=True)
        for size in ((64, 64), (256, 256), (128, 192))
    ]
    plain, *others = (model.embed(each) for each in sizes)
    apart = (plain[0] - plain[1]).norm()
    for other in others:
        assert float((other - plain).norm()) < 0.1 * float(apart)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_close(dtype):
    model = encoder()
    plain = model.embed(images())
    half = model.to(dtype).embed(images())
    assert half.dtype == torch.float32
    assert float((half - plain).norm()) < 0.03 * float(plain.norm())


def test_large_weights_do_not_overflow_float16():
    """Normalisation before every convolution keeps activations from growing layer by layer."""
    model = encoder()
    for weight in model.parameters():
        if weight.dim() == 4:
            weight.mul_(200.0)
    assert bool(torch.isfinite(model.half().embed(images())).all())


def test_distinguishes_images_and_every_layer_has_gradients():
    model = SmallEncoder()
    embed_dim = model.embed(images())
    assert float((embed_dim[0] - embed_dim[1]).detach().abs().max()) > 1e-3
    embed_dim.square().sum().backward()
    assert all(float(weight.grad.abs().max()) > 0.0 for weight in model.parameters())


def test_rejects_wrong_settings_and_shapes():
    for settings, message in (({"channels": 12}, "channels"), ({"embed_dim": 0}, "embed_dim")):
        with pytest.raises(InputError, match=message):
            SmallEncoder(**settings)
    with pytest.raises(InputError, match="images to embed"):
        encoder().embed(torch.zeros(2, 1, 64, 64))
