from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.distortions import (
    GAIN_SIGMA,
    DistortionConfig,
    displaced,
    distort_views,
    smooth_field,
)
from nova3d_core.evaluation.perturbations import perturbation_cameras, render_perturbed_views
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

RIG = RigConfig(count=6, width_px=96, height_px=96)


@pytest.fixture(scope="module")
def clean(l_solid) -> Views:
    return render_views(l_solid, orbit_cameras(RIG), RenderConfig(2)).views


@pytest.fixture(scope="module")
def distorted(clean):
    return distort_views(clean, DistortionConfig(), seed=3)


def test_field_passes_through_its_nodes_and_is_smooth_between_them():
    nodes = np.random.default_rng(1).normal(0.0, 2.0, (2, 5, 5))
    field = smooth_field(nodes, 65, 65)
    assert field.shape == (65, 65, 2)
    at_nodes = field[::16, ::16].permute(2, 0, 1).double()
    assert torch.allclose(at_nodes, torch.from_numpy(nodes), atol=1e-5)
    # neighbouring pixels differ by no more than the steepest cubic between two nodes
    steepest = 2.0 * np.abs(nodes).max() * 1.75 / 16
    assert float(field.diff(dim=0).abs().max()) < steepest
    constant = smooth_field(np.full((1, 5, 5), 1.5), 20, 30)
    assert torch.allclose(constant, torch.full((20, 30, 1), 1.5), atol=1e-5)


def test_displacement_samples_the_image_where_the_field_points():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    positions = torch.stack([columns, rows], dim=-1)  # every pixel holds its own x and y
    field = smooth_field(np.random.default_rng(0).normal(0.0, 1.5, (2, 5, 5)), 40, 50)
    moved = displaced(positions, field)
    inner = (slice(8, -8), slice(8, -8))
    assert torch.allclose((moved - positions)[inner], field[inner], atol=1e-4)
    still = displaced(positions, torch.zeros(40, 50, 2))
    assert torch.allclose(still, positions, atol=1e-4)


def test_all_images_of_a_view_move_together(clean, distorted):
    views, field = distorted.views, distorted.displacement_px
    for view in range(1, len(views)):
        mask = displaced(clean.masks[view, ..., None], field[view])[..., 0].clamp(0.0, 1.0)
        assert torch.allclose(views.masks[view], mask, atol=0.5 / 255)
        # background stays white, without normals
        empty = views.masks[view] == 0.0
        assert torch.equal(views.colour[view][empty], torch.ones(int(empty.sum()), 3))
        assert torch.equal(views.normals[view][empty], torch.zeros(int(empty.sum()), 3))
        length = views.normals[view][mask > 0.5].norm(dim=1)
        assert torch.allclose(length, torch.ones_like(length), atol=1e-5)


def test_first_view_is_exact_and_the_others_are_not(clean, distorted):
    for name in ("colour", "masks", "normals"):
        before, after = getattr(clean, name), getattr(distorted.views, name)
        assert torch.equal(after[0], before[0])
        assert all(not torch.equal(after[view], before[view]) for view in range(1, len(clean)))
    assert not distorted.displacement_px[0].any()


def test_same_seed_repeats_and_only_the_displacement_depends_on_its_configuration(clean):
    first, again, other = (distort_views(clean, DistortionConfig(), seed) for seed in (3, 3, 4))
    assert torch.equal(first.views.colour, again.views.colour)
    assert torch.equal(first.views.normals, again.views.normals)
    assert not torch.equal(first.displacement_px, other.displacement_px)
    still = distort_views(clean, DistortionConfig(9, 0.0), seed=3).views
    assert torch.allclose(still.masks, clean.masks, atol=1e-6)
    inside = (clean.masks == 1.0) & (clean.colour.amax(dim=-1) < 0.8)
    inside[0] = False
    gain = (still.colour / clean.colour.clamp_min(1e-3))[inside]
    assert gain.std() == pytest.approx(GAIN_SIGMA, rel=0.5)
    assert gain.mean() == pytest.approx(1.0, abs=0.05)


def test_nodes_have_the_configured_size_at_256_px_and_scale_with_the_image(clean):
    nodes = []
    for seed in range(8):
        field = distort_views(clean, DistortionConfig(5, 2.0), seed).displacement_px[1:]
        nodes.append(field[:, [0, -1]][:, :, [0, -1]])  # the corners are nodes
    sigma = torch.stack(nodes).std()  # of 320 numbers: relative error 4 %
    # pixel centres of the first and last row lie on the outer nodes
    assert float(sigma) == pytest.approx(2.0 * 96 / 256, rel=0.16)


@pytest.mark.parametrize("kind", ["generated", "generated_fine"])
def test_perturbation_renders_and_distorts(l_solid, clean, kind):
    config = PerturbationConfig(kind, seed=3, supersample=2)
    perturbed = render_perturbed_views(l_solid, clean.cameras, config)
    strength = DistortionConfig() if kind == "generated" else DistortionConfig(9, 1.0)
    expected = distort_views(clean, strength, 3)
    assert torch.equal(perturbed.views.colour, expected.views.colour)
    assert torch.equal(perturbed.views.normals, expected.views.normals)
    assert torch.equal(perturbed.displacement_px, expected.displacement_px)
    assert torch.equal(perturbed.true_cameras.world_to_camera, clean.cameras.world_to_camera)
    in_camera = render_perturbed_views(
        l_solid, clean.cameras, replace(config, camera_frame_normals=True)
    ).views
    assert in_camera.normal_frame == "camera"
    back = in_camera.with_world_normals().normals
    assert torch.allclose(back, expected.views.normals, atol=1e-5)


def test_colour_has_exact_images_without_normals(l_solid, clean):
    views = render_perturbed_views(
        l_solid, clean.cameras, PerturbationConfig("colour", supersample=2)
    ).views
    assert torch.equal(views.colour, clean.colour) and torch.equal(views.masks, clean.masks)
    assert views.normals is None


def test_orbit576_has_the_cameras_of_sv3d():
    cameras = perturbation_cameras("orbit576")
    assert (len(cameras), cameras.width, cameras.height) == (21, 576, 576)
    assert torch.allclose(cameras.elevation_deg, torch.full((21,), 10.0), atol=1e-3)
    assert torch.allclose(cameras.positions.norm(dim=1), torch.full((21,), 2.0), atol=1e-5)
    fov_deg = 2.0 * np.rad2deg(np.arctan(288.0 / float(cameras.intrinsics[0, 0, 0])))
    assert fov_deg == pytest.approx(33.8, abs=1e-3)
    assert len(perturbation_cameras("generated")) == 16
