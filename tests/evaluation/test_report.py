from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nova3d_core
from nova3d_core.errors import InputError
from nova3d_core.evaluation.comparison_grid import comparison_grid, nearest_views
from nova3d_core.evaluation.metrics.image import evaluation_cameras
from nova3d_core.evaluation.report import Report, format_metrics, markdown_table
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views


def report(cd_l1: float, iou: float | None, protocol: str = "strict", **more) -> Report:
    surface = {"cd_l1": cd_l1, "iou": iou, "watertight": iou is not None}
    return Report(protocol, {"surface": surface, **more}, {"seed": 0}, {"surface": 1.5}, ("n",))


def parsed(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_json_round_trips():
    original = report(0.01, None, images_all={"psnr": 21.25})
    again = Report.from_json(original.to_json())
    assert again == original
    assert json.loads(original.to_json())["metrics"]["surface"]["iou"] is None


def test_json_rejects_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        report(float("nan"), None).to_json()


@pytest.mark.parametrize("text", ["{", "[1]", '{"protocol": "strict", "metrics": {}}'])
def test_rejects_other_documents(text):
    with pytest.raises(InputError, match="not an evaluation report"):
        Report.from_json(text)


def test_table_has_a_row_per_report_and_means_of_existing_values():
    table = markdown_table(
        {
            "mug": report(0.01, 0.5, images_all={"psnr": 20.0}),
            "a|b": report(0.02, None, images_all={"psnr": 30.0}),
        }
    )
    assert parsed(table.replace("a\\|b", "a/b")) == [
        ["object", "CD-L1", "IoU", "watertight", "PSNR"],
        ["---", "---:", "---:", "---:", "---:"],
        ["mug", "0.0100", "0.500", "yes", "20.00"],
        ["a/b", "0.0200", "-", "no", "30.00"],
        ["mean", "0.0150", "0.500 (1)", "1 of 2", "25.00"],
    ]


def test_single_report_has_no_mean():
    assert len(parsed(markdown_table({"mug": report(0.01, 0.5)}))) == 3


def test_formatted_metrics_are_aligned():
    lines = format_metrics(report(0.0123, None)).splitlines()
    cells = parsed(markdown_table({"a": report(0.0123, None)}))
    assert [line.rsplit(maxsplit=1) for line in lines] == [
        list(pair) for pair in zip(cells[0][1:], cells[2][1:], strict=True)
    ]
    assert len({len(line) for line in lines}) == 1


def test_rejects_a_table_of_different_protocols():
    with pytest.raises(InputError, match="cannot share a table"):
        markdown_table({"a": report(0.1, 0.5), "b": report(0.1, 0.5, "syncdreamer")})
    with pytest.raises(InputError, match="needs reports"):
        markdown_table({})


@pytest.fixture(scope="module")
def renderings(l_solid):
    cameras, config = evaluation_cameras(48), RenderConfig(supersample=1)
    mirrored = l_solid.transformed(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])))
    return tuple(render_views(mesh, cameras, config) for mesh in (l_solid, mirrored))


def test_grid_shows_front_back_above_and_below(renderings):
    cameras = renderings[0].views.cameras
    rows = nearest_views(renderings[0].views)
    elevations = [round(float(cameras.elevation_deg[row])) for row in rows]
    assert elevations == [0, 0, 25, -25]
    azimuths = [float(cameras.azimuth_deg[row]) for row in rows]
    assert min(azimuths[0], 360 - azimuths[0]) == pytest.approx(11.25, abs=1e-3)
    assert abs(azimuths[1] - 180) == pytest.approx(11.25, abs=1e-3)


def test_grid_row_has_five_images(renderings):
    truth, result = renderings
    grid = comparison_grid(truth, result, rows=[3, 20], difference_factor=2.0)
    assert grid.shape == (4 + 2 * (18 + 48 + 4), 4 + 5 * (48 + 4), 3)
    top = 4 + 70 + 18  # the second row
    cells = [grid[top : top + 48, 4 + 52 * i : 52 + 52 * i] for i in range(5)]
    difference = (truth.views.colour[20] - result.views.colour[20]).abs() * 2
    expected = [truth.views.colour[20], result.views.colour[20], difference.clamp(0, 1)]
    for cell, image in zip(cells, expected, strict=False):
        assert float((cell - image).abs().max()) <= 0.5 / 255 + 1e-6
    inside = truth.views.masks[20] == 1
    normals = 0.5 * truth.views.normals[20][inside] + 0.5
    assert float((cells[3][inside] - normals).abs().max()) <= 0.5 / 255 + 1e-6
    assert bool((cells[3][truth.views.masks[20] == 0] == 1).all())


def test_identical_meshes_have_no_difference(renderings):
    grid = comparison_grid(renderings[0], renderings[0], rows=[0])
    assert bool((grid[22:70, 108:156] == 0).all())


def test_every_cell_has_a_label(renderings):
    grid = comparison_grid(*renderings, rows=[0, 16])
    for row in range(2):
        for column in range(5):
            top, left = 4 + 70 * row, 4 + 52 * column
            assert float(grid[top : top + 18, left : left + 48].min()) < 0.1


def test_rejects_different_views(renderings, l_solid):
    few = render_views(l_solid, evaluation_cameras(48)[:3], RenderConfig(supersample=1))
    with pytest.raises(InputError, match="same views"):
        comparison_grid(renderings[0], few)


def test_config_and_report_import_without_torch():
    code = (
        "import sys, nova3d_core.evaluation.config, nova3d_core.evaluation.report; "
        "assert not {'torch', 'numpy', 'scipy', 'trimesh'} & set(sys.modules)"
    )
    package = Path(nova3d_core.__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=package, check=True)
