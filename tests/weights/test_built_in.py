"""The model that ships with the package: found by name, listed, or reported as missing."""

from __future__ import annotations

import json

import pytest
import torch

from nova3d_core.cli.models_table import models_report, models_text
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.errors import InputError
from nova3d_core.training.object_sources import held_out_objects
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.validation import mean_over_unseen_views, validate, view_metrics
from nova3d_core.weights.discovery import built_in
from nova3d_core.weights.discovery.built_in import (
    BUILT_IN_NAME,
    FILE,
    RECOMMENDED,
    is_shipped,
    recommended_files,
    resolve_model_file,
)
from nova3d_core.weights.discovery.locate import inspect_file
from nova3d_core.weights.discovery.registry import PUBLISHED_FILES
from nova3d_core.weights.load import load_model
from nova3d_core.weights.save import save_nova3d

from .models import assert_same, mini_model, random_model, states

MAX_BYTES = 16_000_000


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package that contains a small model."""
    path = tmp_path / "package" / FILE.name
    path.parent.mkdir()
    save_nova3d(mini_model(), path, note="ships with this package")
    monkeypatch.setattr(built_in, "FILE", path)
    return path


@pytest.fixture
def missing(tmp_path, monkeypatch):
    """A package that does not contain the model."""
    path = tmp_path / FILE.name
    monkeypatch.setattr(built_in, "FILE", path)
    return path


def test_built_in_name_resolves_to_the_shipped_file(shipped):
    assert resolve_model_file(BUILT_IN_NAME) == shipped
    loaded = load_model(BUILT_IN_NAME)
    assert loaded.family is FAMILIES[BUILT_IN_NAME]
    assert_same(states(loaded), states(mini_model()))


def test_a_file_with_the_built_in_name_takes_precedence(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_nova3d(random_model("sv3d_u"), tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").rename(BUILT_IN_NAME)
    assert str(resolve_model_file(BUILT_IN_NAME)) == BUILT_IN_NAME


def test_reports_a_missing_built_in_model(missing):
    for find in (resolve_model_file, load_model):
        with pytest.raises(InputError, match="is not in this copy of the package") as caught:
            find(BUILT_IN_NAME)
        assert str(missing) in str(caught.value)


def test_other_names_are_searched_below_the_folders(tmp_path):
    inside = tmp_path / "models" / "deep"
    inside.mkdir(parents=True)
    (inside / "some.safetensors").write_bytes(b"")
    assert resolve_model_file("some.safetensors", [tmp_path]) == inside / "some.safetensors"
    assert str(resolve_model_file("none.safetensors", [tmp_path])) == "none.safetensors"


def test_models_command_lists_the_built_in_model(shipped, tmp_path):
    report = models_report([tmp_path / "package"])
    assert json.loads(json.dumps(report)) == report
    row = report["built_in"]
    assert (row["name"], row["family"], row["problem"]) == (BUILT_IN_NAME, BUILT_IN_NAME, None)
    assert row["bytes"] == shipped.stat().st_size
    text = models_text(report)
    assert text.startswith(f"Built in: {BUILT_IN_NAME}")
    for phrase in ("simple synthetic objects", "ships with this package"):
        assert phrase in text


def test_models_command_reports_a_missing_built_in_model(missing, tmp_path):
    report = models_report([tmp_path])
    assert report["built_in"] is None
    assert "is not in this copy of the package" in models_text(report)


def test_recommended_files_are_published():
    assert {published.name for published in PUBLISHED_FILES} >= set(RECOMMENDED)
    assert all(name in recommended_files() for name in RECOMMENDED)


def test_shipped_model_is_complete_and_small():
    assert is_shipped()
    found = inspect_file(FILE)
    assert (found.problem, found.family) == (None, BUILT_IN_NAME)
    assert found.bytes <= MAX_BYTES
    model = load_model(BUILT_IN_NAME)
    assert model.family is FAMILIES[BUILT_IN_NAME]


def test_shipped_model_generalises_to_held_out_objects():
    """Its views are better than copies of the front view."""
    model = load_model(BUILT_IN_NAME)
    truths = held_out_objects(read_train_config("mini"), model.family, 3)
    found = validate(model, truths, OneDevice(model, torch.device("cpu")))
    assert len(found.objects) == 3
    for truth, generated in zip(truths, found.generated, strict=True):
        front = torch.stack([truth.colour, truth.normal])[:, :1].expand_as(generated)
        ours, copies = (
            mean_over_unseen_views(view_metrics(each, truth)) for each in (generated, front)
        )
        assert ours["psnr"] > copies["psnr"] + 0.5
        assert ours["normal_error_deg"] < 0.6 * copies["normal_error_deg"]
        assert ours["silhouette_iou"] > 0.6
        assert ours["agreement_iou"] > 0.8
