from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.errors import Cancelled, InputError
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import (
    evaluate_mesh,
    evaluate_mesh_with_grid,
    normalised_reference,
)
from nova3d_core.evaluation.report import format_metrics
from nova3d_core.mesh import Mesh
from nova3d_core.perceptual.lpips import Lpips
from nova3d_core.progress import Progress

from ..perceptual.procedural import backbone_weights

QUICK = EvaluateConfig(points=20_000, iou_resolution=32, visible_px=64, image_px=32, supersample=1)
SHAPE_ONLY = replace(QUICK, with_images=False)
MIRROR_X = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))


def similarity(
    yaw_deg: float = 0.0, scale: float = 1.0, translation=(0.0, 0.0, 0.0)
) -> torch.Tensor:
    angle = math.radians(yaw_deg)
    matrix = torch.eye(4)
    matrix[0, 0], matrix[0, 2] = math.cos(angle), math.sin(angle)
    matrix[2, 0], matrix[2, 2] = -math.sin(angle), math.cos(angle)
    matrix[:3, :3] *= scale
    matrix[:3, 3] = torch.tensor(translation)
    return matrix


@pytest.fixture(scope="module")
def solid(l_solid) -> Mesh:
    return normalised_reference(l_solid, "+Y")


@pytest.fixture(scope="module")
def self_report(solid):
    return evaluate_mesh(solid, solid, QUICK)


def test_reference_against_itself_is_perfect_up_to_sampling(self_report):
    surface, visible = self_report.metrics["surface"], self_report.metrics["visible"]
    assert surface["cd_l1"] == pytest.approx(surface["sampling_floor"], rel=0.05)
    assert surface["f_at_0.02"] > 0.999
    assert surface["normal_consistency"] > 0.97
    assert surface["iou"] == 1.0
    assert surface["watertight"] is True
    assert (visible["cd_l1"], visible["f_at_0.005"], visible["f_at_0.01"]) == (0.0, 1.0, 1.0)
    assert visible["normal_consistency"] == pytest.approx(1.0, abs=1e-6)
    for group in ("all", "el0", "el25"):
        images = self_report.metrics[f"images_{group}"]
        assert (images["psnr"], images["mask_iou"]) == (99.0, 1.0)
        assert images["ssim"] == pytest.approx(1.0, abs=1e-6)
        assert images["normal_error_deg"] == 0.0


def test_mirrored_object_is_worse_in_every_metric(solid, self_report):
    mirrored = evaluate_mesh(solid.transformed(MIRROR_X), solid, QUICK).metrics
    truth = self_report.metrics
    assert mirrored["surface"]["cd_l1"] > 5 * truth["surface"]["cd_l1"]
    assert mirrored["visible"]["cd_l1"] > 0.03
    for part, name in (
        ("surface", "f_at_0.01"),
        ("surface", "f_at_0.02"),
        ("visible", "f_at_0.005"),
        ("visible", "f_at_0.01"),
        ("surface", "iou"),
        ("surface", "normal_consistency"),
        ("visible", "normal_consistency"),
        *((f"images_{group}", "mask_iou") for group in ("all", "el0", "el25")),
        *((f"images_{group}", "ssim") for group in ("all", "el0", "el25")),
    ):
        assert mirrored[part][name] < 0.95 * truth[part][name], (part, name)
    for group in ("all", "el0", "el25"):
        assert mirrored[f"images_{group}"]["psnr"] < 20.0
        assert mirrored[f"images_{group}"]["normal_error_deg"] > 5.0


def test_sphere_ten_percent_too_large_has_the_analytic_metrics(make_sphere):
    config = replace(SHAPE_ONLY, points=60_000, visible_px=128, iou_resolution=64)
    metrics = evaluate_mesh(make_sphere(0.55, 5), make_sphere(0.5, 5), config).metrics
    surface, visible = metrics["surface"], metrics["visible"]
    assert surface["cd_l1"] == pytest.approx(0.05, rel=0.02)
    assert visible["cd_l1"] == pytest.approx(0.05, rel=0.02)
    assert surface["iou"] == pytest.approx(1.1**-3, rel=0.01)
    assert (surface["f_at_0.02"], visible["f_at_0.01"]) == (0.0, 0.0)
    assert surface["normal_consistency"] > 0.99
    assert visible["normal_consistency"] > 0.99


def test_reference_size_position_and_up_axis_do_not_matter(solid):
    mesh = solid.transformed(similarity(yaw_deg=4.0))
    plain = evaluate_mesh(mesh, solid, SHAPE_ONLY).metrics
    moved = solid.transformed(similarity(scale=7.3, translation=(3.0, -20.0, 0.4)))
    from_z_up = torch.eye(4)
    from_z_up[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    lying = moved.transformed(from_z_up)
    config = replace(SHAPE_ONLY, reference_up_axis="+Z")
    for metrics in (
        evaluate_mesh(mesh, moved, SHAPE_ONLY).metrics,
        evaluate_mesh(mesh, lying, config).metrics,
    ):
        for part in ("surface", "visible"):
            # rounding may move a ray or a grid point across an edge
            assert metrics[part] == pytest.approx(plain[part], rel=2e-3)


def test_normalised_reference_is_unchanged(solid):
    again = normalised_reference(solid, "+Y")
    assert torch.equal(again.vertices, solid.vertices)


def test_lpips_is_reported_with_the_networks_that_are_given(solid, self_report):
    net = Lpips("alex", backbone_weights("alex"))
    same = evaluate_mesh(solid, solid, QUICK, lpips_nets=[net])
    mirrored = evaluate_mesh(solid.transformed(MIRROR_X), solid, QUICK, lpips_nets=[net])
    for group in ("images_all", "images_el0", "images_el25"):
        assert same.metrics[group]["lpips_alex"] == 0.0
        assert mirrored.metrics[group]["lpips_alex"] > 0.01
        assert "lpips_vgg" not in mirrored.metrics[group]
    assert "LPIPS v0.1 with alex, over whole images on white." in same.notes
    assert [line for line in format_metrics(same).splitlines() if "LPIPS" in line] == [
        "LPIPS alex        0.0000"
    ]
    assert "No LPIPS: no file of a backbone was at hand." in self_report.notes
    assert "LPIPS" not in format_metrics(self_report)


def test_lpips_of_images_that_are_too_small_is_left_out(solid):
    net = Lpips("alex", backbone_weights("alex"))
    report = evaluate_mesh(solid, solid, replace(QUICK, image_px=30), lpips_nets=[net])
    assert "lpips_alex" not in report.metrics["images_all"]
    assert "No LPIPS (alex): it needs images of at least 31 px." in report.notes


def test_open_mesh_has_no_iou_and_a_note_states_the_reason(solid):
    opened = Mesh(solid.vertices, solid.faces[1:])
    report = evaluate_mesh(opened, solid, SHAPE_ONLY)
    assert report.metrics["surface"]["iou"] is None
    assert report.metrics["surface"]["watertight"] is False
    assert report.metrics["surface"]["reference_watertight"] is True
    reason = "No IoU: the mesh is not watertight and encloses no volume."
    assert reason in report.notes
    assert format_metrics(report).splitlines()[-1] == reason
    assert report.metrics["surface"]["cd_l1"] < 0.02


def test_metrics_are_deterministic_per_seed(solid):
    mesh = solid.transformed(similarity(yaw_deg=4.0))
    first, again = (evaluate_mesh(mesh, solid, SHAPE_ONLY).metrics for _ in range(2))
    other = evaluate_mesh(mesh, solid, replace(SHAPE_ONLY, seed=5)).metrics
    assert first == again
    assert first["surface"]["cd_l1"] != other["surface"]["cd_l1"]
    assert first["surface"]["cd_l1"] == pytest.approx(other["surface"]["cd_l1"], rel=0.03)
    assert first["visible"] == other["visible"]


def test_bbox_alignment_recovers_scale_and_position(solid):
    mesh = solid.transformed(similarity(scale=2.5, translation=(1.0, 0.0, -2.0)))
    report = evaluate_mesh(mesh, solid, replace(SHAPE_ONLY, align="bbox"))
    assert report.metrics["before_surface"]["cd_l1"] > 0.5
    assert report.metrics["before_visible"] == {} or (
        report.metrics["before_visible"]["f_at_0.01"] < 0.1
    )
    assert report.metrics["visible"]["cd_l1"] < 1e-6
    assert report.metrics["surface"]["iou"] > 0.99
    assert report.metrics["alignment"]["scale"] == pytest.approx(0.4)
    assert report.metrics["alignment"]["rotation_deg"] == pytest.approx(0.0, abs=0.1)


def test_icp_recovers_rotation_translation_and_scale(solid):
    mesh = solid.transformed(similarity(yaw_deg=97.0, scale=0.8, translation=(0.05, -0.1, 0.08)))
    report = evaluate_mesh(mesh, solid, replace(SHAPE_ONLY, align="icp"))
    assert report.metrics["before_surface"]["cd_l1"] > 0.05
    assert report.metrics["surface"]["cd_l1"] < 1.3 * report.metrics["surface"]["sampling_floor"]
    assert report.metrics["visible"]["f_at_0.01"] > 0.99
    assert report.metrics["alignment"]["yaw_deg"] == pytest.approx(-97.0, abs=0.5)
    assert report.metrics["alignment"]["scale"] == pytest.approx(1.25, rel=0.005)


def test_icp_does_not_move_an_aligned_mesh(solid):
    report = evaluate_mesh(solid, solid, replace(SHAPE_ONLY, align="icp"))
    assert report.metrics["alignment"]["scale"] == 1.0
    assert report.metrics["alignment"]["translation"] == 0.0
    assert report.metrics["visible"]["cd_l1"] == 0.0


@pytest.mark.parametrize(("scale", "warns"), [(2.0, True), (0.5, True), (1.3, False)])
def test_warns_about_alignment_if_sizes_differ(solid, caplog, scale, warns):
    with caplog.at_level(logging.WARNING):
        evaluate_mesh(solid.transformed(similarity(scale=scale)), solid, SHAPE_ONLY)
    assert ("--align bbox" in caplog.text) is warns


def test_mesh_out_of_view_has_no_visible_metrics(solid):
    far = solid.transformed(similarity(translation=(0.0, 40.0, 0.0)))
    report = evaluate_mesh(far, solid, SHAPE_ONLY)
    assert report.metrics["visible"] == {}
    assert "No visible surface: no camera sees the mesh." in report.notes
    assert report.metrics["surface"]["iou"] == 0.0
    assert report.metrics["surface"]["cd_l1"] == pytest.approx(40.0, rel=0.05)


def test_syncdreamer_protocol_has_the_analytic_metrics_for_spheres(solid, make_sphere):
    config = replace(SHAPE_ONLY, protocol="syncdreamer")
    pole = solid.transformed(torch.diag(torch.tensor([0.1, 1.0, 0.1, 1.0])))
    same = evaluate_mesh(pole, pole, config)
    assert (same.metrics["surface"]["cd_l1"], same.metrics["surface"]["iou"]) == (0.0, 1.0)
    larger = evaluate_mesh(make_sphere(0.55), make_sphere(0.5), config)
    # radii differ by 0.05; voxel means add up to half a voxel
    assert larger.metrics["surface"]["cd_l1"] == pytest.approx(0.05, rel=0.05)
    assert larger.metrics["surface"]["iou"] == pytest.approx(1.1**-3, rel=0.03)
    assert "visible" not in larger.metrics
    assert larger.settings["syncdreamer_rig"]["focal_per_width"] * 256 == 280
    assert any("voxels of 0.01" in note for note in larger.notes)


def test_can_be_cancelled_in_every_stage(solid):
    everything = replace(QUICK, points=500, image_px=16, visible_px=16)
    stages: list[str] = []
    evaluate_mesh(solid, solid, everything, Progress(report=lambda e: stages.append(e.stage)))
    assert set(stages) == {"filling", "observing", "rendering", "comparing"}
    for stage in ["aligning", *sorted(set(stages))]:
        config = replace(everything, align="icp" if stage == "aligning" else "none")
        seen: list[str] = []
        progress = Progress(
            report=lambda event, seen=seen: seen.append(event.stage),
            is_cancelled=lambda seen=seen, stage=stage: stage in seen,
        )
        with pytest.raises(Cancelled):
            evaluate_mesh(solid, solid, config, progress)
        assert seen.count(stage) == 1


def test_report_records_the_settings(self_report):
    assert self_report.protocol == "strict"
    assert self_report.settings["points"] == 20_000
    assert self_report.settings["visible_thresholds"] == [0.005, 0.01]
    assert set(self_report.seconds) == {
        "align",
        "surface",
        "volume",
        "visible",
        "rendering",
        "images",
    }
    assert any("99 dB" in note for note in self_report.notes)


def test_grid_is_returned_unless_images_are_disabled(solid):
    report, grid = evaluate_mesh_with_grid(solid, solid, replace(QUICK, points=500))
    assert report.metrics["images_all"]["psnr"] == 99.0
    assert grid.shape == (4 + 4 * (18 + 32 + 4), 4 + 5 * (32 + 4), 3)
    with pytest.raises(InputError, match="needs images"):
        evaluate_mesh_with_grid(solid, solid, SHAPE_ONLY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", "loose"),
        ("align", "hand"),
        ("reference_up_axis", "X"),
        ("points", 3),
        ("seed", -1),
        ("iou_resolution", 10_000),
        ("image_px", 8),
        ("supersample", 0),
    ],
)
def test_error_names_the_invalid_setting(field, value):
    with pytest.raises(InputError, match=f"evaluate {field} is"):
        EvaluateConfig(**{field: value})
