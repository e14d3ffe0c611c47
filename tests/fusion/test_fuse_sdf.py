"""Small fusions of a bumpy, coloured ball with known surface and poses."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.metrics.poses import pose_errors
from nova3d_core.evaluation.perturbations import noisy_cameras
from nova3d_core.fusion import fuse as optimise
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fields.hashgrid.field import HashGridField
from nova3d_core.fusion.fuse import fuse_sdf, refine_poses
from nova3d_core.fusion.preview import PreviewClock
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views

HULL = HullConfig(resolution=48)
FULL = SdfFusionConfig(
    levels=(
        LevelConfig(24, 30, 0.5, sdf_lr_cells=0.10, pose_lr=8e-3),
        LevelConfig(40, 30, 0.5, sdf_lr_cells=0.08, pose_lr=2e-3),
        LevelConfig(40, 20, 0.5, sdf_lr_cells=0.06, pose_lr=4e-4),
    ),
    hull=HULL,
    min_rays=256,
)
QUICK = SdfFusionConfig(
    levels=(
        LevelConfig(24, 20, 0.3, sdf_lr_cells=0.10, pose_lr=2e-3),
        LevelConfig(40, 15, 0.3, sdf_lr_cells=0.08, pose_lr=5e-4),
    ),
    hull=HULL,
    min_rays=256,
    check_inputs=False,
)
STEPS = QUICK.total_steps


@pytest.fixture(scope="module")
def pebble():
    """A ball with bumps and waves of colour, without rotational symmetry."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    position = torch.tensor(ball.vertices, dtype=torch.float32)
    x, y, z = position.unbind(dim=1)
    radius = 0.36 + 0.06 * (5 * x + 1).sin() * (4 * y).cos() + 0.05 * (4 * z + 3 * x).sin()
    vertices = position * radius[:, None] * torch.tensor([1.15, 1.0, 0.8])
    waves = torch.stack([11 * x + 3 * y, 9 * y + 5 * z + 1, 10 * z + 4 * x + 2], dim=1).sin()
    faces = torch.tensor(ball.faces, dtype=torch.int64)
    return Mesh(vertices, faces, vertex_colours=0.5 + 0.45 * waves)


def rig(kind="perspective"):
    return orbit_cameras(RigConfig(count=8, width_px=64, height_px=64, kind=kind))


@pytest.fixture(scope="module")
def views(pebble):
    return render_views(pebble, rig()).views


@pytest.fixture(scope="module")
def fused(views):
    return fuse_sdf(views, FULL)


@pytest.fixture(scope="module")
def quick(views):
    return fuse_sdf(views, QUICK)


def mean_error_cells(surface, mesh):
    """Mean |signed distance| at points of the true surface, in cells."""
    return float(surface.sdf(mesh.vertices).abs().mean()) / surface.grid.spacing


def assert_same(a, b):
    """Asserts that two results are bit-identical."""
    assert torch.equal(a.grid.values, b.grid.values)
    assert torch.equal(a.grid.origin, b.grid.origin) and a.grid.spacing == b.grid.spacing
    assert torch.equal(a.field_to_world, b.field_to_world)
    assert torch.equal(a.cameras.world_to_camera, b.cameras.world_to_camera)
    assert torch.equal(a.conflict, b.conflict)
    assert a.report.gains == b.report.gains and a.report.losses == b.report.losses


def events_of(collected, then=None):
    """A callback that records the events of the optimisation, with an extra action at each."""

    def report(event):
        if event.stage == optimise.STAGE:
            collected.append(event)
            if then is not None:
                then(event)

    return report


def test_rays_per_step_follow_fraction_and_limits(views, monkeypatch):
    drawn = []

    def recorded(self, size):
        drawn.append(size)
        return original(self, size)

    original = optimise.RaySampler.next
    monkeypatch.setattr(optimise.RaySampler, "next", recorded)
    levels = (
        LevelConfig(24, 2, 0.5, max_rays=700),
        LevelConfig(24, 2, 0.5),
        LevelConfig(24, 2, 1e-4),
    )
    surface = fuse_sdf(views, replace(QUICK, levels=levels))
    half = round(0.5 * surface.report.rays)
    assert half > 700 and drawn == [700, 700, half, half, 256, 256]


def test_robust_scale_decays_over_a_level(views, monkeypatch):
    factors = []

    def recorded(self, *args):
        factors.append(args[-1])
        return original(self, *args)

    original = optimise.PoseRegistration.step
    monkeypatch.setattr(optimise.PoseRegistration, "step", recorded)
    monkeypatch.setattr(optimise, "_REST_PX", 0.0)
    levels = (
        LevelConfig(24, 4, 0.3, register_every=2),
        LevelConfig(24, 6, 0.3, register_every=2, robust_scale_end=0.4),
    )
    fuse_sdf(views, replace(QUICK, levels=levels))
    assert factors == pytest.approx([1.0, 1.0, 0.4**0.2, 0.4**0.6, 0.4])


@pytest.mark.parametrize(("rest_px", "expected"), [(0.0, [2, 4, 6, 8, 10]), (1e9, [2, 6, 10])])
def test_registrations_pause_once_the_poses_rest(views, monkeypatch, rest_px, expected):
    steps, registered = [], []

    def stepped(*args):
        steps.append(1)
        return step(*args)

    def recorded(self, *args):
        registered.append(len(steps))
        return register(self, *args)

    step, register = optimise._step, optimise.PoseRegistration.step
    monkeypatch.setattr(optimise, "_step", stepped)
    monkeypatch.setattr(optimise.PoseRegistration, "step", recorded)
    monkeypatch.setattr(optimise, "_REST_PX", rest_px)
    levels = (LevelConfig(24, 11, 0.3, register_every=2),)
    fuse_sdf(views, replace(QUICK, levels=levels))
    assert registered == expected


def test_surface_matches_ground_truth(fused, pebble):
    assert mean_error_cells(fused, pebble) < 0.25
    assert (fused.sdf(0.8 * pebble.vertices) < 0).all()
    assert (fused.sdf(1.25 * pebble.vertices) > 0).all()
    assert float(fused.sdf(torch.tensor([[5.0, 5.0, 5.0]]))) > 0
    # a distance: its slope across the surface is 1
    out = pebble.with_smooth_normals().normals
    step = fused.grid.spacing
    rise = fused.sdf(pebble.vertices + step * out) - fused.sdf(pebble.vertices - step * out)
    assert float((rise / (2 * step)).median()) == pytest.approx(1.0, abs=0.1)


def test_surface_is_better_than_the_initial_hull(fused, views, pebble):
    from nova3d_core.fusion.hull.visual_hull import carve_hull

    hull = replace(fused, grid=carve_hull(views, HULL), field_to_world=torch.eye(4))
    error = [float(s.sdf(pebble.vertices).abs().mean()) for s in (fused, hull)]
    assert error[0] < 0.5 * error[1]


def test_exact_poses_are_kept(fused, views):
    errors = pose_errors(fused.cameras, views.cameras)
    assert errors.rotation_deg.max() < 0.5
    assert errors.lateral_percent.max() < 1.0
    assert torch.equal(fused.cameras.world_to_camera[0], views.cameras.world_to_camera[0])
    assert fused.report.rotation_deg == pytest.approx(errors.rotation_deg.tolist(), abs=0.02)
    assert fused.report.reverted == ()


def test_consistent_views_have_little_conflict_and_no_gain(fused, views):
    assert fused.conflict.shape == views.masks.shape
    assert fused.conflict.min() >= 0 and fused.conflict.max() <= 1
    assert (fused.conflict[views.masks < 0.5] == 0).all()
    assert max(fused.report.mean_conflict) < 0.15
    assert fused.report.gains[0] == (1.0, 1.0, 1.0)
    assert all(0.9 < gain < 1.1 for gains in fused.report.gains for gain in gains)
    assert fused.report.steps == FULL.total_steps
    assert set(fused.report.seconds) == {"init", "level 0", "level 1", "level 2"}


def test_the_same_seed_repeats_bit_for_bit(quick, views):
    assert_same(fuse_sdf(views, QUICK), quick)
    other = fuse_sdf(views, replace(QUICK, seed=1))
    assert not torch.equal(other.grid.values, quick.grid.values)


@pytest.fixture(scope="module")
def noisy(pebble):
    """Views with pose errors of 2 degrees and 1 percent, and the true cameras."""
    true = noisy_cameras(rig(), PerturbationConfig("noisy"), 1.0)
    return replace(render_views(pebble, true).views, cameras=rig()), true


def test_wrong_poses_are_corrected(noisy, pebble):
    views, true = noisy
    surface = fuse_sdf(views, replace(FULL, check_inputs=False))
    before, after = (pose_errors(cameras, true) for cameras in (views.cameras, surface.cameras))
    assert before.rotation_deg[1:].median() > 3.0
    assert after.rotation_deg[1:].median() < 0.5 * before.rotation_deg[1:].median()
    assert after.lateral_percent[1:].median() < 0.5 * before.lateral_percent[1:].median()
    assert torch.equal(surface.cameras.world_to_camera[0], views.cameras.world_to_camera[0])
    fixed = fuse_sdf(views, replace(FULL, check_inputs=False, refine_poses=False))
    assert torch.equal(fixed.cameras.world_to_camera, views.cameras.world_to_camera)
    assert torch.equal(fixed.field_to_world, torch.eye(4))
    assert fixed.report.rotation_deg == (0.0,) * 8
    assert mean_error_cells(surface, pebble) < 0.7 * mean_error_cells(fixed, pebble)


def test_refine_poses_keeps_the_images(views):
    refined = refine_poses(views, QUICK)
    assert torch.equal(refined.colour, views.colour) and torch.equal(refined.normals, views.normals)
    assert not torch.equal(refined.cameras.world_to_camera, views.cameras.world_to_camera)
    first = fuse_sdf(views, replace(QUICK, levels=QUICK.levels[:1]))
    assert torch.equal(refined.cameras.world_to_camera, first.cameras.world_to_camera)
    with pytest.raises(InputError, match="refine_poses is disabled"):
        refine_poses(views, replace(QUICK, refine_poses=False))


def test_camera_frame_normals_give_the_same_surface(quick, views, pebble):
    for normal_frame in ("camera", "front_view"):
        own = fuse_sdf(views.with_normals_in(normal_frame), QUICK)
        apart = (own.sdf(pebble.vertices) - quick.sdf(pebble.vertices)).abs().mean()
        assert float(apart) < 0.25 * quick.grid.spacing
        assert mean_error_cells(own, pebble) < 1.0


def test_fuses_orthographic_views(pebble):
    surface = fuse_sdf(render_views(pebble, rig("orthographic")).views, QUICK)
    assert mean_error_cells(surface, pebble) < 1.0
    assert (surface.sdf(0.75 * pebble.vertices) < 0).all()


@pytest.mark.parametrize("without", ["normals", "colour", "both"])
def test_fuses_without_normals_or_colours(without, views, pebble):
    if without != "normals":
        white = (1.0 - views.masks)[..., None]
        views = replace(views, colour=(0.5 * views.masks[..., None] + white).expand(-1, -1, -1, 3))
    if without != "colour":
        views = replace(views, normals=None, normal_frame=None)
    surface = fuse_sdf(views, QUICK)
    assert mean_error_cells(surface, pebble) < 1.0
    assert max(surface.report.rotation_deg) < 3.0


@pytest.mark.parametrize("start", ["hull", "sphere"])
@pytest.mark.parametrize("level", [0, 1])
def test_overflow_is_an_error_that_names_the_level(level, start, views, monkeypatch):
    fields, set_level = [], DenseGrid.set_level

    def watched(self, settings):
        fields.append(self)
        set_level(self, settings)

    def poison(event):
        if event.step == (8, 28)[level]:
            state = fields[-1]._state
            middle = [n // 2 for n in state.geo.shape[:3]]
            state.geo[middle[0], middle[1], :, 0] = float("nan")

    monkeypatch.setattr(DenseGrid, "set_level", watched)
    events = []
    with pytest.raises(StageError, match=f"fusing, level {level}") as caught:
        fuse_sdf(views, replace(QUICK, init=start), Progress(events_of(events, poison)))
    assert "NaN" in str(caught.value) and caught.value.hint
    assert events[-1].step < (20, 35)[level]  # detected before the end of the level


def test_cancelled_fusion_stops_within_a_step(views, monkeypatch):
    taken, step = [], DenseGrid.step
    monkeypatch.setattr(DenseGrid, "step", lambda self, *a: (taken.append(1), step(self, *a)))
    events = []
    progress = Progress(events_of(events), is_cancelled=lambda: len(events) >= 7)
    with pytest.raises(Cancelled) as caught:
        fuse_sdf(views, QUICK, progress)
    assert caught.value.stage == optimise.STAGE
    assert len(events) == 7 and len(taken) <= 8
    with pytest.raises(Cancelled):
        fuse_sdf(views, QUICK, Progress(is_cancelled=lambda: True))


def test_progress_counts_every_step_once(views):
    events = []
    coarse = replace(QUICK, levels=tuple(replace(level, resolution=16) for level in QUICK.levels))
    fuse_sdf(views, coarse, Progress(events_of(events)))
    assert [event.step for event in events] == list(range(1, STEPS + 1))
    assert {event.total for event in events} == {STEPS}


def with_memory_for(monkeypatch, max_rays, error):
    """Limits the rays that the real field renders together; records the chunk sizes."""
    render, sizes = DenseGrid.render, []

    def limited(self, origins, directions, **options):
        if len(origins) > max_rays:
            raise error("out of memory")
        sizes.append(len(origins))
        return render(self, origins, directions, **options)

    monkeypatch.setattr(DenseGrid, "render", limited)
    return sizes


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_chunk_size(error, quick, views, pebble, monkeypatch, caplog):
    num_rays = round(0.3 * quick.report.rays)
    sizes = with_memory_for(monkeypatch, num_rays // 3, error)
    surface = fuse_sdf(views, QUICK)
    assert max(sizes) == num_rays // 4  # a quarter: halved twice
    assert sum(sizes) == pytest.approx(STEPS * num_rays, rel=0.01)  # every ray is rendered
    assert surface.report.steps == STEPS
    assert sum("memory ran out" in record.message for record in caplog.records) == 2
    apart = (surface.sdf(pebble.vertices) - quick.sdf(pebble.vertices)).abs().mean()
    assert float(apart) < 0.5 * quick.grid.spacing
    assert mean_error_cells(surface, pebble) < 1.0


def test_out_of_memory_in_a_later_level_restarts_it(views, pebble, monkeypatch):
    render, sizes, events = DenseGrid.render, [], []

    def limited(self, origins, directions, **options):
        if len(events) >= 25 and len(origins) > 1000:
            raise MemoryError
        sizes.append(len(origins))
        return render(self, origins, directions, **options)

    monkeypatch.setattr(DenseGrid, "render", limited)
    surface = fuse_sdf(views, QUICK, Progress(events_of(events)))
    assert [event.step for event in events] == [*range(1, 26), *range(21, STEPS + 1)]
    assert surface.report.steps == STEPS and sizes[-1] <= 1000
    assert mean_error_cells(surface, pebble) < 1.0


def test_permanent_out_of_memory_error_has_a_hint(views, monkeypatch):
    sizes = with_memory_for(monkeypatch, 0, torch.cuda.OutOfMemoryError)
    with pytest.raises(StageError, match="fusing, level 0: memory ran out") as caught:
        fuse_sdf(views, QUICK)
    assert "draft" in caught.value.hint and sizes == []
    assert isinstance(caught.value.__cause__, torch.cuda.OutOfMemoryError)


def test_previews_are_images_without_side_effects(quick, views, monkeypatch):
    monkeypatch.setattr(optimise, "PreviewClock", lambda: PreviewClock(0.0))
    events, images = [], []
    progress = Progress(events_of(events, lambda event: images.append(event.preview())))
    watched = fuse_sdf(views, QUICK, progress)
    assert len(images) == STEPS  # one per step: far more often than in practice
    for image in images:
        assert image.shape == (128, 256, 3) and not image.requires_grad
        assert image.min() >= 0 and image.max() <= 1
    assert_same(watched, quick)
    # the last one is a view of the object: normals on the left, colours on the right
    view = (STEPS - 1) % 8
    small = torch.nn.functional.avg_pool2d(images[-1].permute(2, 0, 1), 2).permute(1, 2, 0)
    mask = views.masks[view] > 0.99
    colour = views.colour[view]
    assert (small[:, 64:] - colour)[mask].abs().mean() < 0.15
    normal = (0.5 + 0.5 * views.normals[view])[mask]
    assert (small[:, :64][mask] - normal).abs().mean() < 0.1
    assert (small[views.masks[view].bool().logical_not().repeat(1, 2)] > 0.9).float().mean() > 0.9


def test_previews_are_at_most_one_per_second(views):
    times, events = [], []
    slow = Progress(
        events_of(events, lambda event: event.preview and times.append(time.perf_counter()))
    )
    long = replace(QUICK, levels=(replace(QUICK.levels[0], steps=100),))
    started = time.perf_counter()
    fuse_sdf(views, long, slow)
    spent = time.perf_counter() - started
    assert 1 <= len(times) <= spent + 1
    assert all(b - a > 0.99 for a, b in itertools.pairwise(times))
    clock = PreviewClock(1000.0)
    assert clock.is_due()  # short runs have a preview, too
    assert not clock.is_due() and [clock.next_view() for _ in range(3)] == [0, 1, 2]


def test_fuses_with_the_hash_grid(quick, views, pebble):
    level = LevelConfig(32, 16, 0.2, sdf_lr_cells=0.10, pose_lr=5e-4)
    surface = fuse_sdf(views, replace(QUICK, field="hashgrid", levels=(level,)))
    assert mean_error_cells(surface, pebble) < 1.0
    assert (surface.sdf(0.8 * pebble.vertices) < 0).all()
    assert surface.conflict.shape == quick.conflict.shape
    assert set(surface.report.losses) == set(quick.report.losses)


def test_hash_grid_tracks_rays_only_while_poses_move(views, monkeypatch):
    tracked, render = [], HashGridField.render

    def recorded(self, *rays, **options):
        tracked.append(self.track_rays)
        return render(self, *rays, **options)

    monkeypatch.setattr(HashGridField, "render", recorded)
    level = LevelConfig(16, 4, 0.05, pose_lr=5e-4)
    fuse_sdf(views, replace(QUICK, field="hashgrid", levels=(level,)))
    assert tracked == [False, True, True, True]  # a quarter of the first level is warm-up


def test_pytorch_and_warp_give_the_same_surface(views, monkeypatch):
    pytest.importorskip("warp")
    levels = (LevelConfig(24, 4, 0.3, sdf_lr_cells=0.10, pose_lr=1e-3),)
    config = replace(QUICK, levels=levels)
    compiled = fuse_sdf(views, config)
    monkeypatch.setattr(
        "nova3d_core.fusion.fields.grid.warp_support.can_run_on", lambda device: False
    )
    plain = fuse_sdf(views, config)
    worst = (compiled.grid.values - plain.grid.values).abs().max()
    assert worst < 0.1 * compiled.grid.spacing
