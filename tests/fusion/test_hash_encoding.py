"""The hash encoding: its definition, continuity, derivatives, and window."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from nova3d_core.errors import InputError, MissingDependencyError
from nova3d_core.fusion.fields.hashgrid.encoding import (
    HashEncoding,
    TcnnEncoding,
    cosine_window,
    level_resolutions,
)

from .random_points import random_unit_cube


def reference_encoding(encoding: HashEncoding, point: list[float]) -> list[float]:
    """Encoding of one position in plain Python: x, then each level's features times its weight."""
    values = [2.0 * c - 1.0 for c in point]
    for resolution, weight, table in zip(
        encoding.resolutions, encoding.weights, encoding.tables, strict=True
    ):
        cell = [min(int(c * resolution), resolution - 1) for c in point]
        share = [c * resolution - k for c, k in zip(point, cell, strict=True)]
        total = [0.0] * table.shape[0]
        for corner in itertools.product((0, 1), repeat=3):
            x, y, z = (k + bit for k, bit in zip(cell, corner, strict=True))
            entries = table.shape[1]
            if (resolution + 1) ** 3 <= entries:
                index = (x * (resolution + 1) + y) * (resolution + 1) + z
            else:
                index = (x ^ (y * 2654435761) ^ (z * 805459861)) % entries
            part = math.prod(s if bit else 1.0 - s for s, bit in zip(share, corner, strict=True))
            total = [t + part * float(table[f, index].detach()) for f, t in enumerate(total)]
        values += [weight * t for t in total]
    return values


def random_encoding(**sizes) -> HashEncoding:
    encoding = HashEncoding(
        **{
            "num_levels": 4,
            "log2_hashmap_size": 10,
            "base_res": 4,
            "max_res": 50,
            **sizes,
        }
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for table in encoding.tables:
            table.copy_(torch.randn(table.shape, generator=generator))
    return encoding


def test_encoding_matches_its_definition():
    encoding = random_encoding()
    encoding.set_window([1.0, 1.0, 0.3, 0.0])
    dense = [(n + 1) ** 3 <= 2**10 for n in encoding.resolutions]
    assert dense == [True, True, False, False]  # dense and hashed levels
    points = torch.cat([random_unit_cube(40), torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]])])
    truth = torch.tensor([reference_encoding(encoding, p.tolist()) for p in points])
    found = encoding(points)
    assert found.shape == (len(points), encoding.out_dim)
    torch.testing.assert_close(found, truth, atol=2e-5, rtol=0)
    coarse = encoding(points, num_levels=2)
    torch.testing.assert_close(coarse[:, :7], found[:, :7])
    assert not coarse[:, 7:].any()


def test_encoding_is_continuous_and_clamped_at_the_border():
    encoding = random_encoding()
    for resolution in encoding.resolutions:
        on_face = random_unit_cube(50)
        on_face[:, 0] = torch.randint(1, resolution, (50,)) / resolution
        step = torch.tensor([1e-6, 0.0, 0.0])
        jump = encoding(on_face + step) - encoding(on_face - step)
        assert jump.abs().max() < 5e-3  # gradients are below 50 cells times the largest entry
    beyond = torch.tensor([[1.4, 0.3, -0.2]])
    border = torch.tensor([[1.0, 0.3, 0.0]])
    torch.testing.assert_close(encoding(beyond), encoding(border))


def test_encoding_is_twice_differentiable():
    encoding = random_encoding().double()
    points = random_unit_cube(6, seed=5).double().requires_grad_()
    table = encoding.tables[2]

    def gradient_energy(points: Tensor) -> Tensor:
        value = encoding(points).square().sum()
        return torch.autograd.grad(value, points, create_graph=True)[0].square().sum()

    energy = gradient_energy(points)
    by_points, by_table = torch.autograd.grad(energy, [points, table])
    step = 1e-6 * torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    change = gradient_energy((points + step).detach().requires_grad_()) - gradient_energy(
        (points - step).detach().requires_grad_()
    )
    torch.testing.assert_close(change, 2 * (by_points * step).sum(), rtol=1e-5, atol=1e-9)
    direction = torch.zeros_like(table)
    entry = by_table[0].abs().argmax()
    assert by_table[0, entry] != 0
    direction[0, entry] = 1e-6
    with torch.no_grad():
        table += direction
    above = gradient_energy(points)
    with torch.no_grad():
        table -= 2 * direction
    torch.testing.assert_close(
        above - gradient_energy(points), 2e-6 * by_table[0, entry], rtol=1e-5, atol=1e-9
    )


def test_cosine_window_opens_from_coarse_to_fine():
    resolutions = level_resolutions(7, 16, 256)
    assert resolutions[0] == 16 and resolutions[-1] == 256
    previous = cosine_window(resolutions, 8)
    for resolution in range(10, 300, 2):
        window = cosine_window(resolutions, resolution)
        assert window[0] == 1.0
        for level, weight in enumerate(window):
            assert (weight == 1.0) == (resolution >= resolutions[level] or level == 0)
            before = resolutions[level - 1] if level else 0
            assert (weight == 0.0) == (resolution <= before)
            assert previous[level] <= weight <= previous[level] + 0.35  # no jump
        previous = window
    middle = math.sqrt(resolutions[3] * resolutions[4])
    assert cosine_window(resolutions, middle)[4] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "sizes",
    [
        {"log2_hashmap_size": 2},
        {"features_per_level": 0},
        {"num_levels": 0},
        {"base_res": 64, "max_res": 32},
    ],
)
def test_refuses_invalid_encoding_sizes(sizes):
    with pytest.raises(InputError, match="hash encoding"):
        HashEncoding(**sizes)


def test_missing_tinycudann_is_named():
    try:
        import tinycudann  # noqa: F401
    except (ImportError, OSError):
        with pytest.raises(MissingDependencyError, match="tinycudann"):
            TcnnEncoding()
    else:
        assert TcnnEncoding().out_dim == 23
