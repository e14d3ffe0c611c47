"""Fitting splats to rendered views: start on the hull, recovery, warps, repeatability, cancel."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.metrics.image import mask_iou, psnr, ssim
from nova3d_core.evaluation.metrics.poses import pose_errors
from nova3d_core.evaluation.perturbations import render_perturbed_views
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.perceptual import losses
from nova3d_core.perceptual.losses import image_loss, ssim_map
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views
from nova3d_core.splats import Splats
from nova3d_core.splatting import fit as fit_module
from nova3d_core.splatting import parameters
from nova3d_core.splatting.config import SplatFitConfig
from nova3d_core.splatting.fit import fit_splats
from nova3d_core.splatting.initialise import initial_splats, neighbour_distances
from nova3d_core.splatting.memory import check_splat_memory, splat_memory_bytes
from nova3d_core.splatting.render import splat_views
from nova3d_core.splatting.warps import ViewWarps

pytest.importorskip("warp")

KNIGHT = Path(fit_module.__file__).parents[1] / "assets" / "character_knight.glb"


def rig(count=12, size=64, **settings) -> RigConfig:
    return RigConfig(count=count, width_px=size, height_px=size, **settings)


@pytest.fixture(scope="module")
def sphere_views(make_sphere):
    return render_views(make_sphere(0.4), orbit_cameras(rig(18, 96))).views.without_normals()


@pytest.fixture(scope="module")
def patterned_views(make_sphere):
    """Views of a sphere with a colour pattern, so that displacements show."""
    mesh = make_sphere(0.4)
    colours = 0.5 + 0.4 * torch.sin(14.0 * mesh.vertices + torch.tensor([0.0, 1.0, 2.0]))
    return render_views(
        replace(mesh, vertex_colours=colours), orbit_cameras(rig(10, 64))
    ).views.without_normals()


@pytest.fixture(scope="module")
def start(sphere_views):
    """Splats on the hull of the sphere."""
    return initial_splats(sphere_views, 4000, seed=0)


@pytest.fixture(scope="module")
def quick_fit(sphere_views):
    return fit_splats(sphere_views, SplatFitConfig(count=800, steps=60))


def mean_psnr(views, reference) -> float:
    pairs = zip(views.colour, reference.colour, strict=True)
    return sum(psnr(ours, theirs) for ours, theirs in pairs) / len(views)


def test_hull_of_a_sphere_starts_at_its_radius(start):
    """The hull of level views touches the sphere at the equator and exceeds it at the poles."""
    radius = start.positions.norm(dim=1)
    equator = start.positions[:, 1].abs() < 0.05
    assert int(equator.sum()) > 200
    assert float((radius[equator] - 0.4).abs().max()) < 0.01
    assert float(radius.min()) > 0.39


def test_colours_start_as_the_views_show_them(sphere_views, start):
    level = start.positions[:, 1].abs() < 0.2
    object_colour = sphere_views.colour[0][sphere_views.masks[0] == 1.0].mean(dim=0)
    assert float((start.colours[level] - object_colour).abs().mean()) < 0.1


def test_neighbour_distances_of_a_lattice():
    axis = torch.arange(4) * 0.5
    points = torch.cartesian_prod(axis, axis, axis)
    assert neighbour_distances(points) == pytest.approx(torch.full((64,), 0.5))


@pytest.mark.slow
def test_splats_recover_from_noise(random_splats):
    """500 splats, moved, recoloured and refitted to the images of the original ones."""
    truth = random_splats(500)
    truth = replace(truth, opacities=truth.opacities * 0.8 + 0.2)
    views = splat_views(truth, orbit_cameras(rig(18)))
    noise = torch.Generator().manual_seed(3)
    noisy = Splats(
        positions=truth.positions + 0.01 * torch.randn(500, 3, generator=noise),
        scales=truth.scales * torch.exp(0.1 * torch.randn(500, 3, generator=noise)),
        rotations=truth.rotations + 0.05 * torch.randn(500, 4, generator=noise),
        opacities=truth.opacities,
        colours=(truth.colours + 0.1 * torch.randn(500, 3, generator=noise)).clamp(0, 1),
    )
    before = mean_psnr(splat_views(noisy, views.cameras), views)
    fit = fit_splats(
        views, SplatFitConfig(steps=300, perceptual="none", match_exposure=False), start=noisy
    )
    after = mean_psnr(splat_views(fit.splats, views.cameras), views)
    assert before < 28.0
    assert after > 35.0


def test_same_seed_gives_the_same_splats(sphere_views, quick_fit):
    config = SplatFitConfig(count=800, steps=60)
    again = fit_splats(sphere_views, config)
    other = fit_splats(sphere_views, replace(config, seed=1))
    for name, value in vars(quick_fit.splats).items():
        assert torch.equal(value, getattr(again.splats, name))
    assert not torch.equal(quick_fit.splats.positions[:100], other.splats.positions[:100])


def test_one_splat_for_one_step_is_a_fit(sphere_views):
    fit = fit_splats(sphere_views, SplatFitConfig(count=1, steps=1))
    assert fit.report.initial_count == fit.report.count == 1
    assert float(fit.splats.positions.norm()) == pytest.approx(0.4, abs=0.05)


def test_fit_shows_the_object_from_other_sides(quick_fit, start, make_sphere):
    cameras = orbit_cameras(rig(7, 96, azimuth_start_deg=13.0))
    truth = render_views(make_sphere(0.4), cameras).views
    before, after = (splat_views(splats, cameras) for splats in (start[:800], quick_fit.splats))
    overlap = [mask_iou(*masks) for masks in zip(after.masks, truth.masks, strict=True)]
    assert min(overlap) > 0.85  # the hull of level views exceeds the poles
    assert mean_psnr(after, truth) > mean_psnr(before, truth) + 3.0
    assert quick_fit.report.count == len(quick_fit.splats) <= 800


def test_every_step_is_reported(sphere_views, start):
    events = []
    fit_splats(sphere_views, SplatFitConfig(steps=20), Progress(events.append), start=start[:200])
    fitting = [event for event in events if event.stage == "fitting splats"]
    done = [event.step for event in fitting]
    assert done[:20] == list(range(1, 21))
    assert done == sorted(done)
    assert done[-1] == fitting[-1].total
    assert len({event.total for event in fitting}) == 1


def test_cancel_takes_effect_within_a_step(sphere_views, start):
    seen = []
    progress = Progress(seen.append, lambda: any(event.step == 5 for event in steps(seen)))
    with pytest.raises(Cancelled):
        fit_splats(sphere_views, SplatFitConfig(steps=50), progress, start=start[:200])
    assert max(event.step for event in steps(seen)) <= 6


def steps(events):
    return [event for event in events if event.stage == "fitting splats"]


@pytest.mark.parametrize("align", [True, False])
def test_consistent_views_are_not_warped(sphere_views, start, align):
    config = SplatFitConfig(
        steps=60, perceptual="aligned" if align else "none", match_exposure=align
    )
    events = []
    fit = fit_splats(sphere_views, config, Progress(events.append), start=start[:400])
    assert fit.report.warp_px == fit.report.gain_percent == 0.0
    done = [event.step for event in steps(events)]
    assert done == sorted(done)
    assert {event.total for event in steps(events)} == {done[-1]}


@pytest.mark.parametrize("steps", [20, 40, 60])
def test_few_steps_do_not_warp_exact_views(patterned_views, steps):
    """Coarse splats differ from all views: a warp that reduces the loss explains nothing."""
    fit = fit_splats(patterned_views, SplatFitConfig(count=500, steps=steps))
    assert fit.report.warp_px == 0.0
    assert torch.equal(fit.views.colour, patterned_views.colour)


def test_warps_are_identity_at_the_start_and_fix_view_0(sphere_views):
    warps = ViewWarps(3, 96, 96, torch.device("cpu"))
    image = sphere_views.colour[0]
    torch.testing.assert_close(warps.apply_to(image, 1), image, atol=1e-6, rtol=0)
    with torch.no_grad():
        warps.nodes_px.fill_(2.0)
        warps.log_gain.fill_(0.1)
    torch.testing.assert_close(warps.apply_to(image, 0), image, atol=1e-6, rtol=0)


def test_constant_warp_moves_the_image_by_its_pixels(sphere_views):
    warps = ViewWarps(2, 96, 96, torch.device("cpu"))
    with torch.no_grad():
        warps.nodes_px[1, 0], warps.nodes_px[1, 1] = 3.0, -2.0
    image = sphere_views.colour[4]
    moved = warps.apply_to(image, 1).detach()
    torch.testing.assert_close(moved[10:80, 10:80], image[8:78, 13:83], atol=1e-5, rtol=0)
    rms_px = warps.displacement_px(1).square().sum(dim=-1).mean().sqrt()
    assert float(rms_px) == pytest.approx(13**0.5)


def test_ssim_equals_the_metric_away_from_the_border():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(40, 50, 3, generator=generator)
    other = (image + 0.2 * torch.rand(40, 50, 3, generator=generator)).clamp(0, 1)
    ours = ssim_map(image.permute(2, 0, 1), other.permute(2, 0, 1))[:, 5:-5, 5:-5].mean()
    assert float(ours) == pytest.approx(ssim(image, other), abs=1e-5)
    assert float(image_loss(image, image, 0.2)) == pytest.approx(0.0, abs=1e-6)


def test_scale_of_the_world_does_not_matter(sphere_views, start):
    """A world 8 times larger gives splats 8 times larger, exactly: 8 is a power of two."""
    cameras = sphere_views.cameras
    poses = cameras.world_to_camera.clone()
    poses[:, :3, 3] *= 8.0
    large = replace(sphere_views, cameras=replace(cameras, world_to_camera=poses))
    few = start[:200]
    scaled = replace(few, positions=8.0 * few.positions, scales=8.0 * few.scales)
    config = SplatFitConfig(steps=10)
    ours = fit_splats(sphere_views, config, start=few).splats
    theirs = fit_splats(large, config, start=scaled).splats
    assert torch.equal(theirs.positions, 8.0 * ours.positions)
    assert torch.equal(theirs.scales, 8.0 * ours.scales)
    assert torch.equal(theirs.colours, ours.colours)


def test_views_that_cannot_be_carved_are_errors(sphere_views):
    with pytest.raises(InputError, match="needs at least 2"):
        fit_splats(sphere_views[0])
    with pytest.raises(InputError, match="no masks"):
        fit_splats(replace(sphere_views, masks=None))


def test_contradicting_silhouettes_are_named(sphere_views, start, make_sphere, caplog):
    """One image shows a sphere twice as small; the fit goes on with what the others agree on."""
    views = sphere_views[::4]
    small = render_views(make_sphere(0.2), views.cameras[3]).views
    colour, masks = views.colour.clone(), views.masks.clone()
    colour[3], masks[3] = small.colour[0], small.masks[0]
    with caplog.at_level(logging.WARNING):
        fit_splats(views, SplatFitConfig(steps=1), start=start[:50])
        assert caplog.text == ""
        fit_splats(replace(views, colour=colour, masks=masks), SplatFitConfig(steps=1))
    assert "the silhouette of view 3 contradicts the others" in caplog.text


def test_inverted_masks_are_an_error(sphere_views):
    with pytest.raises(InputError, match="inverted"):
        fit_splats(replace(sphere_views, masks=1.0 - sphere_views.masks))


def test_divergence_is_an_error(sphere_views, start, monkeypatch):
    rates = dict.fromkeys(parameters.LEARNING_RATES, (10000.0, 10000.0))
    monkeypatch.setattr(parameters, "LEARNING_RATES", rates)
    with pytest.raises(StageError, match="fitting splats"):
        fit_splats(sphere_views, SplatFitConfig(steps=20), start=start[:200])


def test_gradients_of_ssim_are_exact():
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(2, 9, 13, generator=generator) for _ in range(2)]
    images = [image.double().requires_grad_() for image in images]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "gaussian_band", lambda size, _: band(size))
        patch.setattr(losses, "_BLOCK_PX", 4)
        assert torch.autograd.gradcheck(ssim_map, images)


def band(size: int):
    """The blur matrix in float64, written out."""
    taps = [[math.exp(-((i - j) ** 2) / 4.5) for j in range(size)] for i in range(size)]
    total = sum(math.exp(-(k**2) / 4.5) for k in range(-5, 6))
    inside = [[abs(i - j) <= 5 for j in range(size)] for i in range(size)]
    return torch.tensor(taps).double() * torch.tensor(inside) / total


def with_displaced_colours(views, gain=1.0, shift_px=2.0):
    """The views but the first, each moved by its own smooth warp and multiplied by its own gain."""
    generator = torch.Generator().manual_seed(0)
    warps = ViewWarps(len(views), 64, 64, torch.device("cpu"))
    with torch.no_grad():
        warps.nodes_px.copy_(shift_px * (2 * torch.rand(10, 2, 3, 3, generator=generator) - 1))
        warps.log_gain.copy_(gain * (2 * torch.rand(10, 3, generator=generator) - 1))
        images = torch.cat([views.colour, views.masks[..., None]], dim=-1)
        images = [warps.apply_to(image, view) for view, image in enumerate(images)]
    images = torch.stack(images).clamp(0.0, 1.0)
    gains = warps.log_gain.detach()[1:]
    return replace(views, colour=images[..., :3], masks=images[..., 3]), gains


def test_bent_views_are_warped_back(patterned_views):
    """The images of the warped views agree with the exact ones better than the bent ones did."""
    bent, _ = with_displaced_colours(patterned_views, gain=0.0)
    fit = fit_splats(bent, SplatFitConfig(count=500, steps=60))
    assert fit.report.warp_px > 0.5
    before, after = (mean_psnr(each, patterned_views) for each in (bent, fit.views))
    assert after > before + 1.5
    assert torch.equal(fit.views.colour[0], bent.colour[0])
    plain = fit_splats(bent, SplatFitConfig(count=500, steps=60, perceptual="none"))
    assert plain.report.warp_px == 0.0
    assert fit.report.loss < 0.8 * plain.report.loss


def test_exposures_are_matched_without_warps(patterned_views):
    bright, log_gains = with_displaced_colours(patterned_views, gain=0.1, shift_px=0.0)
    fit = fit_splats(bright, SplatFitConfig(count=500, steps=120))
    assert fit.report.warp_px == 0.0
    expected = 100.0 * float((log_gains - log_gains.mean(dim=0)).square().mean().sqrt())
    assert fit.report.gain_percent == pytest.approx(expected, rel=0.15)
    assert mean_psnr(fit.views, patterned_views) > mean_psnr(bright, patterned_views) + 3.0
    config = SplatFitConfig(count=500, steps=20, match_exposure=False)
    assert fit_splats(bright, config).report.gain_percent == 0.0


def test_views_that_agree_are_returned_as_they_are(quick_fit, sphere_views):
    assert torch.equal(quick_fit.views.colour, sphere_views.colour)
    assert torch.equal(quick_fit.views.masks, sphere_views.masks)


def test_perceptual_distance_is_part_of_the_loss(sphere_views, start):
    """A distance that prefers black images darkens the splats."""

    def brightness(images, reference):
        assert images.shape == reference.shape == (1, 96, 96, 3)
        return 10.0 * images.mean(dim=(1, 2, 3))

    few = start[:300]
    dark = SplatFitConfig(steps=30, perceptual="lpips", match_exposure=False)
    ours = fit_splats(sphere_views, dark, start=few, lpips=brightness)
    plain = fit_splats(sphere_views, replace(dark, perceptual="none"), start=few, lpips=brightness)
    assert ours.splats.colours.mean() < plain.splats.colours.mean() - 0.02
    assert ours.report.perceptual == "lpips"


def test_lpips_without_weights_is_an_error_before_the_work(sphere_views, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="LPIPS"):
        fit_splats(sphere_views, SplatFitConfig(perceptual="lpips"))


def test_more_splats_than_memory_are_an_error_that_says_how_many_fit(sphere_views, monkeypatch):
    config = SplatFitConfig(count=10_000_000, memory_gib=2.0)
    with pytest.raises(InputError, match=r"10,000,000 splats .* 2\.0 GiB") as caught:
        fit_splats(sphere_views, config)
    fitting = int(caught.value.hint.split()[0].replace(",", ""))
    assert 500_000 < fitting < 2_000_000
    needed = splat_memory_bytes(fitting, sphere_views)
    assert 1.99 * 2**30 < needed <= 2 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 80 * 2**30))
    with pytest.raises(InputError, match=r"on cuda, but only 0\.9 GiB"):
        check_splat_memory(1_000_000, sphere_views, 0.0, torch.device("cuda"))
    check_splat_memory(1_000, sphere_views, 0.0, torch.device("cuda"))


@pytest.mark.slow
def test_poses_are_refined_first():
    knight = read_mesh(KNIGHT).normalised()
    noisy = render_perturbed_views(
        knight, orbit_cameras(rig(18, 96)), PerturbationConfig(kind="noisy")
    )
    config = SplatFitConfig(count=1000, steps=20, refine_poses=True)
    fit = fit_splats(noisy.views, config)
    before, after = (
        float(pose_errors(cameras, noisy.true_cameras).rotation_deg[1:].median())
        for cameras in (noisy.views.cameras, fit.views.cameras)
    )
    assert after < 0.5 * before
