"""The CLIP image encoder against transformers, and its preprocessing against SVD's."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from nova3d_core.diffusion.codecs.clip import (
    CLIP_MEAN,
    CLIP_STD,
    ClipEncoder,
    build_clip,
    clip_pixel_values,
    resize_antialiased,
)
from nova3d_core.diffusion.codecs.clip_config import ClipConfig
from nova3d_core.errors import InputError

SHAPE = ClipConfig(64, 96, 3, 4, 24, 28, 14)


@pytest.fixture(scope="module")
def reference() -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=24,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",
    )
    clip = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.normal_(0, 0.3)
    return clip


@pytest.fixture(scope="module")
def encoder(reference) -> ClipEncoder:
    clip = build_clip(SHAPE)
    clip.load_state_dict(reference.state_dict(), assign=True)
    return ClipEncoder(clip).eval().requires_grad_(False)


def test_equals_transformers_model(encoder, reference):
    images = torch.rand(3, 3, 28, 28) * 2 - 1
    mean, deviation = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    pixel_values = ((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        expected = reference(pixel_values=pixel_values).image_embeds
    embedded = encoder.embed(images)
    assert embedded.shape == (3, 1, 24)
    assert torch.equal(embedded[:, 0], expected)


def test_no_tensor_remains_on_the_meta_device(encoder):
    assert not any(value.is_meta for value in (*encoder.parameters(), *encoder.buffers()))


@pytest.mark.parametrize("size", [(512, 512), (300, 700), (225, 230), (100, 900), (37, 41)])
def test_resizing_matches_diffusers_pipeline(size):
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion

    images = torch.rand(2, 3, *size) * 2 - 1
    expected = pipeline_stable_video_diffusion._resize_with_antialiasing(images, (224, 224))
    assert torch.allclose(resize_antialiased(images, 224, 224), expected, atol=2e-6)


def test_resizing_to_the_same_size_is_a_no_op():
    images = torch.rand(1, 3, 20, 30)
    assert resize_antialiased(images, 20, 30) is images


def test_downsampling_preserves_symmetry_and_constant_colours():
    constant = torch.tensor([0.3, -0.2, 0.9])[None, :, None, None].expand(1, 3, 500, 400)
    shrunk = resize_antialiased(constant, 224, 224)
    assert torch.allclose(shrunk, constant[..., :224, :224], atol=1e-5)
    image = torch.rand(1, 3, 512, 512)
    transposed = resize_antialiased(image.transpose(2, 3), 224, 224).transpose(2, 3)
    assert torch.allclose(resize_antialiased(image, 224, 224), transposed, atol=1e-5)
    mirrored = resize_antialiased(image.flip(3), 224, 224).flip(3)
    assert torch.allclose(resize_antialiased(image, 224, 224), mirrored, atol=1e-4)


def test_preprocessing_crops_nothing():
    """A change in any corner of the image changes the encoder's input."""
    image = torch.zeros(1, 3, 64, 128)
    before = clip_pixel_values(image, 28)
    for row in (0, -1):
        for column in (0, -1):
            changed = image.clone()
            changed[..., row, column] = 1.0
            corner = (clip_pixel_values(changed, 28) - before)[0, 0].abs()
            assert corner[row, column] == corner.max() > 0.05


def test_half_precision_weights_are_close(encoder, reference):
    half = build_clip(SHAPE)
    half.load_state_dict(
        {name: value.bfloat16() for name, value in reference.state_dict().items()}, assign=True
    )
    images = torch.rand(2, 3, 50, 50) * 2 - 1
    with torch.no_grad():
        got = ClipEncoder(half).embed(images)
    assert got.dtype == torch.float32
    expected = encoder.embed(images)
    assert (got - expected).norm() < 0.05 * expected.norm()


def test_rejects_wrong_shape(encoder):
    with pytest.raises(InputError, match="the images to embed has shape"):
        encoder.embed(torch.zeros(3, 64, 64))
