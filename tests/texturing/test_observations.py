"""The texels and samples on which views are compared."""

from __future__ import annotations

import torch

from nova3d_core.texturing.observations import Observations, group_by_view_count, subsample_texels
from nova3d_core.texturing.texels import rasterise_texels


def test_subset_of_texels_is_bounded_uniform_and_deterministic(globe, monkeypatch):
    texels = rasterise_texels(globe, 128)
    assert subsample_texels(texels, 16) is texels
    monkeypatch.setattr("nova3d_core.texturing.observations._MAX_TEXELS", 1000)
    some, again = subsample_texels(texels, 16), subsample_texels(texels, 16)
    assert torch.equal(some.index, again.index)
    assert len(some.index.unique()) == 1000
    assert bool(torch.isin(some.index, texels.index).all())
    quarters = torch.bincount(some.index // (128 * 32), minlength=4)
    assert quarters.min() > 200
    index = torch.searchsorted(texels.index, some.index)
    for name in ("face", "barycentric", "position", "normal"):
        assert torch.equal(getattr(some, name), getattr(texels, name)[index])
    monkeypatch.setattr("nova3d_core.texturing.observations._MAX_SAMPLES", 3200)
    assert len(subsample_texels(texels, 16).index) == 200


def test_groups_samples_by_number_of_views():
    texel = torch.tensor([0, 0, 1, 3, 3, 3, 4, 4, 5, 5, 5])
    nothing = torch.zeros(len(texel), 3)
    observations = Observations(6, 3, texel, *[nothing] * 7)
    groups = list(group_by_view_count(observations, 8))
    assert [group.tolist() for group in groups] == [
        [[0, 1], [6, 7]],
        [[3, 4, 5]],
        [[8, 9, 10]],
    ]
    assert [len(g) for g in group_by_view_count(observations, 1000)] == [2, 2]
