"""Whether views fit a mesh: known scales, translations and rotations, and sets that do fit."""

from __future__ import annotations

import logging
import math
import re
import time
from dataclasses import replace

import pytest
import torch
import trimesh

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.cameras.rotations import axis_angle_to_matrix
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.perturbations import render_perturbed_views
from nova3d_core.fusion.config import HullConfig
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.simplify import simplify
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.stages import bake_views, extract_mesh, hull_surface, refine_views
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.view_fit import check_views_fit
from nova3d_core.training.procedural.catalog import procedural_object
from nova3d_core.views import Views

RIGS = {
    "orbit": RigConfig(count=8, elevation_deg=30.0, width_px=96, height_px=96),
    "level": RigConfig(count=4, width_px=96, height_px=96),
}


@pytest.fixture(scope="module")
def solid() -> Mesh:
    """A slanted procedural object without symmetries."""
    return procedural_object(2).normalised()


@pytest.fixture(scope="module")
def views(solid) -> Views:
    return render_views(solid, orbit_cameras(RIGS["level"])).views


@pytest.fixture(scope="module")
def orbit_views(solid) -> Views:
    return render_views(solid, orbit_cameras(RIGS["orbit"])).views


def moved(mesh: Mesh, scale: float = 1.0, shift=(0.0, 0.0, 0.0), rotation_deg=(0.0, 0.0, 0.0)):
    matrix = torch.eye(4)
    matrix[:3, :3] = scale * axis_angle_to_matrix(torch.tensor(rotation_deg) * math.pi / 180.0)
    matrix[:3, 3] = torch.tensor(shift)
    return mesh.transformed(matrix)


def test_the_mesh_of_the_views_fits(solid, views, orbit_views, caplog):
    for each in (views, orbit_views):
        found = check_views_fit(solid, each)
        assert found.fit > 0.99 and found.iou > 0.94
    assert check_views_fit(solid, replace(views, masks=None)).fit > 0.99
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "fault", "remedy"),
    [
        ({"scale": 1.3}, r"The mesh is 1\.3\d times too large", r"Scale it by 0\.7[67]"),
        ({"scale": 0.5}, r"The mesh is (1\.9[6-9]|2\.0\d) times too small", "Scale it by"),
        ({"scale": 2.5, "shift": (0.0, 1.2, 0.0)}, "times too large and displaced", "Scale it"),
        ({"shift": (0.3, 0.0, 0.0)}, r"displaced by 0\.(29|30|31) of its size", r"by \(-0\.(29|3)"),
        ({"rotation_deg": (90.0, 0.0, 0.0)}, "rotated by 90 degrees about X", "by -90 degrees"),
        ({"rotation_deg": (0.0, 45.0, 0.0)}, "rotated by 45 degrees about Y", "by -45 degrees"),
        (
            {"rotation_deg": (0.0, 0.0, 90.0), "scale": 1.5, "shift": (0.0, 0.2, 0.0)},
            r"rotated by 90 degrees about Z and 1\.\d+ times too large and displaced",
            "Rotate it",
        ),
    ],
)
def test_what_is_off_is_named_and_refused(solid, views, change, fault, remedy):
    with pytest.raises(InputError, match=r"do not fit .* IoU of 0\.\d\d") as caught:
        check_views_fit(moved(solid, **change), views)
    assert re.search(fault, caught.value.message), caught.value.message
    assert re.search(remedy, caught.value.hint), caught.value.hint
    assert len(str(caught.value)) < 500


def box(*size: float) -> Mesh:
    solid = trimesh.creation.box(size)
    return Mesh(torch.tensor(solid.vertices).float(), torch.tensor(solid.faces))


@pytest.mark.parametrize(
    ("size", "change", "fault"),
    [
        ((0.6, 0.6, 1.0), {"rotation_deg": (0.0, 90.0, 0.0)}, "rotated by 90 degrees about Y "),
        ((0.3, 0.5, 1.0), {"rotation_deg": (0.0, 30.0, 0.0)}, "rotated by 30 degrees about Y "),
        ((1.0, 0.03, 0.7), {"shift": (0.3, 0.0, 0.0)}, "displaced by 0.30 of its size"),
    ],
)
def test_symmetric_and_flat_objects(size, change, fault):
    """Of equal rotations the smallest is named; flat objects do not vanish in the search."""
    mesh = box(*size)
    cameras = orbit_cameras(replace(RIGS["level"], width_px=192, height_px=192))
    with pytest.raises(InputError, match=f"The mesh is {fault}"):
        check_views_fit(moved(mesh, **change), render_views(mesh, cameras).views)


def test_rotations_are_judged_at_the_size_of_the_check(caplog):
    """At the smaller size of the search, the tolerance of one pixel hides this one."""
    sign = procedural_object(3, "sign").normalised()
    cameras = orbit_cameras(replace(RIGS["orbit"], count=12, elevation_deg=20.0))
    wrong = moved(sign, rotation_deg=(0.0, 30.0, 0.0))
    check_views_fit(wrong, render_views(sign, cameras).views)
    assert "rotated by 30 degrees about Y" in caplog.text


def test_thin_silhouettes_may_deviate_by_their_width(caplog):
    """The edge-on views of a card, off by 2 % of the image."""
    card = box(0.03, 1.0, 0.7)
    cameras = orbit_cameras(replace(RIGS["level"], width_px=192, height_px=192))
    seen = render_views(card, cameras).views
    masks = seen.masks.clone()
    masks[[0, 2]] = masks[[0, 2]].roll(4, dims=2)
    assert check_views_fit(card, replace(seen, masks=masks)).fit > 0.99
    assert not caplog.records


def test_likely_misfits_and_mattes_are_warnings(solid, views, caplog):
    check_views_fit(moved(solid, scale=1.13), views)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "times too large" in record.getMessage()
    caplog.clear()
    check_views_fit(moved(solid, scale=1.5), replace(views, masks=None))
    assert "times too large" in caplog.text


def test_another_object_is_a_warning_and_one_out_of_sight_is_refused(solid, views, caplog):
    with pytest.raises(InputError, match="do not fit"):
        check_views_fit(moved(solid, shift=(0.0, 0.0, 30.0)), views)
    other = solid.transformed(torch.diag(torch.tensor([1.0, 0.1, 0.4, 1.0])))
    check_views_fit(other, views)
    assert "do not fit the mesh" in caplog.text


def test_a_wrong_view_is_named(solid, orbit_views, caplog):
    masks = orbit_views.masks.clone()
    masks[5] = 0.0
    masks[5, 8:30, 8:20] = 1.0
    check_views_fit(solid, replace(orbit_views, masks=masks))
    assert "view 5 does not fit" in caplog.text


@pytest.mark.parametrize("seed", [0, 2])
def test_right_sets_pass_without_a_warning(seed, caplog):
    """Noisy poses, simplified meshes, hulls of a few views, and views without masks."""
    mesh = procedural_object(seed).normalised()
    cameras = orbit_cameras(RIGS["orbit"])
    noisy = render_perturbed_views(mesh, cameras, PerturbationConfig("noisy", supersample=1)).views
    few = render_views(mesh, orbit_cameras(RIGS["level"])).views
    hull = extract_mesh(hull_surface(few, FuseConfig(hull=HullConfig(resolution=64))))
    coarse = simplify(mesh, 600)
    caplog.clear()
    check_views_fit(mesh, noisy)
    check_views_fit(hull, few)
    check_views_fit(coarse, few)
    check_views_fit(coarse, replace(few, masks=None))
    assert not caplog.records


def test_baking_and_pose_refinement_check_before_the_work(solid, views):
    large, stages = moved(solid, scale=1.4), []
    progress = Progress(lambda event: stages.append(event.stage))
    with pytest.raises(InputError, match="times too large"):
        bake_views(large, views, progress=progress)
    with pytest.raises(InputError, match="times too large"):
        refine_views(views, progress=progress, mesh=large)
    assert not stages


def test_the_search_can_be_cancelled(solid, views):
    start = time.monotonic()
    progress = Progress(is_cancelled=lambda: True)
    with pytest.raises(Cancelled):
        check_views_fit(moved(solid, rotation_deg=(90.0, 0.0, 0.0)), views, progress)
    assert time.monotonic() - start < 5.0


def test_views_without_a_silhouette_are_skipped(solid, views):
    assert check_views_fit(solid, replace(views, masks=torch.ones_like(views.masks))) is None
