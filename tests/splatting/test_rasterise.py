"""Projection and compositing: closed forms, and warp against the float64 reference."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras
from nova3d_core.splats import Splats
from nova3d_core.splatting.constants import BLUR_PX2, MAX_ALPHA, MIN_ALPHA
from nova3d_core.splatting.projection import project_splats
from nova3d_core.splatting.render import render_splats

BACKENDS = ["torch", "warp"]
FOCAL = 40.0
"""Focal length in pixels of `axis_camera`."""


@pytest.fixture(autouse=True)
def needs_warp(request):
    if "warp" in getattr(getattr(request.node, "callspec", None), "params", {}).values():
        pytest.importorskip("warp")


def axis_camera(kind="perspective") -> Cameras:
    """A camera at the origin that looks along +Z, with pixel (8, 8) centred on the axis."""
    intrinsics = torch.tensor([[[FOCAL, 0, 8.5], [0, FOCAL, 8.5], [0, 0, 1.0]]])
    return Cameras(torch.eye(4)[None], intrinsics, 17, 17, kind)


def on_axis(*depths, scale=0.05, opacity=0.6, colours=None) -> Splats:
    """Isotropic splats on the axis of `axis_camera`."""
    count = len(depths)
    return Splats(
        positions=torch.tensor([[0.0, 0.0, depth] for depth in depths]),
        scales=torch.full((count, 3), scale),
        rotations=torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4).clone(),
        opacities=torch.full((count,), opacity),
        colours=torch.eye(3)[:count] if colours is None else colours,
    )


def render(splats: Splats, camera: Cameras, backend: str):
    return render_splats(**vars(splats), camera=camera, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_centre_pixel_of_one_splat_is_its_opacity_over_the_background(backend):
    image = render(on_axis(1.0, opacity=0.6), axis_camera(), backend)
    assert image.on(0.25)[8, 8].tolist() == pytest.approx([0.6 + 0.1, 0.1, 0.1], abs=1e-6)
    assert float(image.transmittance[8, 8]) == pytest.approx(0.4, abs=1e-6)
    assert float(image.depth[8, 8]) == pytest.approx(0.6 * 1.0, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_falloff_is_the_gaussian_of_the_projected_scale(backend, kind):
    """At depth 2 a perspective camera shows the scale at half its size."""
    image = render(on_axis(2.0, scale=0.1, opacity=0.9), axis_camera(kind), backend)
    sigma_px = 0.1 * FOCAL / (2.0 if kind == "perspective" else 1.0)
    expected = 0.9 * math.exp(-0.5 * 3**2 / (sigma_px**2 + BLUR_PX2))
    for x, y in ((11, 8), (5, 8), (8, 11), (8, 5)):
        assert float(1.0 - image.transmittance[y, x]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_low_pass_filter_is_an_option(backend):
    splats = on_axis(2.0, scale=0.01, opacity=0.9)
    image = render_splats(**vars(splats), camera=axis_camera(), backend=backend, blur_px2=0.3)
    sigma_px = 0.01 * FOCAL / 2.0
    expected = 0.9 * math.exp(-0.5 / (sigma_px**2 + 0.3))
    assert float(1.0 - image.transmittance[8, 9]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_end_where_alpha_is_below_the_minimum(backend):
    image = render(on_axis(2.0, scale=0.1, opacity=0.9), axis_camera(), backend)
    radius_px = math.sqrt(2.0 * math.log(0.9 / MIN_ALPHA) * (2.0**2 + BLUR_PX2))
    y, x = torch.meshgrid(torch.arange(17), torch.arange(17), indexing="ij")
    distance = torch.hypot(x - 8.0, y - 8.0)
    assert ((image.transmittance < 1.0) == (distance <= radius_px)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_splats_are_composited_by_depth_whatever_their_order(backend, order):
    splats = on_axis(1.0, 1.5, opacity=0.6)[torch.tensor(order)]
    image = render(splats, axis_camera(), backend)
    # colours are [1, 0, 0] in front and [0, 1, 0] behind
    assert image.colour[8, 8].tolist() == pytest.approx([0.6, 0.4 * 0.6, 0.0], abs=1e-6)
    assert float(image.transmittance[8, 8]) == pytest.approx(0.4 * 0.4, abs=1e-6)
    assert float(image.depth[8, 8]) == pytest.approx(0.6 * 1.0 + 0.4 * 0.6 * 1.5, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_is_limited(backend):
    image = render(on_axis(1.0, scale=0.5, opacity=1.0), axis_camera(), backend)
    assert float(image.transmittance[8, 8]) == pytest.approx(1.0 - MAX_ALPHA, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_splats_behind_the_camera_and_off_screen_are_invisible(backend):
    splats = on_axis(-1.0, 0.005, 1.0)
    splats.positions[2, 0] = 30.0
    image = render(splats, axis_camera(), backend)
    assert (image.transmittance == 1.0).all()
    assert (image.colour == 0.0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rotated_splat_gives_the_rotated_image(backend):
    long = on_axis(1.0)
    long.scales[0] = torch.tensor([0.15, 0.03, 0.03])
    upright = Splats(**{**vars(long), "rotations": torch.tensor([[1.0, 0, 0, 1.0]])})  # 90 degrees
    image, other = (render(s, axis_camera(), backend).colour for s in (long, upright))
    torch.testing.assert_close(other, image.transpose(0, 1).flip(0), atol=1e-6, rtol=0)
    assert (image - other).abs().max() > 0.1


def test_length_of_quaternions_does_not_matter(random_splats, camera):
    splats = random_splats(50)
    scaled = {**vars(splats), "rotations": 7.0 * splats.rotations}
    images = [render_splats(**s, camera=camera(), backend="torch") for s in (vars(splats), scaled)]
    torch.testing.assert_close(images[0].colour, images[1].colour, atol=1e-6, rtol=0)


def gradients(splats: Splats, camera, backend: str, dtype: torch.dtype):
    """Image, and gradients of a random linear loss of colour, depth and transmittance."""
    parameters = {
        name: value.to(dtype).detach().requires_grad_() for name, value in vars(splats).items()
    }
    double = SimpleNamespace(
        world_to_camera=camera.world_to_camera.to(dtype),
        intrinsics=camera.intrinsics.to(dtype),
        kind=camera.kind,
        width=camera.width,
        height=camera.height,
    )
    image = render_splats(**parameters, camera=double, backend=backend)
    weights = torch.Generator().manual_seed(1)
    channels = torch.cat([image.colour, image.depth[..., None], image.transmittance[..., None]], -1)
    loss = (channels * torch.randn(channels.shape, generator=weights).to(dtype)).sum()
    return channels.detach(), torch.autograd.grad(loss, list(parameters.values()))


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
@pytest.mark.parametrize(("count", "width_px"), [(60, 24), (500, 41)])
def test_warp_equals_the_float64_reference(random_splats, camera, kind, count, width_px):
    """Also with splats off screen, behind the camera, in front of the near plane and capped."""
    pytest.importorskip("warp")
    splats = random_splats(count)
    splats.positions[:8] *= 12.0
    splats.opacities[:20] = 1.0
    one = camera(width_px, kind=kind, **({"ortho_scale": 1.1} if kind == "orthographic" else {}))
    expected, by_expected = gradients(splats, one, "torch", torch.float64)
    actual, by_actual = gradients(splats, one, "warp", torch.float32)
    assert float((expected - actual).abs().max()) < 1e-5
    for reference, ours in zip(by_expected, by_actual, strict=True):
        assert float((reference - ours).abs().max()) < 1e-4 * float(reference.abs().max())


@pytest.mark.parametrize(("count", "width_px"), [(60, 24), (500, 41)])
def test_kernels_of_gpus_equal_the_float64_reference(
    random_splats, camera, count, width_px, monkeypatch
):
    """Tiles of 16 px sorted by PyTorch and one thread per pixel, here on the CPU."""
    pytest.importorskip("warp")
    from nova3d_core.splatting import warp_impl

    splats, one = random_splats(count), camera(width_px)
    splats.opacities[:20] = 1.0
    expected, by_expected = gradients(splats, one, "torch", torch.float64)
    tiled, _ = gradients(splats, one, "warp", torch.float32)
    monkeypatch.setattr(warp_impl, "_by_tile", lambda device: False)
    actual, by_actual = gradients(splats, one, "warp", torch.float32)
    assert not torch.equal(tiled, actual)  # other kernels
    assert float((expected - actual).abs().max()) < 1e-5
    for reference, ours in zip(by_expected, by_actual, strict=True):
        assert float((reference - ours).abs().max()) < 1e-4 * float(reference.abs().max())


def test_gradients_of_the_reference_are_exact(random_splats, camera):
    splats, one = random_splats(4, scale=0.3), camera(6, 5)
    double = SimpleNamespace(
        world_to_camera=one.world_to_camera.double(),
        intrinsics=one.intrinsics.double(),
        kind=one.kind,
        width=6,
        height=5,
    )

    def image(*parameters):
        result = render_splats(*parameters, camera=double, backend="torch")
        return result.colour, result.depth, result.transmittance

    values = [value.double().requires_grad_() for value in vars(splats).values()]
    assert torch.autograd.gradcheck(image, values, eps=1e-7, atol=1e-5)


def test_thousands_of_splats_in_a_tile(random_splats, camera):
    pytest.importorskip("warp")
    splats = random_splats(3000)
    one = camera(8, 8)
    expected, _ = gradients(splats, one, "torch", torch.float64)
    actual, _ = gradients(splats, one, "warp", torch.float32)
    assert float((expected - actual).abs().max()) < 1e-5


def test_results_repeat_bit_for_bit_with_one_or_two_threads(random_splats, camera, monkeypatch):
    pytest.importorskip("warp")
    from nova3d_core.compute import warp_backend
    from nova3d_core.splatting import warp_impl

    splats, one = random_splats(800), camera(64, 61)
    monkeypatch.setattr(warp_impl, "_MIN_TILES", 1 << 30)
    first, by_first = gradients(splats, one, "warp", torch.float32)
    again, by_again = gradients(splats, one, "warp", torch.float32)
    monkeypatch.setattr(warp_impl, "_MIN_TILES", 1)
    monkeypatch.setattr(warp_backend, "_MIN_PARALLEL_THREADS", 1)
    parallel_image, by_parallel = gradients(splats, one, "warp", torch.float32)
    assert torch.equal(first, again)
    assert torch.equal(first, parallel_image)
    for a, b, c in zip(by_first, by_again, by_parallel, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_extents_contain_all_pixels_above_the_minimum(random_splats, camera):
    splats, one = random_splats(30, scale=0.2), camera(40, 40)
    projected = project_splats(
        splats.positions, splats.scales, splats.rotations, splats.opacities, one
    )
    for index in range(len(splats)):
        alone = splats[torch.tensor([index])]
        transmittance = render(alone, one, "torch").transmittance
        y, x = (transmittance < 1.0).nonzero().unbind(1)
        low = projected.means[index] - projected.extents[index]
        high = projected.means[index] + projected.extents[index]
        assert len(x) == 0 or (x.min() + 0.5 >= low[0] and x.max() + 0.5 <= high[0])
        assert len(y) == 0 or (y.min() + 0.5 >= low[1] and y.max() + 0.5 <= high[1])
