"""The sample of texels that the views are compared on."""

from __future__ import annotations

import torch

from nova3d_core.texturing.observations import Survey, for_each_count, survey_texels
from nova3d_core.texturing.texels import texels_of


def test_the_sample_is_bounded_spread_and_the_same_each_time(globe, monkeypatch):
    texels = texels_of(globe, 128)
    assert survey_texels(texels, 16) is texels
    monkeypatch.setattr("nova3d_core.texturing.observations._MOST_TEXELS", 1000)
    some, again = survey_texels(texels, 16), survey_texels(texels, 16)
    assert torch.equal(some.index, again.index)
    assert len(some.index.unique()) == 1000
    assert bool(torch.isin(some.index, texels.index).all())
    quarters = torch.bincount(some.index // (128 * 32), minlength=4)
    assert quarters.min() > 200
    place = torch.searchsorted(texels.index, some.index)
    for name in ("face", "barycentric", "position", "normal"):
        assert torch.equal(getattr(some, name), getattr(texels, name)[place])
    monkeypatch.setattr("nova3d_core.texturing.observations._MOST_SAMPLES", 3200)
    assert len(survey_texels(texels, 16).index) == 200


def test_texels_come_in_groups_of_as_many_views():
    texel = torch.tensor([0, 0, 1, 3, 3, 3, 4, 4, 5, 5, 5])
    nothing = torch.zeros(len(texel), 3)
    survey = Survey(6, 3, texel, *[nothing] * 7)
    groups = list(for_each_count(survey, 8))
    assert [group.tolist() for group in groups] == [
        [[0, 1], [6, 7]],
        [[3, 4, 5]],
        [[8, 9, 10]],
    ]
    assert [len(g) for g in for_each_count(survey, 1000)] == [2, 2]
