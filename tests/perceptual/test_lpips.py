"""LPIPS equals the package `lpips`, is a distance, and can be used as a loss."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.perceptual.backbones import BACKBONES, LPIPS_NETS
from nova3d_core.perceptual.lpips import Lpips

from .procedural import backbone_weights, image

REFERENCE = {
    ("alex", 64, 64, 10): (0.11902288347482681, 0.0021253107115626335),
    ("alex", 71, 96, 20): (0.10069917142391205, 0.0017367172986268997),
    ("vgg", 64, 64, 10): (0.144957035779953, 0.003196961246430874),
    ("vgg", 71, 96, 20): (0.1385146528482437, 0.0027642431668937206),
}
"""Values of lpips 0.1.4 with `backbone_weights`: (net, height, width, seed) -> distance of two
images, and of one from a mixture with a tenth of the other."""


@pytest.fixture(scope="module")
def nets() -> dict[str, Lpips]:
    return {net: Lpips(net, backbone_weights(net)) for net in LPIPS_NETS}


def pairs(height: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(2, H, W, 3) an image twice, and what it is compared with."""
    first, second = image(height, width, seed), image(height, width, seed + 5)
    return torch.stack([first, first]), torch.stack([second, 0.9 * first + 0.1 * second])


@pytest.mark.parametrize("case", REFERENCE)
def test_values_of_the_package(nets, case):
    net, *rest = case
    images, others = pairs(*rest)
    found = nets[net](images, others)
    torch.testing.assert_close(found, torch.tensor(REFERENCE[case]), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("net", LPIPS_NETS)
def test_equals_the_package_where_it_is_installed(nets, net):
    package = pytest.importorskip("lpips").LPIPS(net=net, pnet_rand=True, verbose=False)
    parameters = dict(package.net.named_parameters())
    for key, value in backbone_weights(net).items():
        (name,) = (name for name in parameters if name.split(".", 1)[1] == key)
        parameters[name].data.copy_(value)
    images, others = pairs(90, 67, 40)
    with torch.no_grad():
        expected = package(images.movedim(-1, 1), others.movedim(-1, 1), normalize=True).flatten()
    torch.testing.assert_close(nets[net](images, others), expected, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("net", LPIPS_NETS)
def test_is_a_symmetric_distance(nets, net):
    images, others = pairs(64, 64, 30)
    assert nets[net](images, images).tolist() == [0.0, 0.0]
    forward, backward = nets[net](images, others), nets[net](others, images)
    assert torch.equal(forward, backward)
    assert float(forward[0]) > 10.0 * float(forward[1]) > 0.0


def test_features_can_be_reused(nets):
    images, others = pairs(64, 64, 30)
    reused = nets["alex"].features(others)
    found = nets["alex"].distance(nets["alex"].features(images), reused)
    assert torch.equal(found, nets["alex"](images, others))


def test_gradient_is_that_of_finite_differences():
    net = Lpips("alex", backbone_weights("alex")).double()
    target, moved = image(31, 33, 3)[None].double(), image(31, 33, 9)[None].double()
    moved.requires_grad_()
    net(moved, target).sum().backward()
    direction = torch.randn(moved.shape, generator=torch.Generator().manual_seed(0)).double()
    step = 1e-7 * direction
    ahead, behind = net(moved.detach() + step, target), net(moved.detach() - step, target)
    expected = float((ahead - behind).sum()) / 2e-7
    assert float((moved.grad * direction).sum()) == pytest.approx(expected, rel=1e-5)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradient_is_finite_where_all_features_are_zero():
    weights = {key: torch.zeros_like(value) for key, value in backbone_weights("alex").items()}
    images = image(40, 40, 1)[None].requires_grad_()
    value = Lpips("alex", weights)(images, image(40, 40, 2)[None])
    value.sum().backward()
    assert float(value.detach()) == 0.0
    assert bool(images.grad.isfinite().all())


def test_half_precision_stays_close(nets):
    images, others = pairs(64, 64, 10)
    half = Lpips("alex", backbone_weights("alex")).to(torch.bfloat16)(images, others)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, nets["alex"](images, others), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("net", LPIPS_NETS)
def test_smallest_image(nets, net):
    smallest = BACKBONES[net].min_px
    images = image(smallest, smallest + 3, 5)[None]
    assert float(nets[net](images, 1.0 - images)) > 0.0
    with pytest.raises(InputError, match=rf"at least {smallest}x{smallest} px"):
        nets[net](images[:, 1:], images[:, 1:])


def test_wrong_shapes(nets):
    images = image(40, 40, 1)[None]
    with pytest.raises(InputError, match=r"images \(B, H, W, 3\)"):
        nets["alex"](images[0], images[0])
    with pytest.raises(InputError, match="cannot be compared"):
        nets["alex"](images, images[:, :32])
