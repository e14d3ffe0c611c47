"""Running out of memory while sampling, as errors other than OutOfMemoryError."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.diffusion.sampling.denoiser import Denoiser
from nova3d_core.diffusion.sampling.pipeline import sample

from .test_denoiser import parts
from .test_pipeline import QUICK, image_and_mask, small_model

AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)
FORMS = [
    AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]
EACH_FORM = pytest.mark.parametrize("error", FORMS, ids=lambda error: str(error)[:24])
OTHER = RuntimeError("CUDA error: device-side assert triggered")


def limit_batch(max_size, error, axis):
    """A hook that raises an error for batches larger than `max_size` along an axis."""

    def hook(module, given):
        if given[0].shape[axis] > max_size:
            raise error

    return hook


@EACH_FORM
def test_both_passes_run_separately(svd_unet, error):
    conditioning, x = parts(svd_unet)
    scales = torch.full((5,), 2.0)
    with torch.no_grad():
        expected = Denoiser(svd_unet, conditioning, scales, batch_cfg=False)(x, 2.0)
        with svd_unet.register_forward_pre_hook(limit_batch(1, error, 1)):
            denoiser = Denoiser(svd_unet, conditioning, scales)
            assert denoiser(x, 2.0).equal(expected)
    assert not denoiser.batch_cfg


def test_other_errors_propagate(svd_unet):
    conditioning, x = parts(svd_unet)
    hook = svd_unet.register_forward_pre_hook(limit_batch(1, OTHER, 1))
    with torch.no_grad(), hook, pytest.raises(RuntimeError) as caught:
        Denoiser(svd_unet, conditioning, torch.full((5,), 2.0))(x, 2.0)
    assert caught.value is OTHER


def test_decoding_retries_with_fewer_images(few_views):
    model, given = small_model("sv3d_u", views=5), image_and_mask()
    config = replace(QUICK, steps=1)
    whole = sample(model, *given, config).images
    with model.codec.vae.decoder.register_forward_pre_hook(limit_batch(2, FORMS[0], 0)):
        fewer = sample(model, *given, config).images
    torch.testing.assert_close(fewer, whole, atol=1e-5, rtol=0)
    hook = model.codec.vae.decoder.register_forward_pre_hook(limit_batch(2, OTHER, 0))
    with hook, pytest.raises(RuntimeError) as caught:
        sample(model, *given, config)
    assert caught.value is OTHER
