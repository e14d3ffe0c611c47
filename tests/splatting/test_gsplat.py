"""gsplat as a backend, by a stand-in with its documented signature and conventions."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from nova3d_core.splatting import gsplat_impl
from nova3d_core.splatting.projection import project_splats
from nova3d_core.splatting.render import render_splats
from nova3d_core.splatting.torch_impl import rasterise


def rasterization(
    means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=0.01,
    far_plane=1e10, radius_clip=0.0, eps2d=0.3, sh_degree=None, packed=True, tile_size=16,
    backgrounds=None, render_mode="RGB", sparse_grad=False, absgrad=False,
    rasterize_mode="classic", channel_chunk=32, distributed=False, camera_model="pinhole",
    segmented=False, covars=None,
):  # fmt: skip
    """gsplat's parameters and results, computed by our reference.

    Returns (C, H, W, 4) colours and accumulated depth, (C, H, W, 1) alphas and the intermediate
    results, with camera axis (C, N, ...) unless packed.
    """
    assert (near_plane, render_mode, packed) == (0.01, "RGB+D", False)
    camera = SimpleNamespace(
        world_to_camera=viewmats,
        intrinsics=Ks,
        kind={"pinhole": "perspective", "ortho": "orthographic"}[camera_model],
        width=width,
        height=height,
    )
    projected = project_splats(means, scales, quats, opacities, camera, eps2d)
    channels = torch.cat([colors, projected.depths[:, None]], dim=1)
    image, transmittance = rasterise(projected, opacities, channels, width, height)
    meta = {
        "means2d": projected.means[None],
        "conics": projected.conics[None],
        "depths": projected.depths[None],
        "radii": projected.extents.ceil().int()[None],
    }
    return image[None], 1.0 - transmittance[None, ..., None], meta


@pytest.fixture
def gsplat(monkeypatch):
    module = ModuleType("gsplat")
    module.rasterization = rasterization
    monkeypatch.setitem(sys.modules, "gsplat", module)


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_gsplat_gives_the_image_and_gradients_of_the_reference(random_splats, camera, gsplat, kind):
    one = camera(kind=kind, **({"ortho_scale": 1.1} if kind == "orthographic" else {}))
    results = []
    for backend in ("gsplat", "torch"):
        given = {name: v.clone().requires_grad_() for name, v in vars(random_splats(40)).items()}
        image = render_splats(**given, camera=one, backend=backend)
        (image.on(0.3).sum() + image.depth.sum()).backward()
        results.append((image, [value.grad for value in given.values()]))
    (ours, by_ours), (reference, by_reference) = results
    assert ours.colour.shape == (21, 24, 3)
    for name in ("colour", "depth", "transmittance"):
        torch.testing.assert_close(getattr(ours, name), getattr(reference, name))
    for one, other in zip(by_ours, by_reference, strict=True):
        torch.testing.assert_close(one, other)
    assert ours.projected.extents.shape == (40, 2)
    assert ((ours.projected.extents > 0) == (reference.projected.extents > 0)).all()


def test_gsplat_runs_on_cuda_only_and_with_compiled_kernels(gsplat, monkeypatch):
    assert not gsplat_impl.runs_on(torch.device("cpu"))
    gsplat_impl._has_kernels.cache_clear()
    assert not gsplat_impl._has_kernels()  # the source package: it would compile for minutes
    gsplat_impl._has_kernels.cache_clear()
    monkeypatch.setattr(gsplat_impl, "find_spec", lambda name: object())
    assert gsplat_impl._has_kernels()
    gsplat_impl._has_kernels.cache_clear()
