"""The model that ships with the package: found by its name, listed, missed with a clear line."""

from __future__ import annotations

import json

import pytest
import torch

from nova3d_core.cli.models_table import models_report, models_text
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.errors import InputError
from nova3d_core.training.data.object_sources import held_out_objects
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.validation import mean_over_unseen_views, validate, view_metrics
from nova3d_core.weights.discovery import built_in
from nova3d_core.weights.discovery.built_in import (
    FILE,
    NAME,
    RECOMMENDED,
    is_shipped,
    recommended_files,
    resolve_model_file,
)
from nova3d_core.weights.discovery.locate import inspect_file
from nova3d_core.weights.discovery.registry import KNOWN_FILES
from nova3d_core.weights.load import load_model
from nova3d_core.weights.save import save_nova3d

from .models import assert_same, mini_model, random_model, states

MOST_BYTES = 16_000_000


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package with a small model inside."""
    path = tmp_path / "package" / FILE.name
    path.parent.mkdir()
    save_nova3d(mini_model(), path, note="ships with this package")
    monkeypatch.setattr(built_in, "FILE", path)
    return path


@pytest.fixture
def missing(tmp_path, monkeypatch):
    """A package without it."""
    path = tmp_path / FILE.name
    monkeypatch.setattr(built_in, "FILE", path)
    return path


def test_its_name_stands_for_it(shipped):
    assert resolve_model_file(NAME) == shipped
    loaded = load_model(NAME)
    assert loaded.family is FAMILIES[NAME]
    assert_same(states(loaded), states(mini_model()))


def test_a_file_of_that_name_comes_first(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_nova3d(random_model("sv3d_u"), tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").rename(NAME)
    assert str(resolve_model_file(NAME)) == NAME


def test_where_it_is_missing_one_line_says_so(missing):
    for find in (resolve_model_file, load_model):
        with pytest.raises(InputError, match="is not in this copy of the package") as caught:
            find(NAME)
        assert str(missing) in str(caught.value)


def test_other_names_are_looked_for_below_the_folders(tmp_path):
    inside = tmp_path / "models" / "deep"
    inside.mkdir(parents=True)
    (inside / "some.safetensors").write_bytes(b"")
    assert resolve_model_file("some.safetensors", [tmp_path]) == inside / "some.safetensors"
    assert str(resolve_model_file("none.safetensors", [tmp_path])) == "none.safetensors"


def test_the_models_command_lists_it_as_built_in(shipped, tmp_path):
    report = models_report([tmp_path / "package"])
    assert json.loads(json.dumps(report)) == report
    row = report["built_in"]
    assert (row["name"], row["family"], row["problem"]) == (NAME, NAME, None)
    assert row["bytes"] == shipped.stat().st_size
    text = models_text(report)
    assert text.startswith(f"Built in: {NAME}")
    for said in ("simple synthetic objects", "ships with this package"):
        assert said in text


def test_the_models_command_says_that_it_is_missing(missing, tmp_path):
    report = models_report([tmp_path])
    assert report["built_in"] is None
    assert "is not in this copy of the package" in models_text(report)


def test_better_files_are_published_ones():
    assert {known.name for known in KNOWN_FILES} >= set(RECOMMENDED)
    assert all(name in recommended_files() for name in RECOMMENDED)


def test_what_ships_is_whole_and_small():
    assert is_shipped()
    found = inspect_file(FILE)
    assert (found.problem, found.family) == (None, NAME)
    assert found.bytes <= MOST_BYTES
    model = load_model(NAME)
    assert model.family is FAMILIES[NAME]


def test_what_ships_knows_objects_that_it_never_saw():
    """Better than the front's own images from all sides would be."""
    model = load_model(NAME)
    truths = held_out_objects(read_train_config("mini"), model.family, 3)
    found = validate(model, truths, OneDevice(model, torch.device("cpu")))
    assert len(found.objects) == 3
    for truth, painted in zip(truths, found.painted, strict=True):
        front = torch.stack([truth.colour, truth.normal])[:, :1].expand_as(painted)
        ours, copies = (
            mean_over_unseen_views(view_metrics(each, truth)) for each in (painted, front)
        )
        assert ours["psnr"] > copies["psnr"] + 0.5
        assert ours["normal_error_deg"] < 0.6 * copies["normal_error_deg"]
        assert ours["silhouette_iou"] > 0.6
        assert ours["agreement_iou"] > 0.8
