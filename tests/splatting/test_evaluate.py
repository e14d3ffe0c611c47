"""Evaluation of splats by their images, and fusion of their renders."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.fusion.config import HullConfig
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.stages import extract_mesh, fuse_to_surface
from nova3d_core.progress import Progress
from nova3d_core.splats import Splats
from nova3d_core.splatting.evaluate import evaluate_splats
from nova3d_core.splatting.render import splat_views

pytest.importorskip("warp")

OPACITY = 0.99
SMALL = EvaluateConfig(image_px=48, supersample=1)


@pytest.fixture(scope="module")
def sphere(make_sphere):
    return make_sphere(0.4)


@pytest.fixture(scope="module")
def ball():
    """One splat whose opacity falls to 0.5 at a radius of 0.5, that of the normalised sphere."""
    sigma = 0.5 / math.sqrt(2.0 * math.log(2.0 * OPACITY))
    return Splats(
        positions=torch.zeros(1, 3),
        scales=torch.full((1, 3), sigma),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        opacities=torch.tensor([OPACITY]),
        colours=torch.ones(1, 3),
    )


@pytest.fixture(scope="module")
def report(sphere, ball):
    return evaluate_splats(ball, sphere, SMALL)[0]


def test_splats_on_the_reference_match_its_images(sphere, report):
    assert set(report.metrics) == {"images_all", "images_el0", "images_el25"}
    assert report.metrics["images_all"]["mask_iou"] > 0.93  # the sphere, nearer, appears larger
    mesh = evaluate_mesh(sphere.normalised(), sphere, SMALL)
    assert set(report.metrics["images_all"]) < set(mesh.metrics["images_all"])
    assert any(note.startswith("No distances, volume or normals") for note in report.notes)


def test_moved_splats_are_worse_unless_they_are_aligned(sphere, random_splats):
    splats = random_splats(300)
    moved = splats.transformed(0.7, torch.tensor([0.5, 0.0, -0.3]))
    aligned = replace(SMALL, align="bbox")
    same, again = (evaluate_splats(s, sphere, aligned)[0].metrics for s in (moved, splats))
    assert same["images_all"] == pytest.approx(again["images_all"], rel=1e-3)
    worse = evaluate_splats(moved, sphere, SMALL)[0].metrics
    assert worse["images_all"]["mask_iou"] < again["images_all"]["mask_iou"] - 0.05


def test_evaluation_can_be_cancelled(sphere, ball):
    seen = []
    progress = Progress(seen.append, lambda: bool(seen) and seen[-1].stage == "rendering splats")
    with pytest.raises(Cancelled):
        evaluate_splats(ball, sphere, SMALL, progress)
    assert [event.stage for event in seen].count("rendering splats") == 1


def test_renders_of_splats_fuse_into_their_shape(ball):
    """Views from above and below, too, so that the hull of a ball is nearly a ball."""
    poses = [(az, el) for el in (-30.0, 10.0, 50.0) for az in range(0, 360, 45)]
    rig = RigConfig(width_px=64, height_px=64)
    cameras = cameras_at([az for az, _ in poses], [el for _, el in poses], rig)
    config = FuseConfig(method="hull", hull=HullConfig(resolution=48))
    mesh = extract_mesh(fuse_to_surface(splat_views(ball, cameras), config)[0])
    radius = mesh.vertices.norm(dim=1)
    assert float(radius.mean()) == pytest.approx(0.5, abs=0.02)
    assert float((radius - 0.5).abs().max()) < 0.06
