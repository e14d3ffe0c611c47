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
from nova3d_core.evaluation.ablation import Ablation, ablate, ablation_configs
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.fusion.config import HullConfig
from nova3d_core.io.mesh.write import write_glb
from nova3d_core.io.views.transforms_json import write_views
from nova3d_core.meshing.config import MeshingConfig, UnwrapConfig
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
"""No view looks at any texel as straight as this asks for: baking fails."""


@pytest.fixture(scope="module")
def views(l_solid) -> Views:
    return render_views(l_solid, orbit_cameras(RigConfig(count=8, width_px=64, height_px=64))).views


@pytest.fixture(scope="module")
def found(l_solid, views) -> Ablation:
    """Two variants whose order of quality is known: the same hull on a fine and a coarse grid."""
    return ablate(views, l_solid, {"full": FINE, "without-detail": COARSE}, EVALUATE)


def test_every_variant_is_fused_from_the_same_views_and_measured_as_evaluate_does(
    found, l_solid, views
):
    assert list(found.outcomes) == ["full", "without-detail"]
    for name, config in (("full", FINE), ("without-detail", COARSE)):
        alone = evaluate_mesh(fuse_views(views, config).mesh, l_solid, EVALUATE)
        assert found.outcomes[name].report.metrics == alone.metrics
    cd = [outcome.report.metrics["visible"]["cd_l1"] for outcome in found.outcomes.values()]
    assert cd[0] < cd[1]


def test_the_table_has_a_row_a_variant_with_its_figures(found):
    heading, _, *rows = found.table().splitlines()
    assert heading.startswith("| variant | CD-L1 | IoU | visible CD-L1 | visible F@.005 | PSNR")
    assert [row.split(" | ")[0] for row in rows] == ["| full", "| without detail"]
    assert all(row.count("|") == heading.count("|") for row in rows)
    visible = found.outcomes["full"].report.metrics["visible"]["cd_l1"]
    assert rows[0].split(" | ")[3] == f"{visible:.4f}"


def test_the_sheet_shows_each_variant_beside_the_truth(found):
    # a row: the name, then at each of two poses truth, result, difference, both normals
    height, width = 18 + 4 + 18 + 48 + 4, 2 * (4 + 5 * 52)
    assert found.sheet.shape == (2 * height, width, 3)

    def cell(row: int, column: int) -> torch.Tensor:
        top, left = row * height + 18 + 4 + 18, 4 + 52 * column + (4 if column > 4 else 0)
        return found.sheet[top : top + 48, left : left + 48]

    for truth in (0, 3, 5, 8):
        assert torch.equal(cell(0, truth), cell(1, truth))
        assert not torch.equal(cell(0, truth), cell(0, truth + 1))
        assert not torch.equal(cell(0, truth + 1), cell(1, truth + 1))
    assert not torch.equal(cell(0, 0), cell(0, 5))
    names = [found.sheet[row * height : row * height + 18] for row in (0, 1)]
    assert all(float(name.min()) < 0.5 for name in names)
    assert not torch.equal(*names)


def test_the_document_is_plain_json(found):
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["full"]["report"]["metrics"] == found.outcomes["full"].report.metrics
    assert document["full"]["failure"] == ""


def test_a_variant_that_fails_is_a_row_that_says_why(l_solid, views):
    found = ablate(views, l_solid, {"full": COARSE, "without-parts": IMPOSSIBLE}, EVALUATE)
    outcome = found.outcomes["without-parts"]
    assert outcome.report is None
    assert "no view sees any part" in outcome.failure
    table = found.table()
    assert "| without parts | - | - |" in table
    assert f"\nwithout parts failed: {outcome.failure}\n" in table
    assert found.sheet.shape[0] == 18 + 4 + 18 + 48 + 4


def test_when_all_fail_the_error_is_the_first_ones(l_solid, views):
    with pytest.raises(StageError, match="no view sees any part"):
        ablate(views, l_solid, {"full": IMPOSSIBLE}, EVALUATE)


def test_progress_names_the_variant_and_cancel_stops_within_it(l_solid, views):
    stages: list[str] = []
    cancel = Progress(
        lambda event: stages.append(event.stage),
        lambda: bool(stages) and stages[-1].startswith("without detail"),
    )
    with pytest.raises(Cancelled):
        ablate(views, l_solid, {"full": COARSE, "without-detail": COARSE}, EVALUATE, cancel)
    assert any(stage == "full: carving" for stage in stages)
    assert sum(stage.startswith("without detail") for stage in stages) == 1


def test_cancel_is_heard_where_a_stage_only_asks(l_solid, views):
    stages: list[str] = []
    asked = Progress(
        lambda event: stages.append(event.stage if event.step == event.total else ""),
        lambda: bool(stages) and stages[-1] == "full: baking",
    )
    with pytest.raises(Cancelled) as caught:
        ablate(views, l_solid, {"full": COARSE}, EVALUATE, asked)
    assert caught.value.stage == "full"  # measuring asks before it has a step to report


def setting(config: FuseConfig, path: str):
    return reduce(getattr, path.split("."), config)


def test_each_variant_changes_what_its_name_says_and_nothing_else():
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
    for name, wanted in changes.items():
        restored = configs[name]
        for path, value in wanted.items():
            assert setting(restored, path) == value != setting(config, path), (name, path)
            restored = _replaced(restored, path.split("."), setting(config, path))
        assert restored == config, name


def _replaced(config, path, value):
    first, *rest = path
    value = _replaced(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: value})


def test_only_the_wanted_variants_in_the_tables_order():
    wanted = ("without-poses", "full")
    assert list(ablation_configs(FuseConfig(), wanted)) == ["full", "without-poses"]


def test_unknown_variants_and_a_fusion_without_parts_are_refused(l_solid, views):
    with pytest.raises(InputError, match="variant 'upside-down' is unknown"):
        ablation_configs(FuseConfig(), ("full", "upside-down"))
    with pytest.raises(InputError, match="fuse method is 'hull'"):
        ablation_configs(FINE)
    with pytest.raises(InputError, match="there are none"):
        ablate(views, l_solid, {}, EVALUATE)


def test_the_command_writes_table_report_and_sheet(l_solid, views, tmp_path, capsys):
    write_views(views, tmp_path / "views")
    truth = write_glb(l_solid, tmp_path / "truth.glb")
    small = dataclasses.replace(FuseConfig(), **_parts_of(FINE))
    command = Ablate(
        tmp_path / "views", truth, tmp_path / "out", ("full", "robust-instead"), small, EVALUATE
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
    assert document["variants"]["full"]["moved"]["rotation_deg_median"] < 1.0
    with pytest.raises(InputError, match="already exists"):
        command.run(SILENT)


def _parts_of(config: FuseConfig) -> dict:
    return {name: getattr(config, name) for name in ("hull", "meshing", "unwrap", "bake")}
