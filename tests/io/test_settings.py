"""Settings files: round trips, and errors that name the field."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.errors import InputError
from nova3d_core.fusion.config import PRESETS, ConflictConfig, preset_config
from nova3d_core.io.settings import config_from_dict, read_settings, settings_to_json
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.training.checkpoint import read_state
from nova3d_core.training.presets import read_train_config


@pytest.mark.parametrize("name", PRESETS)
def test_preset_round_trip(name, tmp_path):
    config = FuseConfig(fallback="hull", sdf=preset_config(name))
    path = tmp_path / "settings.json"
    path.write_text(settings_to_json(config), encoding="utf-8")
    read = read_settings(path, FuseConfig)
    assert replace(read, sdf=read.sdf.complete()) == config


def test_missing_fields_keep_their_defaults(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"sdf": {"seed": 7, "conflict": {"mode": "off"}}}')
    config = read_settings(path, FuseConfig)
    assert config.sdf.seed == 7
    assert config.sdf.conflict == ConflictConfig(mode="off")
    assert config.bake == FuseConfig().bake


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("{", "not valid JSON"),
        ("[]", "settings is list"),
        ('{"sdff": {}}', "settings.sdff is unknown"),
        ('{"sdf": {"losses": {"colour": "much"}}}', "settings.sdf.losses.colour is 'much'"),
        ('{"sdf": {"seed": true}}', "settings.sdf.seed is True"),
        ('{"sdf": {"levels": []}}', "settings.sdf.levels is unknown"),
        ('{"sdf": {"losses": {"mask": -1}}}', "losses mask is -1"),
        ('{"sdf": {"field": "cube"}}', "sdf field is 'cube'"),
    ],
)
def test_errors_name_the_field_path(text, fragment, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(InputError, match=fragment.replace("[", r"\[")):
        read_settings(path, FuseConfig)


def test_nan_is_out_of_range():
    with pytest.raises(InputError, match="losses mask is nan"):
        config_from_dict({"sdf": {"losses": {"mask": float("nan")}}}, FuseConfig, "settings")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ('{"hull": {"resolution": 64, "resolution": 32}}', "'resolution' occurs twice"),
        ('{"sdf": {"losses": {"mask": NaN}}}', "NaN"),
        ('{"sdf": {"losses": {"mask": 1e999}}}', "too large"),
        ('{"sdf": {"losses": {"mask": Infinity}}}', "Infinity"),
        ('{"sdf": {"seed": ' + "9" * 5000 + "}}", "5000 digits"),
        ('{"sdf": {"seed": 99999999999999999999}}', "sdf seed is 99999999999999999999"),
        ('{"sdf": ' + "[" * 100_000, "not valid JSON"),
        ('{"sdf": ' + '{"sdf":' * 100_000, "not valid JSON"),
        ('{"sdf": {"seed": 1.5}}', "settings.sdf.seed is 1.5"),
        ('{"sdf": {"seed": null}}', "settings.sdf.seed is None"),
        ('{"sdf": {"preset": ["fast"]}}', "settings.sdf.preset is list"),
        ('{"sdf": null}', "settings.sdf is null"),
        ('{"' + "x" * 10_000 + '": 1}', "is unknown"),
        ('{"a\\nb": 1}', r"settings.'a\nb' is unknown"),
        ('{"sdf": {"field": "' + "x" * 10_000 + '"}}', "sdf field is 'x"),
        (b"\xff\xfe\xff", "not valid JSON"),
        (b"\xef\xbb\xbf{}", ""),
    ],
)
def test_unusual_json_gives_one_short_line_naming_the_field(text, fragment, tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if not fragment:
        assert read_settings(path, FuseConfig) == FuseConfig()
        return
    with pytest.raises(InputError) as caught:
        read_settings(path, FuseConfig)
    line = str(caught.value)
    assert fragment in line
    assert len(line.replace(str(path), "")) < 500
    assert "\n" not in line


@dataclass(frozen=True)
class Level:
    """A config with a required field."""

    resolution: int
    steps: int


@dataclass(frozen=True)
class Levels:
    """A tuple of dataclasses."""

    levels: tuple[Level, ...] = ()


def test_tuples_of_dataclasses():
    document = {"levels": [{"resolution": 32, "steps": 3}]}
    assert config_from_dict(document, Levels, "s") == Levels((Level(32, 3),))
    with pytest.raises(InputError, match=r"s\.levels is int"):
        config_from_dict({"levels": 3}, Levels, "s")
    with pytest.raises(InputError, match=r"s\.levels\.0\.steps is missing"):
        config_from_dict({"levels": [{"resolution": 32}]}, Levels, "s")
    with pytest.raises(InputError, match=r"s\.levels\.0 is int"):
        config_from_dict({"levels": [3]}, Levels, "s")


@dataclass(frozen=True)
class Interval:
    """A config with a tuple of fixed length."""

    bounds: tuple[float, float] = (0.0, 1.0)


def test_fixed_length_tuples_and_optional_fields():
    document = {"steps": None, "guidance": {"max_guidance_scale": 3}}
    config = config_from_dict(document, SampleConfig, "s")
    assert (config.steps, config.guidance.max_guidance_scale) == (None, 3.0)
    assert config_from_dict({"bounds": [0, 5]}, Interval, "s") == Interval((0.0, 5))
    with pytest.raises(InputError, match=r"s\.bounds has 3 items, expected 2"):
        config_from_dict({"bounds": [0, 1, 2]}, Interval, "s")
    with pytest.raises(InputError, match=r"s\.steps is 'many', expected int"):
        config_from_dict({"steps": "many"}, SampleConfig, "s")


def test_integers_beyond_float_range_are_rejected_in_toml(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[optimiser]\nlearning_rate = 1" + "0" * 400 + "\n")
    with pytest.raises(InputError, match=r"settings\.optimiser\.learning_rate is too large"):
        read_train_config(str(path))
    path.write_text("[optimiser]\nlearning_rate = nan\n")
    with pytest.raises(InputError, match="training learning_rate is nan"):
        read_train_config(str(path))
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(InputError, match=r"settings\.toml is not valid TOML"):
        read_train_config(str(path))


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ('{"step": "three"}', "progress.step is 'three'"),
        ('{"step": 1e999}', "too large"),
        ("[]", "state.json.progress is list"),
    ],
)
def test_damaged_checkpoint_error_names_the_value(tmp_path, change, fragment):
    state = {"config": {}, "world_size": 1, "data": {}, "ema_updates": 0, "progress": 0}
    text = json.dumps(state).replace('"progress": 0', f'"progress": {change}')
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match=f"{tmp_path} is damaged") as caught:
        read_state(tmp_path)
    assert fragment in str(caught.value)
