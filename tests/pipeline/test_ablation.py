from __future__ import annotations

import dataclasses
import json
from functools import reduce

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.cli.ablate import ABLATION_FILES, Ablate
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.fusion.config import HullConfig
from nova3d_core.io.mesh.write import write_glb
from nova3d_core.io.views.transforms_json import write_views
from nova3d_core.meshing.config import MeshingConfig, UnwrapConfig
from nova3d_core.pipeline.ablation import Ablation, ablate, ablation_configs
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.progress import SILENT, Progress
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.views import Views

EVALUATE = EvaluateConfig(points=2000, iou_resolution=24, visible_px=32, image_px=48)
FINE = FuseConfig(
    method="hull",
    hull=HullConfig(resolution=48),
    meshing=MeshingConfig(target_faces=1500),
    unwrap=UnwrapConfig(method="box"),
    bake=BakeConfig(texture_px=128),
)
COARSE = dataclasses.replace(FINE, hull=HullConfig(resolution=16))
IMPOSSIBLE = dataclasses.replace(FINE, bake=BakeConfig(texture_px=128, min_cosine=0.9999999))
"""No view sees any texel at such a small angle: baking fails."""


@pytest.fixture(scope="module")
def views(l_solid) -> Views:
    return render_views(l_solid, orbit_cameras(RigConfig(count=8, width_px=64, height_px=64))).views


@pytest.fixture(scope="module")
def ablation(l_solid, views) -> Ablation:
    """Two variants of known order of quality: the hull on a fine and on a coarse grid."""
    return ablate(views, l_solid, {"full": FINE, "without-detail": COARSE}, EVALUATE)


def test_each_variant_uses_the_same_views_and_evaluation(ablation, l_solid, views):
    assert list(ablation.results) == ["full", "without-detail"]
    for name, config in (("full", FINE), ("without-detail", COARSE)):
        alone = evaluate_mesh(fuse_views(views, config).mesh, l_solid, EVALUATE)
        assert ablation.results[name].report.metrics == alone.metrics
    cd = [result.report.metrics["visible"]["cd_l1"] for result in ablation.results.values()]
    assert cd[0] < cd[1]


def test_table_has_one_row_per_variant(ablation):
    heading, _, *rows = ablation.table().splitlines()
    assert heading.startswith("| variant | CD-L1 | IoU | visible CD-L1 | visible F@.005 | PSNR")
    assert [row.split(" | ")[0] for row in rows] == ["| full", "| without detail"]
    assert all(row.count("|") == heading.count("|") for row in rows)
    visible = ablation.results["full"].report.metrics["visible"]["cd_l1"]
    assert rows[0].split(" | ")[3] == f"{visible:.4f}"


def test_grid_shows_each_variant_next_to_the_reference(ablation):
    # a row: the name, then for each of two poses reference, result, difference, both normals
    height, width = 18 + 4 + 18 + 48 + 4, 2 * (4 + 5 * 52)
    assert ablation.grid.shape == (2 * height, width, 3)

    def cell(row: int, column: int) -> torch.Tensor:
        top, left = row * height + 18 + 4 + 18, 4 + 52 * column + (4 if column > 4 else 0)
        return ablation.grid[top : top + 48, left : left + 48]

    for truth in (0, 3, 5, 8):
        assert torch.equal(cell(0, truth), cell(1, truth))
        assert not torch.equal(cell(0, truth), cell(0, truth + 1))
        assert not torch.equal(cell(0, truth + 1), cell(1, truth + 1))
    assert not torch.equal(cell(0, 0), cell(0, 5))
    names = [ablation.grid[row * height : row * height + 18] for row in (0, 1)]
    assert all(float(name.min()) < 0.5 for name in names)
    assert not torch.equal(*names)


def test_document_is_plain_json(ablation):
    document = json.loads(json.dumps(ablation.to_dict(), allow_nan=False))
    assert document["full"]["report"]["metrics"] == ablation.results["full"].report.metrics
    assert document["full"]["failure"] == ""


def test_failed_variant_is_a_row_with_its_error(l_solid, views):
    ablation = ablate(views, l_solid, {"full": COARSE, "without-parts": IMPOSSIBLE}, EVALUATE)
    result = ablation.results["without-parts"]
    assert result.report is None
    assert "no view sees any part" in result.failure
    table = ablation.table()
    assert "| without parts | - | - |" in table
    assert f"\nwithout parts failed: {result.failure}\n" in table
    assert ablation.grid.shape[0] == 18 + 4 + 18 + 48 + 4


def test_raises_the_first_error_if_all_variants_fail(l_solid, views):
    with pytest.raises(StageError, match="no view sees any part"):
        ablate(views, l_solid, {"full": IMPOSSIBLE}, EVALUATE)


def test_progress_names_the_variant_and_cancel_stops_it(l_solid, views):
    stages: list[str] = []
    cancel = Progress(
        lambda event: stages.append(event.stage),
        lambda: bool(stages) and stages[-1].startswith("without detail"),
    )
    with pytest.raises(Cancelled):
        ablate(views, l_solid, {"full": COARSE, "without-detail": COARSE}, EVALUATE, cancel)
    assert any(stage == "full: carving" for stage in stages)
    assert sum(stage.startswith("without detail") for stage in stages) == 1


def test_cancel_works_in_stages_that_only_poll(l_solid, views):
    stages: list[str] = []
    cancel = Progress(
        lambda event: stages.append(event.stage if event.step == event.total else ""),
        lambda: bool(stages) and stages[-1] == "full: baking",
    )
    with pytest.raises(Cancelled) as caught:
        ablate(views, l_solid, {"full": COARSE}, EVALUATE, cancel)
    assert caught.value.stage == "full"  # the evaluation polls before it reports a step


def setting(config: FuseConfig, path: str):
    return reduce(getattr, path.split("."), config)


def test_each_variant_overrides_only_its_own_settings():
    config = FuseConfig()
    configs = ablation_configs(config)
    changes = {
        "full": {},
        "without-conflict": {"sdf.conflict.mode": "off"},
        "robust-instead": {"sdf.conflict.mode": "robust"},
        "without-poses": {"sdf.refine_poses": False},
        "without-normals": {"sdf.losses.normal": 0.0, "sdf.use_normals": False},
        "without-hull-start": {"sdf.init": "sphere"},
    }
    assert list(configs) == list(changes)
    for name, overrides in changes.items():
        restored = configs[name]
        for path, value in overrides.items():
            assert setting(restored, path) == value != setting(config, path), (name, path)
            restored = _replaced(restored, path.split("."), setting(config, path))
        assert restored == config, name


def _replaced(config, path, value):
    first, *rest = path
    value = _replaced(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: value})


def test_selected_variants_keep_the_order_of_the_table():
    selected = ("without-poses", "full")
    assert list(ablation_configs(FuseConfig(), selected)) == ["full", "without-poses"]


def test_rejects_unknown_variants_and_the_hull_method(l_solid, views):
    with pytest.raises(InputError, match="variant 'upside-down' is unknown"):
        ablation_configs(FuseConfig(), ("full", "upside-down"))
    with pytest.raises(InputError, match="fuse method is 'hull'"):
        ablation_configs(FINE)
    with pytest.raises(InputError, match="there are none"):
        ablate(views, l_solid, {}, EVALUATE)


def test_command_writes_table_report_and_grid(l_solid, views, tmp_path, capsys):
    write_views(views, tmp_path / "views")
    truth = write_glb(l_solid, tmp_path / "truth.glb")
    settings = dataclasses.replace(FuseConfig(), **_common_settings(FINE))
    command = Ablate(
        tmp_path / "views", truth, tmp_path / "out", ("full", "robust-instead"), settings, EVALUATE
    )
    command.run(SILENT)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".nova3d.json",
        *sorted(ABLATION_FILES),
    ]
    table = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out == table
    assert "| robust instead |" in table
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(document["variants"]) == ["full", "robust-instead"]
    assert document["variants"]["full"]["pose_change"]["rotation_deg_median"] < 1.0
    with pytest.raises(InputError, match="already exists"):
        command.run(SILENT)


def _common_settings(config: FuseConfig) -> dict:
    return {name: getattr(config, name) for name in ("hull", "meshing", "unwrap", "bake")}
