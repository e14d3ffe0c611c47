"""Muon: orthogonalised updates for hidden matrices, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.training.config import OptimiserConfig
from nova3d_core.training.muon import (
    ADAMW_RMS,
    NEWTON_SCHULZ_COEFFICIENTS,
    NEWTON_SCHULZ_STEPS,
    Muon,
    orthogonalise,
)
from nova3d_core.training.optimiser import make_optimiser, set_learning_rate
from nova3d_core.training.train_module import build_train_module

from .parts import SMALL


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 6), (5, 40), (40, 5)])
def test_keeps_singular_vectors_and_maps_singular_values_by_the_polynomial(shape):
    matrix = random(*shape).double()
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        s = a * s + b * s**3 + c * s**5
    found = orthogonalise(matrix[None])[0]
    torch.testing.assert_close(found, (u * s @ vh).float(), rtol=0, atol=2e-4)


def test_gradient_of_a_convolution_becomes_nearly_orthogonal():
    steps = orthogonalise(random(3, 24, 16 * 9))
    values = torch.linalg.svdvals(steps)
    assert float(values.min()) > 0.67
    assert float(values.max()) < 1.15


def test_batched_matrices_are_independent():
    batch = random(4, 8, 20)
    together = orthogonalise(batch)
    for index in range(4):
        torch.testing.assert_close(orthogonalise(batch[index : index + 1])[0], together[index])


def test_zero_gradient_gives_zero_update():
    assert not orthogonalise(torch.zeros(2, 4, 7)).any()


def test_matches_torchs_muon():
    """Up to bfloat16, which torch's computes in."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has no Muon before 2.9")
    ours, theirs = (torch.nn.Parameter(random(12, 30)) for _ in range(2))
    group = {"params": [ours], "orthogonal": True, "weight_decay": 0.1}
    mine = Muon([group], momentum=0.9, lr=0.02)
    reference = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    start = ours.detach().clone()
    for step in range(5):
        for weight in (ours, theirs):
            weight.grad = random(12, 30, seed=step + 1)
        mine.step()
        reference.step()
    moved = (theirs - start).norm()
    assert float((ours - theirs).detach().norm()) < 0.02 * float(moved.detach())


def test_convolution_is_updated_as_a_flat_matrix_with_adamws_rms():
    kernel = torch.nn.Parameter(random(8, 4, 3, 3))
    before = kernel.detach().clone()
    kernel.grad = random(8, 4, 3, 3, seed=1)
    Muon([{"params": [kernel], "orthogonal": True, "weight_decay": 0.0}], lr=0.5).step()
    expected = orthogonalise(kernel.grad.flatten(1)[None])[0] * 0.5 * ADAMW_RMS * 36**0.5
    torch.testing.assert_close(before - kernel.detach(), expected.view_as(before))


def test_other_groups_are_adamw_bit_for_bit():
    ours, theirs, matrix = (torch.nn.Parameter(random(5, 3)) for _ in range(3))
    mine = Muon([{"params": [ours]}, {"params": [matrix], "orthogonal": True}], lr=0.01)
    reference = torch.optim.AdamW([theirs], lr=0.01)
    for step in range(4):
        for weight in (ours, theirs, matrix):
            weight.grad = random(5, 3, seed=step)
        mine.step()
        reference.step()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, matrix)
    assert len(mine.param_groups) == 2


def test_hidden_matrices_are_orthogonalised_and_every_weight_is_in_one_group():
    module = build_train_module(SMALL)
    optimiser = make_optimiser(module, OptimiserConfig(name="muon", muon_lr_ratio=0.25))
    names = {id(weight): name for name, weight in module.named_parameters()}
    groups = [[names[id(w)] for w in group["params"]] for group in optimiser.param_groups]
    trained = [name for name, w in module.named_parameters() if w.requires_grad]
    assert sorted(name for group_names in groups for name in group_names) == sorted(trained)
    hidden = [g for g in optimiser.param_groups if g["orthogonal"]]
    assert len(hidden) == 1 and all(weight.dim() > 1 for weight in hidden[0]["params"])
    assert "unet.input_blocks.1.0.in_layers.2.weight" in groups[-1]
    for excluded in ("unet.input_blocks.0.0.weight", "unet.out.2.weight", "encoder.head.weight"):
        assert excluded in groups[0]
    set_learning_rate(optimiser, 0.4)
    assert [group["lr"] for group in optimiser.param_groups] == [0.4, 0.4, 0.1]
