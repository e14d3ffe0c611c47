"""The denoiser: EDM preconditioning and per-view guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.diffusion.sampling.conditioning import Conditioning
from nova3d_core.diffusion.sampling.denoiser import Denoiser
from nova3d_core.diffusion.sampling.schedule import preconditioning
from nova3d_core.errors import Cancelled

from .conftest import inputs_for


def parts(unet, objects: int = 1, views: int = 5):
    """Conditioning and noisy latents for a network."""
    given = inputs_for(unet, objects, views)
    x = given["x"] * 3.0  # (D, B, V, 8, h, w)
    conditioning = Conditioning(
        x[0, :, 0, 4:], given["context"], given["added_embeds"], given["camera_task"]
    )
    return conditioning, x[:, :, :, :4]


def count_passes(unet):
    calls = []
    hook = unet.register_forward_hook(lambda module, given, out: calls.append(given[0].shape[1]))
    return calls, hook


@pytest.mark.parametrize("network", ["svd_unet", "nova3d_unet"])
def test_guidance_matches_formula_batched_or_not(network, request):
    unet = request.getfixturevalue(network)
    conditioning, x = parts(unet)
    scales = torch.tensor([1.0, 1.5, 2.0, 2.5, 0.0])
    sigma = 3.0
    edm = preconditioning(sigma)
    with torch.no_grad():
        outputs = []
        for each in (conditioning, conditioning.unconditional()):
            latent = each.latent[None, :, None].expand(len(x), -1, 5, -1, -1, -1)
            unet_input = torch.cat([edm.c_in * x, latent], dim=3)
            c_noise = torch.tensor([edm.c_noise])
            outputs.append(
                unet(unet_input, c_noise, each.context, each.added_embeds, each.camera_task)
            )
        cond, uncond = (edm.c_skip * x + edm.c_out * out for out in outputs)
        expected = uncond + scales[:, None, None, None] * (cond - uncond)
        batched, separate = (
            Denoiser(unet, conditioning, scales, batch_cfg=batch_cfg)(x, sigma)
            for batch_cfg in (True, False)
        )
    torch.testing.assert_close(separate, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batched, separate, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batched[:, :, 0], cond[:, :, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batched[:, :, 4], uncond[:, :, 4], atol=1e-5, rtol=1e-5)
    assert float((cond - uncond).abs().max()) > 0.1


def test_batched_passes_are_independent(nova3d_unet):
    conditioning, x = parts(nova3d_unet)
    other = replace(
        conditioning, latent=conditioning.latent * 5.0, context=conditioning.context - 1.0
    )
    zeros = torch.zeros(5)  # s = 0: only the unconditional pass counts
    with torch.no_grad():
        first, second = (
            Denoiser(nova3d_unet, each, zeros, batch_cfg=True)(x, 2.0)
            for each in (conditioning, other)
        )
    assert first.equal(second)


def test_unconditional_pass_is_skipped_without_guidance(svd_unet):
    conditioning, x = parts(svd_unet)
    ones, some = torch.ones(5), torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0])
    calls, hook = count_passes(svd_unet)
    with torch.no_grad(), hook:
        plain = Denoiser(svd_unet, conditioning, ones)(x, 2.0)
        assert calls == [1]
        outside = Denoiser(svd_unet, conditioning, some, guidance_interval=(0.5, 1.9))(x, 2.0)
        assert calls == [1, 1]
        assert outside.equal(plain)
        Denoiser(svd_unet, conditioning, some, guidance_interval=(0.5, 2.0))(x, 2.0)
        assert calls == [1, 1, 2]
        Denoiser(svd_unet, conditioning, some, batch_cfg=False)(x, 2.0)
        assert calls == [1, 1, 2, 1, 1]


def test_out_of_memory_runs_both_passes_separately(svd_unet, caplog):
    conditioning, x = parts(svd_unet)
    scales = torch.full((5,), 2.0)

    def reject_batches(module, given):
        if given[0].shape[1] > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")

    with torch.no_grad():
        expected = Denoiser(svd_unet, conditioning, scales, batch_cfg=False)(x, 2.0)
        with svd_unet.register_forward_pre_hook(reject_batches):
            denoiser = Denoiser(svd_unet, conditioning, scales)
            assert denoiser(x, 2.0).equal(expected)
    assert not denoiser.batch_cfg
    assert "one after the other" in caplog.text


def test_latents_stay_in_float32_with_a_half_precision_network(svd_unet):
    conditioning, x = parts(svd_unet)
    scales = torch.full((5,), 2.0)
    dtypes = []
    hook = svd_unet.register_forward_pre_hook(lambda module, given: dtypes.append(given[0].dtype))
    with torch.no_grad(), hook:
        fine = Denoiser(svd_unet, conditioning, scales)(x, 2.0)
        converted = conditioning.to("cpu", torch.bfloat16)
        coarse = Denoiser(svd_unet, converted, scales, torch.bfloat16)(x, 2.0)
    assert dtypes == [torch.float32, torch.bfloat16]
    assert coarse.dtype == torch.float32
    assert not coarse.equal(fine)
    assert float((coarse - fine).std() / fine.std()) < 0.05


def test_cancel_takes_effect_before_the_next_pass(svd_unet):
    conditioning, x = parts(svd_unet)
    checks = []

    def before_forward():
        checks.append(len(calls))
        if len(checks) == 2:
            raise Cancelled("sampling")

    calls, hook = count_passes(svd_unet)
    denoiser = Denoiser(
        svd_unet,
        conditioning,
        torch.full((5,), 2.0),
        batch_cfg=False,
        before_forward=before_forward,
    )
    with torch.no_grad(), hook, pytest.raises(Cancelled):
        denoiser(x, 2.0)
    assert checks == [0, 1] and calls == [1]
