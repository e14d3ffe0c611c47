"""The conflict model on synthetic colour distances with known conflicts."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.fusion.config import ConflictConfig
from nova3d_core.fusion.conflict.maps import ConflictMaps
from nova3d_core.fusion.losses import free_conflict

V, PX = 6, 64
CLEAN, WRONG = 0.02, 0.6


def make_model(**config):
    cameras = orbit_cameras(RigConfig(count=V, width_px=PX, height_px=PX))
    return ConflictMaps(cameras, ConflictConfig(**config))


@pytest.fixture(scope="module")
def pixels():
    """All pixels of all views: view (N,), pixel (N, 2)."""
    view, row, column = torch.ones(V, PX, PX).nonzero().unbind(dim=1)
    return view, torch.stack([column, row], dim=1) + 0.5


def blob(*views, side=20):
    """(V, H, W) bool: a square patch in some views."""
    where = torch.zeros(V, PX, PX, dtype=torch.bool)
    for view in views:
        where[view, 12 : 12 + side, 30 : 30 + side] = True
    return where


def fit(model, pixels, distances, steps=60, masks=None):
    """Optimises the model on random rays, like a fusion."""
    view, pixel = pixels
    masks = torch.ones(V, PX, PX) if masks is None else masks
    random = torch.Generator().manual_seed(0)
    for step in range(steps):
        ids = torch.randperm(len(view), generator=random)[: len(view) // 4]
        values = (distances.reshape(-1)[ids], masks.reshape(-1)[ids])
        model.step(view[ids], pixel[ids], *values, 0.3 + 0.7 * (step + 1) / steps)
    return model


def area_under_curve(score, truth):
    """AUC: the probability that a true pixel scores above a false one; ties count half."""
    order = score.double().flatten()
    truth = truth.flatten()
    wrong = order[truth][:, None]
    right = order[~truth][:: max(1, int((~truth).sum()) // 2000)][None]
    return float((wrong > right).double().mean() + 0.5 * (wrong == right).double().mean())


def test_mode_off_has_no_conflict(pixels):
    distances = torch.full((V, PX, PX), WRONG)
    model = fit(make_model(mode="off"), pixels, distances)
    assert model.maps().shape == (V, PX, PX) and (model.maps() == 0).all()
    assert (model.at(*pixels, distances.flatten(), 1.0) == 0).all()


def test_mode_robust_is_the_closed_form_of_eq_5(pixels):
    distances = torch.rand(V, PX, PX, generator=torch.Generator().manual_seed(1))
    model = make_model(mode="robust")
    for done in (0.3, 0.6, 1.0):
        expected = free_conflict(distances.flatten(), model.lambda0(done))
        assert torch.equal(model.at(*pixels, distances.flatten(), done), expected)
    view, pixel = pixels
    model.step(view, pixel, distances.flatten(), torch.ones(len(view)), 1.0)
    assert torch.equal(model.maps(), free_conflict(distances, 0.2))


def test_lambda0_decays_exponentially_after_the_start_fraction():
    model = make_model(start_fraction=0.3, lambda0_start=1.0, lambda0_end=0.2)
    assert [model.lambda0(done) for done in (0.0, 0.2, 0.3)] == [1.0] * 3
    assert model.lambda0(1.0) == pytest.approx(0.2)
    assert model.lambda0(0.65) == pytest.approx((1.0 * 0.2) ** 0.5)
    assert make_model(start_fraction=1.0).lambda0(0.99) == 1.0


@pytest.mark.parametrize("mode", ["model", "robust"])
def test_conflict_is_zero_before_the_start_fraction(mode, pixels):
    model = make_model(mode=mode, start_fraction=0.5)
    view, pixel = pixels
    distance = torch.full((len(view),), WRONG)
    model.step(view, pixel, distance, torch.ones(len(view)), 0.4)
    assert (model.at(view, pixel, distance, 0.49) == 0).all()
    after = model.at(view, pixel, distance, 0.5)
    assert (after > 0).all()
    if mode == "model":  # H keeps its initial value everywhere
        torch.testing.assert_close(after, torch.sigmoid(torch.full_like(after, -4.0)))


@pytest.fixture(scope="module")
def one_culprit(pixels):
    """View 2 contradicts the others in a patch."""
    where = blob(2)
    distances = torch.where(where, WRONG, CLEAN)
    return fit(make_model(), pixels, distances), where, distances


def test_model_finds_the_contradicting_patch(one_culprit):
    model, where, _ = one_culprit
    maps = model.maps()
    assert maps.shape == (V, PX, PX) and maps.min() >= 0 and maps.max() <= 1
    assert area_under_curve(maps, where) > 0.95
    assert maps[2][where[2]].mean() > 0.5
    # elsewhere H is the minimum of eq. 5 for a small distance, with lambda0 = 0.2
    others = [view for view in range(V) if view != 2]
    assert (maps[others] - CLEAN / (2 * 0.2)).abs().max() < 0.01
    assert maps[2][~blob(2, side=28)[2]].mean() < 0.1


def test_maps_equal_the_conflict_of_rays(one_culprit, pixels):
    model, _, distances = one_culprit
    per_ray = model.at(*pixels, distances.flatten(), 1.0).reshape(V, PX, PX)
    # at the image border both interpolations differ slightly
    torch.testing.assert_close(per_ray, model.maps(), atol=1e-2, rtol=0)


def test_maps_of_non_square_images_align_with_pixels():
    cameras = orbit_cameras(RigConfig(count=2, width_px=80, height_px=40))
    model = ConflictMaps(cameras, ConflictConfig())
    view, row, column = torch.ones(2, 40, 80).nonzero().unbind(dim=1)
    pixel = torch.stack([column, row], dim=1) + 0.5
    where = torch.zeros(2, 40, 80, dtype=torch.bool)
    where[1, 4:20, 56:72] = True
    distance = torch.where(where, WRONG, CLEAN).flatten()
    for _ in range(60):
        model.step(view, pixel, distance, torch.ones(len(view)), 1.0)
    assert area_under_curve(model.maps(), where) > 0.95
    assert model.maps().shape == (2, 40, 80)


def test_view_0_stays_below_front_view_max(pixels):
    distances = torch.where(blob(0, 3), WRONG, CLEAN)
    model = fit(make_model(front_view_max=0.1, mean_budget=1.0), pixels, distances)
    per_ray = model.at(*pixels, distances.flatten(), 1.0).reshape(V, PX, PX)
    for maps in (model.maps(), per_ray):
        assert maps[0].max() == pytest.approx(0.1)
        assert maps[3].max() > 0.5


def test_budget_limits_the_mean_conflict_of_a_view(pixels):
    distances = torch.full((V, PX, PX), CLEAN)
    distances[4] = WRONG
    tight, free = (fit(make_model(mean_budget=b), pixels, distances).maps() for b in (0.15, 1.0))
    assert free[4].mean() > 0.9
    assert tight[4].mean() < 0.5 * free[4].mean()
    assert tight[1:4].mean() < 0.06


def test_background_does_not_change_the_maps(pixels):
    masks = torch.zeros(V, PX, PX)
    model = fit(make_model(), pixels, torch.full((V, PX, PX), WRONG), 20, masks)
    start = float(torch.sigmoid(torch.tensor(-4.0)))
    assert (model.maps()[1:] - start).abs().max() < 1e-6


def test_no_gradient_flows_through_conflict(one_culprit, pixels):
    model, _, _ = one_culprit
    view, pixel = pixels
    distance = torch.full((len(view),), 0.3)
    assert not model.at(view, pixel, distance, 1.0).requires_grad
    assert not model.maps().requires_grad
    fresh = make_model()
    fresh.step(view, pixel, distance, torch.ones(len(view)), 1.0)
    assert not fresh.at(view, pixel, distance, 1.0).requires_grad


def gain_data(count=6000, seed=0):
    random = torch.Generator().manual_seed(seed)
    view = torch.randint(V, (count,), generator=random)
    rendered = 0.1 + 0.8 * torch.rand(count, 3, generator=random)
    gains = 0.85 + 0.3 * torch.rand(V, 3, generator=random)
    gains[0] = 1.0
    gains[1:] /= gains[1:].log().mean(dim=0).exp()  # only ratios are observable
    return view, rendered, gains


def test_recovers_exposures_relative_to_view_0():
    view, rendered, gains = gain_data()
    model = make_model()
    for _ in range(40):
        model.match_exposure(view, rendered, rendered * gains[view], torch.zeros(len(view)))
        assert (model.gains[0] == 1.0).all()
    assert ((model.gains / gains).log().abs() < 0.02).all()


def test_conflicting_pixels_do_not_affect_exposure():
    view, rendered, gains = gain_data()
    target, conflict = rendered * gains[view], torch.zeros(len(view))
    conflict[::3], target[::3] = 1.0, 0.0  # a third is overwritten
    model = make_model()
    for _ in range(40):
        model.match_exposure(view, rendered, target, conflict)
    assert ((model.gains / gains).log().abs() < 0.02).all()


def test_exposure_is_constant_when_disabled_or_black():
    view, rendered, gains = gain_data()
    off = make_model(match_exposure=False)
    off.match_exposure(view, rendered, rendered * gains[view], torch.zeros(len(view)))
    assert (off.gains == 1.0).all()
    dark = make_model()
    dark.match_exposure(view, 0 * rendered, 0 * rendered, torch.zeros(len(view)))
    torch.testing.assert_close(dark.gains, torch.ones(V, 3))
