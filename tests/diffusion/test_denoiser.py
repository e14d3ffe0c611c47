"""The network as a denoiser: EDM's wrapping, and guidance of each view."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.sampling.conditioning import Conditioning
from nova3d_core.diffusion.sampling.denoiser import Denoiser
from nova3d_core.diffusion.sampling.schedule import preconditioning
from nova3d_core.errors import Cancelled

from .conftest import inputs_for


def parts(unet, objects: int = 1, views: int = 5):
    """A conditioning and noisy latents for a network."""
    given = inputs_for(unet, objects, views)
    x = given["x"] * 3.0  # (D, B, V, 8, h, w)
    told = Conditioning(x[0, :, 0, 4:], given["context"], given["added"], given["camera_task"])
    return told, x[:, :, :, :4]


def count_passes(unet):
    calls = []
    hook = unet.register_forward_hook(lambda module, given, out: calls.append(given[0].shape[1]))
    return calls, hook


@pytest.mark.parametrize("network", ["svd_unet", "nova3d_unet"])
def test_guidance_is_the_formula_and_one_batch_equals_two_passes(network, request):
    unet = request.getfixturevalue(network)
    told, x = parts(unet)
    scales = torch.tensor([1.0, 1.5, 2.0, 2.5, 0.0])
    sigma = 3.0
    edm = preconditioning(sigma)
    with torch.no_grad():
        answers = []
        for each in (told, told.unconditional()):
            beside = each.latent[None, :, None].expand(len(x), -1, 5, -1, -1, -1)
            fed = torch.cat([edm.c_in * x, beside], dim=3)
            c_noise = torch.tensor([edm.c_noise])
            answers.append(unet(fed, c_noise, each.context, each.added, each.camera_task))
        with_image, without = (edm.c_skip * x + edm.c_out * answer for answer in answers)
        known = without + scales[:, None, None, None] * (with_image - without)
        in_one, in_two = (
            Denoiser(unet, told, scales, batch_cfg=batch_cfg)(x, sigma)
            for batch_cfg in (True, False)
        )
    torch.testing.assert_close(in_two, known, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(in_one, in_two, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(in_one[:, :, 0], with_image[:, :, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(in_one[:, :, 4], without[:, :, 4], atol=1e-5, rtol=1e-5)
    assert float((with_image - without).abs().max()) > 0.1


def test_the_halves_do_not_see_each_other(nova3d_unet):
    told, x = parts(nova3d_unet)
    other = Conditioning(told.latent * 5.0, told.context - 1.0, told.added, told.camera_task)
    uncond = torch.zeros(5)  # s = 0: only the half without image counts
    with torch.no_grad():
        first, second = (
            Denoiser(nova3d_unet, each, uncond, batch_cfg=True)(x, 2.0) for each in (told, other)
        )
    assert first.equal(second)


def test_passes_without_image_are_saved_where_they_do_not_count(svd_unet):
    told, x = parts(svd_unet)
    ones, some = torch.ones(5), torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0])
    calls, hook = count_passes(svd_unet)
    with torch.no_grad(), hook:
        plain = Denoiser(svd_unet, told, ones)(x, 2.0)
        assert calls == [1]
        cut = Denoiser(svd_unet, told, some, guidance_interval=(0.5, 1.9))(x, 2.0)
        assert calls == [1, 1]
        assert cut.equal(plain)
        Denoiser(svd_unet, told, some, guidance_interval=(0.5, 2.0))(x, 2.0)
        assert calls == [1, 1, 2]
        Denoiser(svd_unet, told, some, batch_cfg=False)(x, 2.0)
        assert calls == [1, 1, 2, 1, 1]


def test_too_little_memory_for_both_halves_runs_one_after_the_other(svd_unet, caplog):
    told, x = parts(svd_unet)
    scales = torch.full((5,), 2.0)

    def only_one(module, given):
        if given[0].shape[1] > 1:
            raise torch.cuda.OutOfMemoryError("no room")

    with torch.no_grad():
        known = Denoiser(svd_unet, told, scales, batch_cfg=False)(x, 2.0)
        with svd_unet.register_forward_pre_hook(only_one):
            denoiser = Denoiser(svd_unet, told, scales)
            assert denoiser(x, 2.0).equal(known)
    assert not denoiser.batch_cfg
    assert "one after the other" in caplog.text


def test_latents_stay_float32_while_the_network_computes_in_less(svd_unet):
    told, x = parts(svd_unet)
    scales = torch.full((5,), 2.0)
    seen = []
    hook = svd_unet.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    with torch.no_grad(), hook:
        fine = Denoiser(svd_unet, told, scales)(x, 2.0)
        less = told.to("cpu", torch.bfloat16)
        coarse = Denoiser(svd_unet, less, scales, torch.bfloat16)(x, 2.0)
    assert seen == [torch.float32, torch.bfloat16]
    assert coarse.dtype == torch.float32
    assert not coarse.equal(fine)
    assert float((coarse - fine).std() / fine.std()) < 0.05


def test_a_cancel_takes_effect_before_the_next_pass(svd_unet):
    told, x = parts(svd_unet)
    asked = []

    def before_pass():
        asked.append(len(calls))
        if len(asked) == 2:
            raise Cancelled("sampling")

    calls, hook = count_passes(svd_unet)
    denoiser = Denoiser(
        svd_unet, told, torch.full((5,), 2.0), batch_cfg=False, before_pass=before_pass
    )
    with torch.no_grad(), hook, pytest.raises(Cancelled):
        denoiser(x, 2.0)
    assert asked == [0, 1] and calls == [1]
