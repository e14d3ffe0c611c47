"""The list of published files is consistent, and matches the manifests."""

from __future__ import annotations

import re

import pytest

from nova3d_core.weights.discovery.registry import FAMILY_DESCRIPTIONS, PUBLISHED_FILES

MANIFESTS = {
    "svd_xt_sgm": ("svd_xt.safetensors", "svd.safetensors", "svd_xt_1_1.safetensors"),
    "svd_xt_image_decoder_sgm": (
        "svd_xt_image_decoder.safetensors",
        "svd_image_decoder.safetensors",
    ),
    "sv3d_u_sgm": ("sv3d_u.safetensors",),
    "sv3d_p_sgm": ("sv3d_p.safetensors",),
    "v3d_512_sgm": ("V3D.ckpt",),
    "ouroboros3d_mv_model_unet": ("mv_model_unet.pth",),
    "ouroboros3d_recon_model": ("recon_model.pth",),
    "svd_xt_diffusers_unet": (
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ),
    "wonder3d_v1_diffusers_unet": ("unet/diffusion_pytorch_model.bin",),
    "wonder3d_plus_diffusers_unet": ("mvdiffusion/diffusion_pytorch_model.safetensors",),
    "svd_diffusers_vae": (
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ),
    "svd_diffusers_image_encoder": (
        "image_encoder/model.safetensors",
        "image_encoder/model.fp16.safetensors",
    ),
}


def test_every_file_has_its_own_install_path():
    paths = [published.install_path for published in PUBLISHED_FILES]
    assert len(set(paths)) == len(paths)
    assert all(
        path.endswith(published.file)
        for path, published in zip(paths, PUBLISHED_FILES, strict=True)
    )


@pytest.mark.parametrize("published", PUBLISHED_FILES, ids=lambda published: published.install_path)
def test_entries_are_consistent(published):
    assert published.family in FAMILY_DESCRIPTIONS
    assert published.folder in ("checkpoints", "diffusion_models", "nova3d")
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", published.source)
    assert published.sha256_start is None or re.fullmatch(r"[0-9a-f]{8,64}", published.sha256_start)
    assert published.bytes is None or published.bytes / 1e9 == pytest.approx(
        published.gigabytes, rel=1e-3
    )
    assert published.usage
    assert ("vae" in published.parts) == (published.decoder is not None)


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_sizes_match_the_manifests(manifest, name):
    values = sum(_product(shape) for shape in manifest(name).values())
    family = name.split("_", maxsplit=1)[0]
    checked = 0
    for published in PUBLISHED_FILES:
        if not published.family.startswith(family) or not published.gigabytes:
            continue  # files of different families may have the same name
        if published.file in MANIFESTS[name]:
            size = values * (2 if published.dtype == "float16" else 4)
            assert published.gigabytes * 1e9 == pytest.approx(size, rel=5e-3)
            checked += 1
    assert checked >= len(MANIFESTS[name])


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
