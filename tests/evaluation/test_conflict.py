from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.evaluation.config import ConditionConfig
from nova3d_core.evaluation.metrics.conflict import area_under_roc, conflict_auc
from nova3d_core.evaluation.perturbations import make_condition

V, H, W = 4, 12, 10


@pytest.fixture
def masks() -> Tensor:
    """An object that fills all but a border."""
    masks = torch.zeros(V, H, W)
    masks[:, 2:-2, 2:-2] = 1.0
    return masks


@pytest.fixture
def blobs() -> Tensor:
    """Blobs in views 1 and 3."""
    blobs = torch.zeros(V, H, W, dtype=torch.bool)
    blobs[1, 3:5, 3:6] = True
    blobs[3, 6:9, 2:4] = True
    return blobs


def test_a_perfect_map_scores_1_its_inverse_0_and_a_constant_one_half(masks, blobs):
    perfect = blobs.float() * 0.8 + 0.1
    assert conflict_auc(perfect, blobs, masks).auc == 1.0
    assert conflict_auc(1.0 - perfect, blobs, masks).auc == 0.0
    assert conflict_auc(torch.full_like(perfect, 0.3), blobs, masks).auc == 0.5


def test_only_views_with_a_blob_count_and_each_counts_the_same(masks, blobs):
    half_right = blobs.float()
    half_right[3] = 0.0  # view 1 perfect, view 3 without a clue
    half_right[0, 5, 5] = 1.0  # a false alarm in a view without a blob
    figures = conflict_auc(half_right, blobs, masks)
    assert figures.auc_by_view == {1: 1.0, 3: 0.5}
    assert figures.auc == 0.75


def test_the_rank_statistic_is_the_share_of_pairs_in_order_with_ties_half():
    scores = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.4], dtype=torch.float64)
    positive = torch.tensor([False, True, False, True, False])
    # pairs: .4 beats .1, ties .4 and .4; .8 beats all three: (1 + .5 + .5 + 3) / 6
    assert area_under_roc(scores, positive) == pytest.approx(5 / 6)
    random = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 9, (200,), generator=random).double()
    positive = torch.rand(200, generator=random) < 0.3
    a, b = scores[positive][:, None], scores[~positive][None]
    pairs = (a > b).double() + 0.5 * (a == b).double()
    assert area_under_roc(scores, positive) == pytest.approx(float(pairs.mean()), abs=1e-12)
    # any map that keeps the order scores the same
    stretched = area_under_roc(scores.exp(), positive)
    assert stretched == area_under_roc(scores, positive)


def test_pixels_outside_the_object_do_not_count(masks, blobs):
    perfect = blobs.float()
    noisy_outside = torch.where(masks > 0.5, perfect, 1.0)
    plain, other = (conflict_auc(each, blobs, masks) for each in (perfect, noisy_outside))
    assert other == plain
    spilt = blobs.clone()
    spilt[1, 0] = spilt[2, 0] = True  # one reaches out of the object, one lies beside it
    assert conflict_auc(perfect, spilt, masks) == plain
    soft = masks * 0.6
    soft[:, 2] = 0.4
    assert conflict_auc(perfect, blobs, soft).mean > plain.mean  # the row that is left out was 0


def test_means_and_share_of_high_values(masks):
    nowhere = torch.zeros(V, H, W, dtype=torch.bool)
    conflict = torch.full((V, H, W), 0.2)
    conflict[0] = 0.1
    conflict[2, 2:4, 2:-2] = 0.9  # two of eight rows
    conflict[2, 4, 2:-2] = 0.5  # not above it
    figures = conflict_auc(conflict, nowhere, masks)
    assert figures.auc is None
    assert figures.auc_by_view == {}
    assert figures.mean_view0 == pytest.approx(0.1)
    third = (2 * 0.9 + 0.5 + 5 * 0.2) / 8
    assert figures.mean == pytest.approx((0.1 + 0.2 + third + 0.2) / 4)
    assert figures.share_high == pytest.approx(2 / 8 / V)


def test_a_blob_over_the_whole_object_leaves_nothing_to_tell_it_from(masks, blobs):
    blobs[1] = masks[1] > 0.5
    assert list(conflict_auc(torch.rand(V, H, W), blobs, masks).auc_by_view) == [3]


def test_no_foreground_at_all_has_no_figures(blobs):
    figures = conflict_auc(torch.zeros(V, H, W), blobs, torch.zeros(V, H, W))
    assert figures.auc is figures.mean is figures.mean_view0 is figures.share_high is None


def test_the_benchmarks_blobs_are_found_by_the_difference_from_clean_views(l_solid):
    cameras = orbit_cameras(RigConfig(count=8, width_px=64, height_px=64))
    config = ConditionConfig("conflict", supersample=2, gain_range=0.0)
    made = make_condition(l_solid, cameras, config)
    clean = make_condition(l_solid, cameras, ConditionConfig("clean", supersample=2))
    off = (made.views.colour - clean.views.colour).norm(dim=-1).clamp(0.0, 1.0)
    figures = conflict_auc(off, made.blob_masks, made.views.masks)
    assert len(figures.auc_by_view) == config.blob_views
    assert figures.auc > 0.98
    assert figures.mean_view0 == 0.0
    assert json.loads(json.dumps(figures.to_dict()))["auc"] == figures.auc


def test_maps_that_do_not_fit_are_refused(masks, blobs):
    with pytest.raises(InputError, match=r"blob_masks has shape \(3, 12, 10\)"):
        conflict_auc(masks, blobs[:3], masks)
    broken = masks.clone()
    broken[2, 5, 5] = torch.nan
    with pytest.raises(InputError, match="conflict has 1 values that are NaN"):
        conflict_auc(broken, blobs, masks)
    with pytest.raises(InputError, match="conflict has values from 0 to 2"):
        conflict_auc(2 * masks, blobs, masks)
