"""Fields marked INTERNAL are for code: no settings file and no command-line option reaches them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass

import pytest
import tyro

from nova3d_core.checks import INTERNAL, public_fields
from nova3d_core.cli import options
from nova3d_core.cli.options import public_options
from nova3d_core.errors import InputError
from nova3d_core.io.settings import config_from_dict, settings_to_json
from nova3d_core.pipeline.config import FuseConfig


@dataclass(frozen=True)
class Inner:
    """Has an internal field."""

    size: int = 2
    """A public field."""
    tuned: float = field(default=0.5, metadata=INTERNAL)
    """An internal field."""


@dataclass(frozen=True)
class Outer:
    """Nests it, with another default of the internal field."""

    inner: Inner = field(default_factory=lambda: Inner(size=4, tuned=0.75))
    """Nested."""
    levels: tuple[Inner, ...] = field(default=(Inner(),), metadata=INTERNAL)
    """An internal tuple of dataclasses."""


def parse(*arguments: str) -> Outer:
    with public_options():
        return tyro.cli(Outer, args=arguments)


def test_only_public_fields_are_listed():
    assert [each.name for each in public_fields(Inner)] == ["size"]
    assert [each.name for each in public_fields(Outer())] == ["inner"]


def leaves(config: object) -> Iterator[str]:
    """Names of the public fields of a config and of the configs inside it."""
    for each in public_fields(config):
        value = getattr(config, each.name)
        yield from leaves(value) if is_dataclass(value) else [each.name]


def test_the_fusion_has_few_public_settings():
    names = list(leaves(FuseConfig()))
    assert len(names) <= 30, names
    assert {"preset", "refine_poses", "target_faces", "texture_px"} <= set(names)
    assert not {"levels", "min_rays", "ray_chunk_size", "lambda0_end", "time_limit_s"} & set(names)


def test_settings_files_leave_internal_fields_out():
    assert json.loads(settings_to_json(Outer())) == {"inner": {"size": 4}}


def test_settings_files_with_an_internal_field_are_refused():
    assert config_from_dict({"inner": {"size": 3}}, Outer, "settings").inner == Inner(size=3)
    with pytest.raises(InputError, match=r"settings\.inner\.tuned is unknown\. Use one of size\."):
        config_from_dict({"inner": {"tuned": 0.1}}, Outer, "settings")
    with pytest.raises(InputError, match=r"settings\.levels is unknown"):
        config_from_dict({"levels": []}, Outer, "settings")


def test_command_line_keeps_the_internal_fields_of_the_default():
    assert parse() == Outer()
    assert parse("--inner.size", "3").inner == Inner(size=3, tuned=0.75)


def test_command_line_has_no_option_for_internal_fields(capsys):
    for option in ("--inner.tuned", "--levels"):
        with pytest.raises(SystemExit):
            parse(option, "1")
        assert "nrecognized" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "--inner.size" in shown
    assert "A public field." in shown
    assert "tuned" not in shown
    assert "levels" not in shown


def test_help_texts_stay_strings_for_tyro_before_1_0():
    assert options._joined_lines("a\n  b") == "a b"
    assert options._joined_lines(None) is None
    assert options._joined_lines(lambda: "a\n  b")() == "a b"


def test_spec_is_looked_up_on_the_instance_for_tyro_before_0_9_3(monkeypatch):
    class Older(options.ConstructorRegistry):
        def get_struct_spec(self, info):
            return super().get_struct_spec(info)

    monkeypatch.setattr(options, "ConstructorRegistry", Older)
    assert parse("--inner.size", "3").inner == Inner(size=3, tuned=0.75)
