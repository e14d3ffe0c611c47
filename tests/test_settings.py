"""Settings files: what is written comes back, and mistakes are named by their place."""

from __future__ import annotations

import json

import pytest

from nova3d_core.errors import InputError
from nova3d_core.fusion.sdf_config import PRESETS, preset_config
from nova3d_core.pipeline_config import FuseConfig
from nova3d_core.settings import read_settings, settings_text


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_settings_come_back_equal(name, tmp_path):
    config = FuseConfig(fallback="hull", sdf=preset_config(name))
    path = tmp_path / "settings.json"
    path.write_text(settings_text(config), encoding="utf-8")
    assert read_settings(path, FuseConfig) == config


def test_what_a_file_leaves_out_keeps_its_default(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(
        '{"sdf": {"seed": 7, "levels": [{"resolution": 32, "steps": 3, "ray_share": 1}]}}'
    )
    config = read_settings(path, FuseConfig)
    assert config.sdf.seed == 7
    assert config.sdf.total_steps == 3
    assert config.bake == FuseConfig().bake


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "settings is list"),
        ('{"sdff": {}}', "settings.sdff is unknown"),
        ('{"sdf": {"loss": {"colour": "much"}}}', "settings.sdf.loss.colour is 'much'"),
        ('{"sdf": {"seed": true}}', "settings.sdf.seed is True"),
        ('{"sdf": {"levels": 3}}', "settings.sdf.levels is int"),
        ('{"sdf": {"loss": {"mask": -1}}}', "loss mask is -1"),
        ('{"sdf": {"field": "cube"}}', "sdf field is 'cube'"),
    ],
)
def test_mistakes_are_named_by_their_place(text, words, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        read_settings(path, FuseConfig)


def test_nan_is_out_of_every_range(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"sdf": {"loss": {"mask": float("nan")}}}))
    with pytest.raises(InputError, match="loss mask is nan"):
        read_settings(path, FuseConfig)
