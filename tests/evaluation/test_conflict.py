from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.metrics.conflict import area_under_roc, conflict_metrics
from nova3d_core.evaluation.perturbations import render_perturbed_views

V, H, W = 4, 12, 10


@pytest.fixture
def masks() -> Tensor:
    """An object that fills the image except a border."""
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


def test_auc_of_perfect_inverted_and_constant_maps(masks, blobs):
    perfect = blobs.float() * 0.8 + 0.1
    assert conflict_metrics(perfect, blobs, masks).auc == 1.0
    assert conflict_metrics(1.0 - perfect, blobs, masks).auc == 0.0
    assert conflict_metrics(torch.full_like(perfect, 0.3), blobs, masks).auc == 0.5


def test_auc_is_the_unweighted_mean_over_views_with_a_blob(masks, blobs):
    half_right = blobs.float()
    half_right[3] = 0.0  # view 1 perfect, view 3 uninformative
    half_right[0, 5, 5] = 1.0  # a false positive in a view without a blob
    metrics = conflict_metrics(half_right, blobs, masks)
    assert metrics.auc_by_view == {1: 1.0, 3: 0.5}
    assert metrics.auc == 0.75


def test_auc_is_the_fraction_of_ordered_pairs_with_ties_half():
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
    # a monotonic map does not change the score
    stretched = area_under_roc(scores.exp(), positive)
    assert stretched == area_under_roc(scores, positive)


def test_ignores_pixels_outside_the_object(masks, blobs):
    perfect = blobs.float()
    noisy_outside = torch.where(masks > 0.5, perfect, 1.0)
    plain, other = (conflict_metrics(each, blobs, masks) for each in (perfect, noisy_outside))
    assert other == plain
    outside = blobs.clone()
    outside[1, 0] = outside[2, 0] = True  # one extends beyond the object, one is next to it
    assert conflict_metrics(perfect, outside, masks) == plain
    soft = masks * 0.6
    soft[:, 2] = 0.4
    # the row below the threshold had conflict 0
    assert conflict_metrics(perfect, blobs, soft).mean > plain.mean


def test_means_and_fraction_of_high_values(masks):
    no_blobs = torch.zeros(V, H, W, dtype=torch.bool)
    conflict = torch.full((V, H, W), 0.2)
    conflict[0] = 0.1
    conflict[2, 2:4, 2:-2] = 0.9  # two of eight rows
    conflict[2, 4, 2:-2] = 0.5  # not above it
    metrics = conflict_metrics(conflict, no_blobs, masks)
    assert metrics.auc is None
    assert metrics.auc_by_view == {}
    assert metrics.mean_view0 == pytest.approx(0.1)
    third_view = (2 * 0.9 + 0.5 + 5 * 0.2) / 8
    assert metrics.mean == pytest.approx((0.1 + 0.2 + third_view + 0.2) / 4)
    assert metrics.high_fraction == pytest.approx(2 / 8 / V)


def test_view_whose_object_is_all_blob_has_no_auc(masks, blobs):
    blobs[1] = masks[1] > 0.5
    assert list(conflict_metrics(torch.rand(V, H, W), blobs, masks).auc_by_view) == [3]


def test_no_foreground_gives_no_metrics(blobs):
    metrics = conflict_metrics(torch.zeros(V, H, W), blobs, torch.zeros(V, H, W))
    assert metrics.auc is metrics.mean is metrics.mean_view0 is metrics.high_fraction is None


def test_difference_from_clean_views_detects_the_blobs(l_solid):
    cameras = orbit_cameras(RigConfig(count=8, width_px=64, height_px=64))
    config = PerturbationConfig("conflict", supersample=2, gain_range=0.0)
    perturbed = render_perturbed_views(l_solid, cameras, config)
    clean = render_perturbed_views(l_solid, cameras, PerturbationConfig("clean", supersample=2))
    difference = (perturbed.views.colour - clean.views.colour).norm(dim=-1).clamp(0.0, 1.0)
    metrics = conflict_metrics(difference, perturbed.blob_masks, perturbed.views.masks)
    assert len(metrics.auc_by_view) == config.blob_views
    assert metrics.auc > 0.98
    assert metrics.mean_view0 == 0.0
    assert json.loads(json.dumps(metrics.to_dict()))["auc"] == metrics.auc


def test_rejects_invalid_maps(masks, blobs):
    with pytest.raises(InputError, match=r"blob_masks has shape \(3, 12, 10\)"):
        conflict_metrics(masks, blobs[:3], masks)
    broken = masks.clone()
    broken[2, 5, 5] = torch.nan
    with pytest.raises(InputError, match="conflict has 1 values that are NaN"):
        conflict_metrics(broken, blobs, masks)
    with pytest.raises(InputError, match="conflict has values from 0 to 2"):
        conflict_metrics(2 * masks, blobs, masks)
