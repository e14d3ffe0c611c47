"""Analytic gradients of the ray loss against autograd."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.fusion.fields.render_output import RenderOutput
from nova3d_core.fusion.losses import LossConfig, Targets, colour_loss, ray_loss

from .reference_losses import colour_distance, normal_loss


def rays(count: int) -> tuple[RenderOutput, Targets]:
    """Random rays, some without gradient, normal, weight or conflict."""
    random = torch.Generator().manual_seed(count)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    gradient = (rand(count, 3) - 0.5) * 3.0 * rand(count, 1)
    normal = torch.nn.functional.normalize(rand(count, 3) - 0.5, dim=1)
    weight, conflict, opacity = rand(count), rand(count), rand(count)
    gradient[::7], normal[::5], weight[::3], conflict[::4] = 0.0, 0.0, 0.0, 0.0
    rendered = RenderOutput(opacity, gradient, rand(count, 3), opacity)
    normal_factor = (1.0 - conflict).clamp_min(0.3)
    targets = Targets(
        rand(count), rand(count, 3), normal, weight, rand(count, 3) + 0.5, conflict, normal_factor
    )
    return rendered, targets


@pytest.mark.parametrize("count", [1, 7, 1000])
@pytest.mark.parametrize("config", [LossConfig(), LossConfig(outlier_fraction=0.2, mask=3.7)])
def test_gradients_and_means_equal_autograd(count, config):
    rendered, targets = rays(count)
    found = ray_loss(rendered, targets, config, 0.37)
    inputs = [
        part.clone().requires_grad_(True)
        for part in (rendered.opacity, rendered.gradient, rendered.colour)
    ]
    opacity, gradient, colour = inputs
    distance = colour_distance(colour * targets.gain, targets.colour)
    weight = targets.normal_weight * targets.normal_factor
    terms = {
        "colour": colour_loss(distance, targets.conflict, 0.37),
        "normal": normal_loss(gradient, targets.normal, weight, config.outlier_fraction),
        "mask": (opacity - targets.mask).square(),
    }
    total = sum(getattr(config, name) * term.sum() for name, term in terms.items())
    expected = torch.autograd.grad(total, inputs)
    for grad, expected_grad in zip(
        (found.grad_opacity, found.grad_gradient, found.grad_colour), expected, strict=True
    ):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-7)
    assert torch.equal(found.distance, distance.detach())
    assert found.means == {name: float(term.detach().mean()) for name, term in terms.items()}
