"""H of eq. 4: f_psi of the hash grid, rendered along the rays and trained with eq. 5."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.fusion import fuse as optimise
from nova3d_core.fusion.config import ConflictConfig, LevelConfig, PoseConfig, SdfFusionConfig
from nova3d_core.fusion.conflict.field import ConflictField
from nova3d_core.fusion.conflict.maps import ConflictMaps
from nova3d_core.fusion.fields.hashgrid.field import HashGridField
from nova3d_core.fusion.fields.hashgrid.rays import composite, march
from nova3d_core.fusion.fuse import fuse_sdf
from nova3d_core.fusion.losses import colour_loss
from nova3d_core.fusion.poses.pose_table import PoseTable
from nova3d_core.fusion.rays import RayDataset, ray_dataset
from nova3d_core.io.settings import config_from_dict, settings_to_json
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.progress import Progress
from nova3d_core.views import Views

from .random_points import random_unit_cube
from .test_fuse_sdf import QUICK, assert_same, events_of, pebble, views
from .test_hashgrid import LEVEL, _march_of, ball_field, rays_at, shaken

__all__ = ["pebble", "views"]  # fixtures

CLEAN, WRONG = 0.02, 0.6
LEVELS = (
    LevelConfig(24, 4, 0.1, sdf_lr_cells=0.10, pose_lr=2e-3),
    LevelConfig(32, 4, 0.1, sdf_lr_cells=0.08, pose_lr=5e-4),
)
SMALL = replace(
    QUICK,
    field="hashgrid",
    levels=LEVELS,
    conflict=ConflictConfig(mode="field", start_fraction=0.2),
)


def random_rays(count: int, seed: int = 4) -> tuple[Tensor, Tensor]:
    """Rays (R, 3), (R, 3) through and next to a ball of radius 0.4."""
    return rays_at((random_unit_cube(count, seed=seed) - 0.5) * 0.8)


def field_parts(field: HashGridField) -> list[Tensor]:
    """All parameters but those of f_psi."""
    modules = (field.encoding, field.sdf_network, field.color_network)
    return [parameter for module in modules for parameter in module.parameters()]


def with_random_psi(field: HashGridField) -> HashGridField:
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in field.conflict_network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return field


def test_rendered_conflict_matches_its_definition(monkeypatch):
    """H_p = sum w_i f_psi(f_c, f_g, d(v), l, x_i), with the arguments in this order."""
    monkeypatch.setattr("nova3d_core.fusion.fields.hashgrid.field.MIN_WEIGHT", -1.0)
    field = with_random_psi(shaken(ball_field(views=5)))
    origins, directions = random_rays(40)
    view = torch.arange(40) % 5
    samples = march(*_march_of(field), origins, directions, field._sharpness, field.spacing)
    field.render_samples(origins, directions, samples)
    found = field.render_conflict(view)
    points = origins[samples.ray] + samples.t[:, None] * directions[samples.ray]
    with torch.no_grad():
        encoded = field.encoding((points - field._low) / field._longest)
        features = field.sdf_network(encoded)[:, 1:]
        logits = field._sharpness * field.distances(points)
        weight, opacity = composite(logits, samples, 40)
        colour = field._colours(encoded, features, field.gradients(points))
        inputs = (colour, features, directions[samples.ray], encoded[:, :7])  # two coarse levels
        h = field.conflict_network(*inputs, view[samples.ray])
    expected = torch.zeros(40).index_add(0, samples.ray, weight * h)
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=0)
    assert expected.max() > 0.3  # the random network does not vanish
    assert (found <= opacity + 1e-5).all() and (found >= 0).all()


def test_conflict_starts_low_and_is_zero_beside_the_object():
    field = ball_field(views=3)
    origins, directions = random_rays(200)
    opacity = field.render(origins, directions).opacity
    conflict = field.render_conflict(torch.arange(200) % 3).detach()
    hit = opacity > 0.99
    assert 100 < int(hit.sum()) < 200
    assert conflict[hit].min() > 0.01 and conflict[hit].max() < 0.04
    assert (conflict[opacity == 0.0] == 0.0).all()


def test_no_gradient_of_the_conflict_reaches_surface_or_colour():
    """The gradients of a step are bit-identical with and without a step of f_psi in between."""
    grads = []
    for with_conflict in (False, True):
        field = shaken(ball_field(views=3))
        found = field.render(*random_rays(150))
        if with_conflict:
            conflict = field.render_conflict(torch.arange(150) % 3)
            before = [p.detach().clone() for p in field.conflict_network.parameters()]
            field.step_conflict(conflict, torch.ones(150))
            after = list(field.conflict_network.parameters())
            assert all(not torch.equal(*pair) for pair in zip(before, after, strict=True))
            assert all(part.grad is None for part in field_parts(field))
        ones = torch.ones(150)
        rays = field.backward(ones, torch.ones(150, 3), torch.ones(150, 3), True)
        grads.append([p.grad for p in field_parts(field)] + [rays.grad_origins])
        assert found.opacity.max() > 0.9
    for plain, mixed in zip(*grads, strict=True):
        assert (plain is None and mixed is None) or torch.equal(plain, mixed)


def test_conflict_needs_a_render_of_the_same_rays():
    field = ball_field(views=4)
    with pytest.raises(StageError, match="without a render"):
        field.render_conflict(torch.zeros(3, dtype=torch.int64))
    field.render(*random_rays(3))
    with pytest.raises(StageError, match="without a render"):
        field.render_conflict(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match="view index 4"):
        field.render_conflict(torch.tensor([0, 4, 1]))


def ball_views(count: int = 4, px: int = 24) -> Views:
    """Views of nothing but a mask: a disc of the ball of radius 0.4."""
    cameras = orbit_cameras(RigConfig(count=count, width_px=px, height_px=px))
    views = Views(cameras, torch.ones(count, px, px, 3), torch.ones(count, px, px))
    rays = ray_dataset(views, 0, False)
    with torch.no_grad():
        opacity = ball_field(views=count).render(rays.origin, rays.direction).opacity
    return replace(views, masks=opacity.view(count, px, px).clamp(0.0, 1.0))


def make_conflict(**config) -> tuple[ConflictField, HashGridField, RayDataset]:
    views = ball_views()
    field = shaken(ball_field(views=len(views)))
    field.set_level(LEVEL)
    rays = ray_dataset(views, 0, False)
    poses = PoseTable(views.cameras, torch.zeros(3), PoseConfig())
    settings = ConflictConfig(mode="field", **config)
    field.render(rays.origin, rays.direction)  # once: steps of f_psi do not change it
    return ConflictField(views.cameras, settings, field, rays, poses, 200), field, rays


def one_step(conflict: ConflictField, rays: RayDataset, distance: Tensor, done: float) -> Tensor:
    """H before the step."""
    before = conflict.at(rays.view, rays.pixel, None, done)
    conflict.step(rays.view, rays.pixel, distance, rays.mask, done)
    return before


def test_f_psi_descends_eq_5():
    """The gradient of f_psi equals autograd's of eq. 5 inside the masks."""
    conflict, field, rays = make_conflict(mean_budget=1.0)
    with_random_psi(field)
    distance = torch.rand(len(rays), generator=torch.Generator().manual_seed(2))
    h = field.render_conflict(rays.view)
    loss = colour_loss(distance, h, conflict.lambda0(0.7))[rays.mask > 0.5].sum()
    parameters = list(field.conflict_network.parameters())
    expected = torch.autograd.grad(loss, parameters)
    h = field.render_conflict(rays.view)
    grad = conflict._grad_conflict(
        rays.view, h.detach(), distance, rays.mask, conflict.lambda0(0.7)
    )
    found = torch.autograd.grad(h, parameters, grad)
    for pair in zip(found, expected, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


def test_finds_the_contradicting_view_and_nothing_else():
    conflict, _, rays = make_conflict(mean_budget=1.0)
    inside = rays.mask > 0.5
    wrong = (rays.view == 2) & (rays.pixel[:, 0] > 12) & inside
    distance = torch.where(wrong, WRONG, CLEAN)
    for step in range(60):
        one_step(conflict, rays, distance, 0.3 + 0.7 * (step + 1) / 60)
    h = conflict.at(rays.view, rays.pixel, None, 1.0)
    assert h[wrong].mean() > 0.7
    assert h[inside & ~wrong].mean() < 0.12
    maps = conflict.maps()
    assert maps.shape == (4, 24, 24) and maps.min() >= 0.0 and maps.max() <= 1.0
    torch.testing.assert_close(maps.view(-1)[conflict._flat_index(rays.view, rays.pixel)], h)
    with pytest.raises(Cancelled):
        conflict.maps(Progress(is_cancelled=lambda: True))
    last = conflict.fitted(rays.view, rays.pixel, 1.0)
    assert (last - h).abs().max() < 0.1  # one Adam step older
    assert (conflict.fitted(rays.view, rays.pixel, 0.1) == 0.0).all()


def test_conflict_is_zero_before_the_start_fraction():
    conflict, field, rays = make_conflict(start_fraction=0.5)
    before = [p.clone() for p in field.conflict_network.parameters()]
    h = one_step(conflict, rays, torch.full((len(rays),), WRONG), 0.49)
    assert (h == 0.0).all()
    assert all(map(torch.equal, before, field.conflict_network.parameters()))
    h = one_step(conflict, rays, torch.full((len(rays),), WRONG), 0.5)
    assert 0.01 < h[rays.mask > 0.99].mean() < 0.04


def test_view_0_and_the_mean_of_a_view_are_limited():
    conflict, _, rays = make_conflict(front_view_max=0.1, mean_budget=0.15)
    distance = torch.full((len(rays),), 3.0**0.5)  # white against black everywhere
    for _ in range(80):
        one_step(conflict, rays, distance, 1.0)
    maps = conflict.maps()
    assert maps[0].max() == pytest.approx(0.1)
    # the minimum of eq. 5 with the budget's penalty; H of a fusion never exceeds it
    inside = ball_views().masks > 0.5
    means = [float(maps[view][inside[view]].mean()) for view in (1, 2, 3)]
    assert min(means) > 0.2 and max(means) < 0.45


@pytest.fixture(scope="module")
def fused(views):
    return fuse_sdf(views, SMALL)


def test_fuses_with_the_conflict_of_the_field(fused, views):
    assert fused.conflict.shape == views.masks.shape
    assert fused.conflict.min() >= 0.0 and 0.0 < fused.conflict.max() <= 1.0
    assert (fused.conflict[views.masks < 0.5] == 0.0).all()
    assert fused.conflict[0].max() <= 0.1
    assert len(fused.report.mean_conflict) == len(views)
    assert fused.report.steps == SMALL.total_steps


def test_the_same_seed_repeats_bit_for_bit(fused, views):
    assert_same(fuse_sdf(views, SMALL), fused)


def test_maps_and_field_are_two_models(fused, views, monkeypatch):
    made = []
    monkeypatch.setattr(
        optimise, "ConflictMaps", lambda *a: made.append(ConflictMaps(*a)) or made[-1]
    )
    other = fuse_sdf(views, replace(SMALL, conflict=replace(SMALL.conflict, mode="model")))
    assert len(made) == 1
    assert not torch.equal(other.conflict, fused.conflict)


def test_cancelled_fusion_stops_within_a_step(views):
    events = []
    progress = Progress(events_of(events), is_cancelled=lambda: len(events) >= 6)
    with pytest.raises(Cancelled):
        fuse_sdf(views, SMALL, progress)
    assert len(events) == 6


def test_nan_in_f_psi_is_an_error_that_names_the_level(views, monkeypatch):
    fields, init = [], HashGridField.__init__

    def watched(self, *given):
        init(self, *given)
        fields.append(self)

    def poison(event):
        if event.step == 5:
            with torch.no_grad():
                fields[-1].conflict_network.net[0].weight[0, 0] = float("nan")

    monkeypatch.setattr(HashGridField, "__init__", watched)
    events = []
    with pytest.raises(StageError, match="fusing, level 1") as caught:
        fuse_sdf(views, SMALL, Progress(events_of(events, poison)))
    assert "NaN" in str(caught.value)
    assert events[-1].step < SMALL.total_steps


def test_out_of_memory_restarts_the_level_with_smaller_chunks(views, monkeypatch):
    render, sizes, events = HashGridField.render, [], []

    def limited(self, origins, directions):
        if len(events) >= 5 and len(origins) > 600:
            raise MemoryError
        sizes.append(len(origins))
        return render(self, origins, directions)

    monkeypatch.setattr(HashGridField, "render", limited)
    surface = fuse_sdf(views, replace(SMALL, min_rays=1000, ray_chunk_size=512 * 4))
    assert sizes and surface.report.steps == SMALL.total_steps
    assert surface.conflict.max() <= 1.0


def test_the_dense_grid_has_no_conflict_network():
    with pytest.raises(InputError, match="conflict mode is 'field'") as caught:
        SdfFusionConfig(conflict=ConflictConfig(mode="field"))
    assert "hashgrid" in caught.value.hint


def test_settings_round_trip():
    config = FuseConfig(
        sdf=SdfFusionConfig(field="hashgrid", conflict=ConflictConfig(mode="field"))
    )
    document = json.loads(settings_to_json(config))
    assert document["sdf"]["conflict"]["mode"] == "field"
    assert config_from_dict(document, FuseConfig, "settings") == config
    document["sdf"]["field"] = "grid"
    with pytest.raises(InputError, match="conflict mode is 'field'"):
        config_from_dict(document, FuseConfig, "settings")
