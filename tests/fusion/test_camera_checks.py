"""Common mistakes about cameras are named; right views pass, whatever their noise."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.perturbations import noisy_cameras
from nova3d_core.fusion.checks.cameras import check_cameras, judge_cameras, warn_about_cameras
from nova3d_core.fusion.checks.consistency import MAX_VIEWS, ConsistencyScorer
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

RIG = RigConfig(count=12, width_px=80, height_px=80)


def render(mesh: Mesh, cameras=None) -> Views:
    return render_views(mesh, cameras or orbit_cameras(RIG), RenderConfig(1)).views


def reordered(views: Views, order: list[int]) -> Views:
    """The images in another order, on the same cameras."""
    return replace(views, colour=views.colour[order], masks=views.masks[order], normals=None)


def declared_as(views: Views, rig: RigConfig) -> Views:
    return replace(views, cameras=orbit_cameras(rig))


@pytest.fixture(scope="module")
def views(l_solid) -> Views:
    return render(l_solid)


@functools.cache
def striped_ball(make_sphere) -> Mesh:
    """A sphere with four colours around its axis."""
    mesh = make_sphere(0.4)
    quarter = ((mesh.vertices[:, 0] > 0).long() * 2 + (mesh.vertices[:, 2] > 0)).long()
    palette = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.1]])
    return replace(mesh, vertex_colours=palette[quarter])


ORDERS = {
    "in reversed order: clockwise": [-index % 12 for index in range(12)],
    "in alphabetical order": sorted(range(12), key=str),
    "views 2 and 7 are swapped": [0, 1, 7, 3, 4, 5, 6, 2, 8, 9, 10, 11],
}


@pytest.mark.parametrize("named", ORDERS)
def test_order_is_named(views, named):
    assert named in judge_cameras(reordered(views, ORDERS[named])).problem


def test_sure_mistakes_are_errors(views):
    with pytest.raises(InputError, match="Reverse the order of the images"):
        check_cameras(reordered(views, ORDERS["in reversed order: clockwise"]))


@pytest.mark.parametrize(("true_deg", "declared_deg"), [(30.0, 0.0), (0.0, 30.0), (20.0, -20.0)])
def test_elevation_is_named(l_solid, true_deg, declared_deg):
    views = render(l_solid, orbit_cameras(replace(RIG, elevation_deg=true_deg)))
    wrong = declared_as(views, replace(RIG, elevation_deg=declared_deg))
    named = f"{true_deg:.0f} degrees fits better than {declared_deg:.0f} degrees"
    assert named in judge_cameras(wrong).problem
    assert judge_cameras(views).problem == ""


def test_half_an_orbit_is_named(l_solid):
    azimuths = [15.0 * index for index in range(12)]
    half = render(l_solid, cameras_at(azimuths, [0.0] * 12, RIG))
    assert "half of the cameras' orbit" in judge_cameras(declared_as(half, RIG)).problem


def test_clockwise_cameras_may_be_declared(l_solid):
    azimuths = [-30.0 * index for index in range(12)]
    right = render(l_solid, cameras_at(azimuths, [10.0] * 12, RIG))
    assert judge_cameras(right).problem == ""
    wrong = reordered(right, [-index % 12 for index in range(12)])
    assert "counter-clockwise (seen from above), but the cameras are clockwise" in (
        judge_cameras(wrong).problem
    )


def test_noisy_poses_pass(l_solid, caplog):
    config = PerturbationConfig("noisy", 1, rotation_sigma_deg=3.0, translation_sigma=0.015)
    cameras = orbit_cameras(RIG)
    noisy = render(l_solid, noisy_cameras(cameras, config))
    with caplog.at_level(logging.WARNING):
        check_cameras(replace(noisy, cameras=cameras))
    assert not caplog.records


@pytest.mark.parametrize("kind", ["orthographic", "perspective"])
def test_thin_plates_seen_edge_on_pass(l_solid, kind):
    """Two of four views see a plate edge-on: it is thinner than the steps along the rays."""
    plate = l_solid.transformed(torch.diag(torch.tensor([1.0, 1.0, 0.06, 1.0])))
    rig = RigConfig(count=4, width_px=256, height_px=256, kind=kind)
    views = render_views(plate, orbit_cameras(rig), RenderConfig(2)).views
    assert judge_cameras(views).problem == ""
    score = ConsistencyScorer.of(views).silhouette_score(views.cameras.world_to_camera)
    assert score < 0.001


def test_colours_decide_what_silhouettes_cannot(make_sphere, caplog):
    """A level orthographic orbit in reversed order has the same silhouettes, mirrored in depth."""
    views = render(striped_ball(make_sphere), orbit_cameras(replace(RIG, kind="orthographic")))
    wrong = reordered(views, ORDERS["in reversed order: clockwise"])
    with caplog.at_level(logging.WARNING):
        verdict = check_cameras(wrong)  # a warning, no error
    assert "the colours do not match" in caplog.text and not verdict.is_sure
    assert judge_cameras(views).problem == ""


def test_undetectable_mistakes_are_noted(make_sphere):
    grey = render(make_sphere(0.4), orbit_cameras(replace(RIG, kind="orthographic")))
    verdict = judge_cameras(grey)
    assert verdict.problem == ""
    order, elevation = verdict.notes
    assert "order" in order and "cannot be known" in order
    assert "elevation" in elevation and "cannot be known" in elevation


def test_the_same_views_are_judged_once(views):
    assert judge_cameras(views) is judge_cameras(replace(views, normals=None))
    assert judge_cameras(views) is not judge_cameras(replace(views, masks=views.masks.clone()))


def test_repeated_images_are_named(views, caplog):
    everywhere = judge_cameras(reordered(views, [0] * 12))
    assert everywhere.is_sure and everywhere.problem == "all 12 views show the same image"
    order = [*range(6), 5, *range(7, 12)]
    with caplog.at_level(logging.WARNING):
        warn_about_cameras(reordered(views, order))
    assert "views 5 and 6 show the same image" in caplog.text


def test_symmetry_is_no_repetition(make_sphere):
    """A plain ball looks the same from everywhere, a box the same from in front and behind."""
    assert judge_cameras(render(make_sphere(0.4))).problem == ""
    ball = striped_ball(make_sphere)
    opposite = ball.vertices[:, :1] * ball.vertices[:, 2:] > 0  # two colours, in quarters
    two_fold = replace(
        ball, vertex_colours=torch.where(opposite, 0.2, 0.9).expand(-1, 3).contiguous()
    )
    assert judge_cameras(render(two_fold)).problem == ""


def test_surfaces_of_revolution_look_the_same_from_any_elevation(make_sphere):
    """Horizontal bands are curved in images from above: their rows have several colours."""
    ball = make_sphere(0.4)
    bands = (ball.vertices[:, 1:2] * 10.0).floor() % 2.0
    banded = replace(ball, vertex_colours=(0.2 + 0.7 * bands).expand(-1, 3).contiguous())
    seen = render(banded, orbit_cameras(replace(RIG, elevation_deg=30.0)))
    # exactly the same: rendered triangles differ by more than copies do
    right = judge_cameras(reordered(seen, [0] * len(seen)))
    assert right.problem == ""
    assert any("elevation" in note for note in right.notes)


def test_cost_is_limited_for_many_views(l_solid):
    """A subset is scored, but the mistake is named as for few views."""
    count = MAX_VIEWS + 8
    views = render(l_solid, orbit_cameras(replace(RIG, count=count)))
    assert len(ConsistencyScorer.of(views).pixels) == MAX_VIEWS
    assert judge_cameras(views).problem == ""
    clockwise = reordered(views, [-index % count for index in range(count)])
    assert "in reversed order: clockwise" in judge_cameras(clockwise).problem


def test_repeated_images_of_many_views(make_sphere):
    """One image in each of 64 views: 2016 equal pairs, whose symmetries are compared."""
    ball = striped_ball(make_sphere)
    views = render(ball, orbit_cameras(replace(RIG, count=64)))
    started = time.process_time()
    problem = judge_cameras(reordered(views, [0] * 64)).problem
    assert problem == "all 64 views show the same image"
    assert time.process_time() - started < 15.0  # without limits more than a minute
