from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.perturbations import noisy_cameras, render_perturbed_views
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views

CONFIG = PerturbationConfig(supersample=2, seed=11)
RIG = RigConfig(count=10, width_px=80, height_px=80)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return orbit_cameras(RIG)


@pytest.fixture(scope="module")
def perturbed(l_solid, cameras):
    """The L solid with each kind of perturbation, by name."""
    return {
        name: render_perturbed_views(l_solid, cameras, replace(CONFIG, kind=name))
        for name in ("clean", "noisy", "conflict", "noisy+conflict")
    }


def pose_changes(ideal: Cameras, true: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Rotations about the world origin in degrees (V, 3), camera-space translations (V, 3)."""
    rotation = ideal.rotation.double().transpose(1, 2) @ true.rotation.double()
    translation = (true.world_to_camera - ideal.world_to_camera)[:, :3, 3].double()
    return np.rad2deg(Rotation.from_matrix(rotation.numpy()).as_rotvec()), translation.numpy()


def test_pose_noise_has_the_configured_standard_deviations():
    count = 1500
    ideal = cameras_at([i * 0.24 for i in range(count)], [0.0] * count, RigConfig())
    true = noisy_cameras(ideal, PerturbationConfig(seed=2), longest_side=2.0)
    rotations_deg, translations = (part[1:] for part in pose_changes(ideal, true))
    # relative standard error of a standard deviation: 1 / sqrt(2 n) = 2 %; four times that
    assert rotations_deg.std(axis=0) == pytest.approx([2.0] * 3, rel=0.08)
    assert translations[:, :2].std(axis=0) == pytest.approx([0.02] * 2, rel=0.08)
    assert np.abs(rotations_deg.mean(axis=0)).max() < 4 * 2.0 / np.sqrt(count)
    assert np.abs(translations[:, :2].mean(axis=0)).max() < 4 * 0.02 / np.sqrt(count)
    assert np.abs(translations[:, 2]).max() < 1e-6
    both = np.concatenate([rotations_deg, translations[:, :2]], axis=1)
    assert np.abs(np.corrcoef(both.T) - np.eye(5)).max() < 4 / np.sqrt(count)


def test_rotation_is_about_the_object_centre(l_solid, cameras):
    config = replace(CONFIG, kind="noisy", translation_sigma=0.0, rotation_sigma_deg=20.0)
    true = noisy_cameras(cameras, config)
    centre = torch.zeros(1, 3)
    assert torch.allclose(true.project(centre)[0], cameras.project(centre)[0], atol=1e-3)
    assert not torch.allclose(true.positions[1:], cameras.positions[1:], atol=0.1)


def test_clean_views_are_the_plain_rendering(l_solid, cameras, perturbed):
    plain = render_views(l_solid, cameras, RenderConfig(CONFIG.supersample)).views
    clean = perturbed["clean"]
    for name in ("colour", "masks", "normals"):
        assert torch.equal(getattr(clean.views, name), getattr(plain, name))
    assert torch.equal(clean.true_cameras.world_to_camera, cameras.world_to_camera)
    assert not clean.blob_masks.any()


def test_noisy_images_have_the_true_poses_and_state_the_ideal_ones(l_solid, cameras, perturbed):
    noisy = perturbed["noisy"]
    plain = render_views(l_solid, noisy.true_cameras, RenderConfig(CONFIG.supersample)).views
    assert torch.equal(noisy.views.colour, plain.colour)
    assert torch.equal(noisy.views.normals, plain.normals)
    assert noisy.views.normal_frame == "world"
    assert torch.equal(noisy.views.cameras.world_to_camera, cameras.world_to_camera)
    moved = (noisy.views.masks - perturbed["clean"].views.masks).abs().sum(dim=(1, 2))
    assert float(moved[1:].min()) > 5


def test_view_0_is_always_exact(cameras, perturbed):
    for each in perturbed.values():
        for name in ("colour", "masks", "normals"):
            exact = getattr(perturbed["clean"].views, name)[0]
            assert torch.equal(getattr(each.views, name)[0], exact)
        assert torch.equal(each.true_cameras.world_to_camera[0], cameras.world_to_camera[0])
        assert not each.blob_masks[0].any()


def test_conflict_keeps_masks_and_background(perturbed):
    clean, conflict = perturbed["clean"].views, perturbed["conflict"].views
    assert torch.equal(conflict.masks, clean.masks)
    outside = clean.masks == 0
    assert torch.equal(conflict.colour[outside], clean.colour[outside])
    assert torch.equal(conflict.normals[outside], clean.normals[outside])
    assert not perturbed["conflict"].blob_masks[clean.masks <= 0.5].any()


def test_gains_are_per_view_and_channel_within_the_range(l_solid, cameras, perturbed):
    config = replace(CONFIG, kind="conflict", blob_views=0)
    conflict = render_perturbed_views(l_solid, cameras, config).views
    clean = perturbed["clean"].views
    gains = []
    for view in range(1, len(cameras)):
        grey = (clean.masks[view] == 1) & (clean.colour[view] - 0.5).abs().lt(1e-3).all(dim=-1)
        ratio = conflict.colour[view][grey] / clean.colour[view][grey]  # (P, 3)
        assert float((ratio - ratio.mean(dim=0)).abs().max()) < 1e-3
        gains.append(ratio.mean(dim=0))
    gains = torch.stack(gains)  # (V - 1, 3)
    assert float(gains.min()) >= 0.85 - 1e-3
    assert float(gains.max()) <= 1.15 + 1e-3
    # standard deviation of a uniform distribution of width 0.3, estimated from 27 values
    assert float(gains.std()) == pytest.approx(0.3 / np.sqrt(12), rel=0.35)
    assert float(gains.mean()) == pytest.approx(1.0, abs=4 * 0.0866 / np.sqrt(27))


def test_silhouette_pixels_keep_their_background_fraction(l_solid, cameras, perturbed):
    config = replace(CONFIG, kind="conflict", blob_views=0)
    conflict, clean = (
        render_perturbed_views(l_solid, cameras, config).views,
        perturbed["clean"].views,
    )
    edge = (clean.masks > 0) & (clean.masks < 1)
    coverage = clean.masks[edge][:, None]
    change = (conflict.colour[edge] - clean.colour[edge]).abs()
    assert bool((change <= 0.15 * coverage + 1e-5).all())
    assert float(change.max()) > 0.01


def test_six_views_have_blobs_of_five_percent_of_the_object(perturbed):
    masks, blobs = perturbed["conflict"].views.masks, perturbed["conflict"].blob_masks
    areas, foreground = blobs.sum(dim=(1, 2)), (masks > 0.5).sum(dim=(1, 2))
    has_blob = areas > 0
    assert int(has_blob.sum()) == 6
    assert torch.equal(areas[has_blob], (0.05 * foreground[has_blob]).round().long())


def test_blobs_change_colour_inside_and_nothing_elsewhere(l_solid, cameras, perturbed):
    without = render_perturbed_views(
        l_solid, cameras, replace(CONFIG, kind="conflict", blob_views=0)
    ).views
    with_blobs, blobs = perturbed["conflict"].views, perturbed["conflict"].blob_masks
    change = (with_blobs.colour - without.colour).norm(dim=-1)  # (V, H, W)
    changed = change > 0
    for view in blobs.any(dim=2).any(dim=1).nonzero()[:, 0].tolist():
        assert float(change[view][blobs[view]].mean()) > 0.4
        # the soft edge ends at 1.3 radii: 1.69 times the area
        assert int(changed[view].sum()) < 1.9 * int(blobs[view].sum())
        assert bool(changed[view][blobs[view]].all())
    assert not changed[~blobs.any(dim=2).any(dim=1)].any()


def test_blob_normals_rotate_by_at_most_25_degrees_and_fade_out(perturbed):
    clean, conflict = perturbed["clean"].views, perturbed["conflict"].views
    blobs = perturbed["conflict"].blob_masks
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


def test_same_seed_repeats_bit_for_bit(l_solid, cameras, perturbed):
    config = replace(CONFIG, kind="noisy+conflict")
    again, other = (
        render_perturbed_views(l_solid, cameras, replace(config, seed=seed)) for seed in (11, 12)
    )
    first = perturbed["noisy+conflict"]
    assert torch.equal(again.views.colour, first.views.colour)
    assert torch.equal(again.views.normals, first.views.normals)
    assert torch.equal(again.blob_masks, first.blob_masks)
    assert torch.equal(again.true_cameras.world_to_camera, first.true_cameras.world_to_camera)
    assert not torch.equal(other.views.colour, first.views.colour)
    assert not torch.equal(other.blob_masks, first.blob_masks)


def test_pose_noise_does_not_depend_on_conflict(perturbed):
    poses = [perturbed[name].true_cameras.world_to_camera for name in ("noisy", "noisy+conflict")]
    assert torch.equal(*poses)
    assert torch.equal(perturbed["noisy"].views.masks, perturbed["noisy+conflict"].views.masks)


def test_camera_frame_normals_are_correct_only_with_the_true_pose(l_solid, cameras, perturbed):
    config = replace(CONFIG, kind="noisy", camera_frame_normals=True)
    stored = render_perturbed_views(l_solid, cameras, config)
    assert stored.views.normal_frame == "camera"
    true_world = perturbed["noisy"].views.normals
    with_true_pose = replace(stored.views, cameras=stored.true_cameras).with_world_normals().normals
    with_stated_pose = stored.views.with_world_normals().normals
    assert torch.allclose(with_true_pose, true_world, atol=1e-5)
    rotations_deg, _ = pose_changes(cameras, stored.true_cameras)
    for view in range(1, len(cameras)):
        on_object = stored.views.masks[view] > 0.5
        dots = (with_stated_pose[view][on_object] * true_world[view][on_object]).sum(dim=-1)
        max_error_deg = float(torch.rad2deg(torch.arccos(dots.clamp(-1, 1))).max())
        assert 0.3 * np.linalg.norm(rotations_deg[view]) < max_error_deg
        assert max_error_deg < np.linalg.norm(rotations_deg[view]) + 0.05


def test_thin_objects_have_blobs_of_the_same_area_ratio(cameras):
    stick = Mesh(
        torch.tensor([[-0.02, -0.5, 0.0], [0.02, -0.5, 0.01], [0.0, 0.5, 0.0], [0.0, 0.0, 0.03]]),
        torch.tensor([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]]),
    )
    result = render_perturbed_views(stick, cameras, replace(CONFIG, kind="conflict"))
    foreground = (result.views.masks > 0.5).sum(dim=(1, 2))
    areas = result.blob_masks.sum(dim=(1, 2))
    has_blob = areas > 0
    assert int(has_blob.sum()) == 6
    assert int(foreground.max()) < 60
    assert torch.equal(areas[has_blob], (0.05 * foreground[has_blob]).round().long())


def test_rendering_can_be_cancelled(l_solid, cameras):
    stages: list[str] = []
    progress = Progress(
        report=lambda event: stages.append(event.stage), is_cancelled=lambda: len(stages) >= 3
    )
    with pytest.raises(Cancelled):
        render_perturbed_views(l_solid, cameras, CONFIG, progress)
    assert stages == ["rendering"] * 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "dirty"), ("gain_range", 1.5), ("blob_area_ratio", 0.0), ("translation_sigma", -0.1)],
)
def test_error_names_the_invalid_setting(field, value):
    with pytest.raises(InputError, match=field):
        PerturbationConfig(**{field: value})
