from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.evaluation.config import ConditionConfig
from nova3d_core.evaluation.perturbations import make_condition, noisy_cameras
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views

CONFIG = ConditionConfig(supersample=2, seed=11)
RIG = RigConfig(count=10, width_px=80, height_px=80)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return orbit_cameras(RIG)


@pytest.fixture(scope="module")
def made(l_solid, cameras):
    """The L under every condition, by name."""
    return {
        name: make_condition(l_solid, cameras, replace(CONFIG, condition=name))
        for name in ("clean", "noisy", "conflict", "noisy+conflict")
    }


def pose_changes(ideal: Cameras, true: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Rotations about the world's origin in degrees (V, 3), shifts in the camera (V, 3)."""
    turn = ideal.rotation.double().transpose(1, 2) @ true.rotation.double()
    shift = (true.world_to_camera - ideal.world_to_camera)[:, :3, 3].double()
    return np.rad2deg(Rotation.from_matrix(turn.numpy()).as_rotvec()), shift.numpy()


def test_pose_noise_has_the_stated_spread_and_no_other():
    count = 1500
    ideal = cameras_at([i * 0.24 for i in range(count)], [0.0] * count, RigConfig())
    true = noisy_cameras(ideal, ConditionConfig(seed=2), longest_side=2.0)
    turns_deg, shifts = (part[1:] for part in pose_changes(ideal, true))
    # the spread of a spread estimated from n values is 1 / sqrt(2 n): 2 %; four times that
    assert turns_deg.std(axis=0) == pytest.approx([2.0] * 3, rel=0.08)
    assert shifts[:, :2].std(axis=0) == pytest.approx([0.02] * 2, rel=0.08)
    assert np.abs(turns_deg.mean(axis=0)).max() < 4 * 2.0 / np.sqrt(count)
    assert np.abs(shifts[:, :2].mean(axis=0)).max() < 4 * 0.02 / np.sqrt(count)
    assert np.abs(shifts[:, 2]).max() < 1e-6
    both = np.concatenate([turns_deg, shifts[:, :2]], axis=1)
    assert np.abs(np.corrcoef(both.T) - np.eye(5)).max() < 4 / np.sqrt(count)


def test_the_turn_is_about_the_objects_centre(l_solid, cameras):
    config = replace(CONFIG, condition="noisy", shift_sigma=0.0, rotation_sigma_deg=20.0)
    true = noisy_cameras(cameras, config)
    centre = torch.zeros(1, 3)
    assert torch.allclose(true.project(centre)[0], cameras.project(centre)[0], atol=1e-3)
    assert not torch.allclose(true.positions[1:], cameras.positions[1:], atol=0.1)


def test_clean_is_the_plain_rendering(l_solid, cameras, made):
    plain = render_views(l_solid, cameras, RenderConfig(CONFIG.supersample)).views
    clean = made["clean"]
    for name in ("colour", "masks", "normals"):
        assert torch.equal(getattr(clean.views, name), getattr(plain, name))
    assert torch.equal(clean.true_cameras.world_to_camera, cameras.world_to_camera)
    assert not clean.blob_masks.any()


def test_noisy_images_are_taken_from_the_true_poses_and_claim_the_ideal_ones(
    l_solid, cameras, made
):
    noisy = made["noisy"]
    plain = render_views(l_solid, noisy.true_cameras, RenderConfig(CONFIG.supersample)).views
    assert torch.equal(noisy.views.colour, plain.colour)
    assert torch.equal(noisy.views.normals, plain.normals)
    assert noisy.views.normal_frame == "world"
    assert torch.equal(noisy.views.cameras.world_to_camera, cameras.world_to_camera)
    moved = (noisy.views.masks - made["clean"].views.masks).abs().sum(dim=(1, 2))
    assert float(moved[1:].min()) > 5


def test_view_0_is_exact_under_every_condition(cameras, made):
    for condition in made.values():
        for name in ("colour", "masks", "normals"):
            exact = getattr(made["clean"].views, name)[0]
            assert torch.equal(getattr(condition.views, name)[0], exact)
        assert torch.equal(condition.true_cameras.world_to_camera[0], cameras.world_to_camera[0])
        assert not condition.blob_masks[0].any()


def test_conflict_leaves_masks_and_background_alone(made):
    clean, conflict = made["clean"].views, made["conflict"].views
    assert torch.equal(conflict.masks, clean.masks)
    outside = clean.masks == 0
    assert torch.equal(conflict.colour[outside], clean.colour[outside])
    assert torch.equal(conflict.normals[outside], clean.normals[outside])
    assert not made["conflict"].blob_masks[clean.masks <= 0.5].any()


def test_gains_are_one_a_channel_and_view_within_their_range(l_solid, cameras, made):
    config = replace(CONFIG, condition="conflict", blob_views=0)
    conflict = make_condition(l_solid, cameras, config).views
    clean = made["clean"].views
    gains = []
    for view in range(1, len(cameras)):
        grey = (clean.masks[view] == 1) & (clean.colour[view] - 0.5).abs().lt(1e-3).all(dim=-1)
        ratio = conflict.colour[view][grey] / clean.colour[view][grey]  # (P, 3)
        assert float((ratio - ratio.mean(dim=0)).abs().max()) < 1e-3
        gains.append(ratio.mean(dim=0))
    gains = torch.stack(gains)  # (V - 1, 3)
    assert float(gains.min()) >= 0.85 - 1e-3
    assert float(gains.max()) <= 1.15 + 1e-3
    # uniform values spread by 0.3 / sqrt(12); 27 of them estimate that to within some 10 %
    assert float(gains.std()) == pytest.approx(0.3 / np.sqrt(12), rel=0.35)
    assert float(gains.mean()) == pytest.approx(1.0, abs=4 * 0.0866 / np.sqrt(27))


def test_silhouette_pixels_keep_their_share_of_white(l_solid, cameras, made):
    config = replace(CONFIG, condition="conflict", blob_views=0)
    conflict, clean = make_condition(l_solid, cameras, config).views, made["clean"].views
    edge = (clean.masks > 0) & (clean.masks < 1)
    share = clean.masks[edge][:, None]
    change = (conflict.colour[edge] - clean.colour[edge]).abs()
    assert bool((change <= 0.15 * share + 1e-5).all())
    assert float(change.max()) > 0.01


def test_six_views_have_a_blob_of_a_twentieth_of_the_object(made):
    masks, blobs = made["conflict"].views.masks, made["conflict"].blob_masks
    areas, foreground = blobs.sum(dim=(1, 2)), (masks > 0.5).sum(dim=(1, 2))
    blobbed = areas > 0
    assert int(blobbed.sum()) == 6
    assert torch.equal(areas[blobbed], (0.05 * foreground[blobbed]).round().long())


def test_blobs_change_colour_strongly_inside_and_nothing_far_off(l_solid, cameras, made):
    without = make_condition(
        l_solid, cameras, replace(CONFIG, condition="conflict", blob_views=0)
    ).views
    with_blobs, blobs = made["conflict"].views, made["conflict"].blob_masks
    change = (with_blobs.colour - without.colour).norm(dim=-1)  # (V, H, W)
    touched = change > 0
    for view in blobs.any(dim=2).any(dim=1).nonzero()[:, 0].tolist():
        assert float(change[view][blobs[view]].mean()) > 0.4
        # the soft edge ends 1.3 radii out: 1.69 times the area
        assert int(touched[view].sum()) < 1.9 * int(blobs[view].sum())
        assert bool(touched[view][blobs[view]].all())
    assert not touched[~blobs.any(dim=2).any(dim=1)].any()


def test_blob_normals_turn_by_at_most_25_degrees_and_fade_out(made):
    clean, conflict = made["clean"].views, made["conflict"].views
    blobs = made["conflict"].blob_masks
    on_object = clean.masks > 0.5
    assert torch.allclose(conflict.normals[on_object].norm(dim=-1), torch.tensor(1.0), atol=1e-5)
    crosses = torch.linalg.cross(clean.normals, conflict.normals).norm(dim=-1)
    dots = (clean.normals * conflict.normals).sum(dim=-1)
    angle = torch.rad2deg(torch.atan2(crosses, dots))
    assert float(angle.max()) <= 25.0 + 1e-3
    assert float(angle[blobs].mean()) > 8.0
    rim = (angle > 0.01) & ~blobs
    assert 0.0 < float(angle[rim].mean()) < 0.5 * float(angle[blobs].mean())
    assert float(angle[~blobs.any(dim=2).any(dim=1)].max()) < 0.01


def test_seeds_repeat_bit_for_bit_and_others_differ(l_solid, cameras, made):
    config = replace(CONFIG, condition="noisy+conflict")
    again, other = (
        make_condition(l_solid, cameras, replace(config, seed=seed)) for seed in (11, 12)
    )
    first = made["noisy+conflict"]
    assert torch.equal(again.views.colour, first.views.colour)
    assert torch.equal(again.views.normals, first.views.normals)
    assert torch.equal(again.blob_masks, first.blob_masks)
    assert torch.equal(again.true_cameras.world_to_camera, first.true_cameras.world_to_camera)
    assert not torch.equal(other.views.colour, first.views.colour)
    assert not torch.equal(other.blob_masks, first.blob_masks)


def test_noise_is_the_same_with_and_without_conflict(made):
    poses = [made[name].true_cameras.world_to_camera for name in ("noisy", "noisy+conflict")]
    assert torch.equal(*poses)
    assert torch.equal(made["noisy"].views.masks, made["noisy+conflict"].views.masks)


def test_normals_in_the_wrong_camera_are_right_only_with_the_true_pose(l_solid, cameras, made):
    config = replace(CONFIG, condition="noisy", normals_in_wrong_camera=True)
    stored = make_condition(l_solid, cameras, config)
    assert stored.views.normal_frame == "camera"
    true_world = made["noisy"].views.normals
    rightly = replace(stored.views, cameras=stored.true_cameras).with_world_normals().normals
    wrongly = stored.views.with_world_normals().normals
    assert torch.allclose(rightly, true_world, atol=1e-5)
    turns_deg, _ = pose_changes(cameras, stored.true_cameras)
    for view in range(1, len(cameras)):
        on_object = stored.views.masks[view] > 0.5
        dots = (wrongly[view][on_object] * true_world[view][on_object]).sum(dim=-1)
        worst_deg = float(torch.rad2deg(torch.arccos(dots.clamp(-1, 1))).max())
        assert 0.3 * np.linalg.norm(turns_deg[view]) < worst_deg
        assert worst_deg < np.linalg.norm(turns_deg[view]) + 0.05


def test_thin_objects_get_blobs_of_the_same_share(cameras):
    stick = Mesh(
        torch.tensor([[-0.02, -0.5, 0.0], [0.02, -0.5, 0.01], [0.0, 0.5, 0.0], [0.0, 0.0, 0.03]]),
        torch.tensor([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]]),
    )
    made = make_condition(stick, cameras, replace(CONFIG, condition="conflict"))
    foreground = (made.views.masks > 0.5).sum(dim=(1, 2))
    areas = made.blob_masks.sum(dim=(1, 2))
    found = areas > 0
    assert int(found.sum()) == 6
    assert int(foreground.max()) < 60
    assert torch.equal(areas[found], (0.05 * foreground[found]).round().long())


def test_making_stops_when_cancelled(l_solid, cameras):
    seen: list[str] = []
    progress = Progress(
        report=lambda event: seen.append(event.stage), is_cancelled=lambda: len(seen) >= 3
    )
    with pytest.raises(Cancelled):
        make_condition(l_solid, cameras, CONFIG, progress)
    assert seen == ["rendering"] * 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("condition", "dirty"), ("gain_range", 1.5), ("blob_share", 0.0), ("shift_sigma", -0.1)],
)
def test_bad_settings_are_named(field, value):
    with pytest.raises(InputError, match=field):
        ConditionConfig(**{field: value})
